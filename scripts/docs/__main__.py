"""Build the documentation site into site/: `make docs`. Exits with 1 for a broken link."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from scripts.docs.pages import REPOSITORY, write_pages
from scripts.docs.reference import GENERATED


def build(work: Path, repository: Path = REPOSITORY) -> Path:
    """Build the site below a folder that is emptied first, and return it. Raises `CalledProcessError`."""
    shutil.rmtree(work, ignore_errors=True)
    write_pages(work / "docs", GENERATED, repository)
    shutil.copy(repository / "zensical.toml", work)
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=work, check=True)
    return work / "site"


def main() -> int:
    """Build the site, put it in its place, and print where it is."""
    try:
        built = build(REPOSITORY / "build/docs")
    except subprocess.CalledProcessError:
        return 1
    site = REPOSITORY / "site"
    shutil.rmtree(site, ignore_errors=True)
    built.rename(site)
    print(site / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
