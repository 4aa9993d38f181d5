"""Durable writes of whole files: the content is fsynced before the file gets its final name.

Each function blocks and raises `OSError`s. A new name survives a power cut only after an fsync of its folder.
`replace_durably` does that fsync. After the other functions, the caller does it.
"""

from __future__ import annotations

import os

from dcsync.core.transfer import PIECE_SIZE
from dcsync.mirror import disk, space
from dcsync.mirror.hashing import eio_as_unreadable
from dcsync.opening import open_regular


def create_durably(folder: int, name: str, body: bytes) -> None:
    """Create a file of a snapshot, read-only, and fsync it. `FileExistsError` when the name is taken."""
    _write_and_sync(_create(name, folder), body, disk.FILE_MODE)


def copy_durably(source: int, folder: int, name: str) -> os.stat_result:
    """Create a read-only copy of an open file and fsync it, sharing its blocks where the file system can.

    Raises `Unreadable` when the source cannot be read.
    """
    target = _create(name, folder)
    try:
        if not space.clone(source, target):
            offset = 0
            while piece := _read_piece(source, offset):
                disk.write_all(target, piece)
                offset += len(piece)
        disk.set_mode(target, disk.FILE_MODE)
        os.fsync(target)
        return os.fstat(target)
    finally:
        os.close(target)


def replace_durably(folder: int, name: str, body: bytes, *, mode: int) -> None:
    """Replace a small file in one step. A reader sees the old or the new content, also after a power cut."""
    write_new(folder, name, body, mode=mode)
    disk.rename(f"{name}.new", folder, name, folder)
    os.fsync(folder)


def write_new(folder: int, name: str, body: bytes, *, mode: int) -> None:
    """Write and fsync `<name>.new`, which the caller then renames over `name`.

    Anything that has that name already is removed: what a crash left, or a FIFO that another program put there.
    """
    disk.remove_tree(f"{name}.new", folder)
    _write_and_sync(_create(f"{name}.new", folder), body, mode)


def _create(name: str, folder: int) -> int:
    return open_regular(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, below=folder)


def _read_piece(source: int, offset: int) -> bytes:
    with eio_as_unreadable():
        return os.pread(source, PIECE_SIZE, offset)


def _write_and_sync(descriptor: int, body: bytes, mode: int) -> None:
    try:
        disk.write_all(descriptor, body)
        disk.set_mode(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
