"""Build the files of a release: `python -m scripts.dist --wheels FOLDER [--into FOLDER] [KIND …]`."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from dcsync import __version__
from scripts.dist.deb import build_deb
from scripts.dist.pinned import REPOSITORY
from scripts.dist.pyz import build_pyz
from scripts.dist.rpm import build_rpm
from scripts.dist.tree import make_tree

KINDS = ("sdist", "wheel", "requirements", "deb", "rpm", "pyz")


def main() -> None:
    """Build each kind and print its path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)} [all]")
    parser.add_argument("--wheels", type=Path, required=True, help="requirements.txt, and the files of all of them")
    parser.add_argument("--into", type=Path, default=REPOSITORY / "dist")
    options = parser.parse_args()
    kinds = options.kinds or KINDS
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    options.into.mkdir(exist_ok=True)
    if "sdist" in kinds:
        print(*SdistBuilder(str(REPOSITORY)).build(directory=str(options.into), versions=["standard"]))
    (wheel,) = WheelBuilder(str(REPOSITORY)).build(directory=str(options.into), versions=["standard"])
    print(wheel)
    if "requirements" in kinds:  # the image installs them
        print(shutil.copy(options.wheels / "requirements.txt", options.into))
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        if {"deb", "rpm"} & set(kinds):
            make_tree(tree, wheel=Path(wheel), wheels=options.wheels)
        if "deb" in kinds:
            print(build_deb(tree, __version__, options.into))
        if "rpm" in kinds:
            print(build_rpm(tree, __version__, options.into))
    if "pyz" in kinds:
        print(build_pyz(Path(wheel), options.wheels, options.into))


if __name__ == "__main__":
    main()
