"""The package for Fedora and its relatives."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from scripts.dist.pinned import REPOSITORY
from scripts.dist.tree import PYTHON


def build_rpm(tree: Path, version: str, into: Path, *, level: int = 10) -> Path:
    """Build the package from a tree of files and return its path."""
    with tempfile.TemporaryDirectory(dir=tree.parent) as top:  # on the same disk: the files are linked, not copied
        defined = {"_topdir": top, "_rpmdir": f"{top}/RPMS", "tree": str(tree), "python": PYTHON}
        defined["_binary_payload"] = f"w{level}.zstdio"
        defines = [f"--define={name} {value}" for name, value in {**defined, "release_version": version}.items()]
        spec = REPOSITORY / "release/rpm/data-connector-mirror.spec"
        subprocess.run(["rpmbuild", "--quiet", "-bb", *defines, spec], check=True, stdout=subprocess.DEVNULL)
        (built,) = Path(top, "RPMS").rglob("*.rpm")
        path = into / built.name
        path.write_bytes(built.read_bytes())
    return path
