"""The files of a release, built once for all tests. tests/conftest.py has the fixtures for every module."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import pytest

from dcsync import __version__

REPOSITORY: Final = Path(__file__).parents[2]
#: What pip would download, as pinned.
WHEELS: Final = Path(sys.prefix) / "wheels"

# The builders are imported when they are needed: every worker imports this module.


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of dcsync."""
    from hatchling.builders.wheel import WheelBuilder

    assert (WHEELS / "requirements.txt").exists(), "run: make .venv/.wheels (it downloads the pinned packages)"
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = WheelBuilder(str(REPOSITORY)).build(directory=str(folder), versions=["standard"])
    return Path(path)


@pytest.fixture(scope="session")
def tree(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what the packages install."""
    from scripts.dist.tree import make_tree

    folder = tmp_path_factory.mktemp("tree")
    make_tree(folder / "tree", wheel=wheel, wheels=WHEELS)
    return folder / "tree"


@pytest.fixture(scope="session")
def packages(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two versions of the .deb, and the .rpm."""
    from scripts.dist.deb import build_deb
    from scripts.dist.rpm import build_rpm
    from scripts.dist.tree import HOME

    folder = tmp_path_factory.mktemp("packages")
    for name, version in (("first", __version__), ("second", f"{__version__}+1")):
        (tree / HOME / name).touch()
        build_deb(tree, version, folder, level=1).rename(folder / f"{name}.deb")
        (tree / HOME / name).unlink()
    build_rpm(tree, __version__, folder, level=1).rename(folder / "dcsync.rpm")
    return folder
