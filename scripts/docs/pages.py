"""The pages of the site: those of docs/, with their generated parts filled in, and some documents of the repository."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).parents[2]
#: Documents outside of docs/ that are pages, too.
ADDED: Final = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
}
#: Where links to other files of the repository lead.
ELSEWHERE: Final = {"README.md": "index.md", "config.example.toml": "reference/configuration.md"}

_MARKER: Final = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)
_LINK: Final = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def write_pages(folder: Path, generated: Mapping[str, Callable[[], str]], repository: Path = REPOSITORY) -> None:
    """Write all pages and images into a new folder. Raises `KeyError` for a marker that names nothing generated."""
    sources = {path.relative_to(repository).as_posix(): path for path in (repository / "docs").rglob("*.*")}
    pages = {source: source.removeprefix("docs/") for source in sources} | ADDED
    for source, page in pages.items():
        target = folder / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if not page.endswith(".md"):
            target.write_bytes(sources[source].read_bytes())
            continue
        text = (repository / source).read_text(encoding="utf-8")
        text = _MARKER.sub(lambda marker: generated[marker[1]](), text)
        target.write_text(_relinked(text, source, page, pages | ELSEWHERE), encoding="utf-8")


def _relinked(text: str, source: str, page: str, pages: Mapping[str, str]) -> str:
    """Return the text of a page with links to where the site has the files that the repository's links lead to."""

    def link(found: re.Match[str]) -> str:
        target = os.path.normpath(Path(source).parent / found[1])
        return os.path.relpath(pages[target], Path(page).parent) if target in pages else found[1]

    return _LINK.sub(link, text)
