"""The folders and locks of loads, in `.dcsync/load`. A module of its own, because every start clears the folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dcsync.errors import DcsyncError, DiskError, MirrorLocked, MirrorTampered
from dcsync.mirror import disk
from dcsync.mirror.root import OWN_FOLDER, FileLock, MirrorRoot

#: The folder for locks and unfinished files.
FOLDER: Final = f"{OWN_FOLDER}/load"
_WORK: Final = ".work"


def load_lock(root: MirrorRoot, name: str) -> FileLock:
    """Return the lock of a load. Raises `DiskError` if its folder cannot be used."""
    with root.folder(FOLDER, create=True):
        return FileLock(root.path / FOLDER / f"{name}.lock", f"the load {name}", role=None)


@contextmanager
def work_folder(root: MirrorRoot, name: str) -> Iterator[Path]:
    """Give an empty folder for the files of a load. What a killed load left there is removed."""
    with root.folder(FOLDER, create=True) as parent:
        _remove(name, parent)
        with root.folder(f"{FOLDER}/{name}{_WORK}", create=True):
            pass
        try:
            yield root.path / FOLDER / f"{name}{_WORK}"
        finally:
            _remove(name, parent)


def clear_work(root: MirrorRoot) -> list[DcsyncError]:
    """Remove what killed loads left, also of those that are no longer configured. A load that runs is left alone.

    Blocks. Returns what could not be removed.
    """
    errors: list[DcsyncError] = []
    try:
        with root.folder(FOLDER) as parent:
            with disk.disk_errors(f"reading {FOLDER}"), os.scandir(parent) as entries:
                leaves = sorted(entry.name for entry in entries)
            for name in [leaf.removesuffix(_WORK) for leaf in leaves if leaf.endswith(_WORK)]:
                try:
                    with load_lock(root, name):
                        _remove(name, parent)
                except MirrorLocked:
                    continue
                except (DiskError, MirrorTampered) as error:
                    errors.append(error)
    except FileNotFoundError:
        pass
    except (DiskError, MirrorTampered) as error:
        errors.append(error)
    return errors


def _remove(name: str, parent: int) -> None:
    with disk.disk_errors(f"clearing {FOLDER}/{name}{_WORK}"):
        disk.remove_tree(f"{name}{_WORK}", parent)
