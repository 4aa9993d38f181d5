"""Mirrors within each other, and snapshots in a root without an instance ID. Nothing is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dcsync.core import names
from dcsync.core.system_files import is_system_name
from dcsync.errors import DiskError, MirrorForeign, MirrorTampered
from dcsync.mirror import disk
from dcsync.mirror.root import INSTANCE, OWN_FOLDER, MirrorRoot

#: A root with more folders than this is searched no further: it may be the wrong disk.
_MOST_FOLDERS = 2000


def refuse_outer(root: MirrorRoot) -> None:
    """Raise `MirrorForeign` if the root is inside another mirror, which would take its snapshots for its own."""
    above = outer_mirror(root)
    if above is not None:
        message = f"{root.path} is inside the mirror {above}"
        raise MirrorForeign(message, hint="choose a folder outside of it for mirror.root")


def outer_mirror(root: MirrorRoot) -> Path | None:
    """Return the root of the mirror around this one. Blocks."""
    parents = Path(os.path.realpath(root.path)).parents
    return next((above for above in parents if _is_file(above / OWN_FOLDER / INSTANCE)), None)


def refuse_inner(root: MirrorRoot) -> None:
    """Raise `MirrorForeign` if another mirror is inside the root. Only the first folders are searched."""
    inner = next((folder for folder, entries in _folders(root) if folder and _is_mirror(root, folder, entries)), None)
    if inner is not None:
        message = f"{root.path / inner} is a mirror of its own"
        raise MirrorForeign(message, hint="choose a folder for mirror.root that contains no other mirror")


def refuse_of_other(root: MirrorRoot, folder: str) -> None:
    """Raise `MirrorTampered` if a snapshot's folder is in another mirror, which only that mirror may change."""
    parts = folder.split("/")
    for depth in range(1, len(parts)):
        above = "/".join(parts[:depth])
        if is_other_mirror(root, above):
            message = f"{folder} belongs to the mirror {root.path / above}"
            raise MirrorTampered(message, hint="move that mirror out of this one, then run dcsync rebuild")


def is_other_mirror(root: MirrorRoot, folder: str) -> bool:
    """Return whether a folder below the root is the root of another mirror."""
    try:
        with root.folder(f"{folder}/{OWN_FOLDER}") as own:
            return disk.is_there(INSTANCE, below=own)
    except (FileNotFoundError, DiskError, MirrorTampered):
        return False


def holds_snapshots(root: MirrorRoot) -> bool:
    """Return whether there is a snapshot with a sidecar below the root. Only the first folders are searched."""
    return any(names.SIDECAR_NAME in entries for _, entries in _folders(root))


def _is_mirror(root: MirrorRoot, folder: str, entries: list[str]) -> bool:
    return OWN_FOLDER in entries and is_other_mirror(root, folder)


def _folders(root: MirrorRoot) -> Iterator[tuple[str, list[str]]]:
    """Yield the first folders of the tree, the shallow ones first, each with the names in it."""
    pending = [""]
    for _ in range(_MOST_FOLDERS):
        if not pending:
            return
        folder = pending.pop(0)
        try:
            entries = _listing(root, folder)
        except OSError:
            continue
        yield folder, [name for name, _ in entries]
        prefix = f"{folder}/" if folder else ""
        pending += [f"{prefix}{name}" for name, is_folder in entries if is_folder and not _is_hidden(name)]


def _is_hidden(name: str) -> bool:
    return name == OWN_FOLDER or is_system_name(name)


def _listing(root: MirrorRoot, folder: str) -> list[tuple[str, bool]]:
    """Return the names in a folder below the root, or in the root itself, each with whether it is a folder."""
    descriptor = disk.open_folders(root.descriptor, folder.split("/") if folder else [], create=False)
    try:
        with os.scandir(descriptor) as entries:
            return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    finally:
        os.close(descriptor)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False
