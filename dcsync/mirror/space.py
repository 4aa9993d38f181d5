"""The space of a disk: what is free, and how files reserve and share it."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

from dcsync.core.formatting import size_text
from dcsync.errors import DiskFull, InodesExhausted, SpaceNeeds
from dcsync.mirror.disk import FULL, NOT_SUPPORTED

_FALLOC_FL_KEEP_SIZE = 1
_SYNC_FILE_RANGE_WRITE = 2
# ioctl FICLONE = _IOW(0x94, 9, int), the same on all architectures that Python wheels exist for.
_FICLONE = 0x40049409

_libc = ctypes.CDLL(None, use_errno=True)


def check_room(folder: int, *, size: int, entries: int, reserve: int, disk: str = "the mirror's disk") -> None:
    """Raise `DiskFull` or `InodesExhausted` unless `size` bytes and `entries` files fit and `reserve` bytes stay free.

    An error of statvfs fails the check. 5 % are added for folders, `_dcsync.json` and the rounding to blocks.
    """
    facts = os.fstatvfs(folder)
    free = facts.f_bavail * facts.f_frsize
    needed = size + size // 20 + reserve
    needs = SpaceNeeds(size=size, entries=entries)
    if free < needed:
        message = f"{disk} has {size_text(free)} free of {size_text(facts.f_blocks * facts.f_frsize)}, and "
        message += f"{size_text(needed)} are needed"
        message += f" ({size_text(reserve)} of them for mirror.min_free)" if reserve else ""
        raise DiskFull(message, needs=needs)
    # A file system without a fixed number of inodes (btrfs) reports a total of 0.
    if facts.f_files and facts.f_favail < entries + 100:
        message = f"{disk} has {facts.f_favail:,} inodes free of {facts.f_files:,}, and {entries + 100:,} "
        message += "are needed"
        raise InodesExhausted(message, needs=needs)


def preallocate(descriptor: int, size: int) -> None:
    """Reserve `size` bytes, so that a full disk is noticed now. The file's length does not change."""
    if size <= 0:
        return
    if _libc.fallocate(descriptor, _FALLOC_FL_KEEP_SIZE, ctypes.c_longlong(0), ctypes.c_longlong(size)) == 0:
        return
    number = ctypes.get_errno()
    if number in FULL:
        raise OSError(number, os.strerror(number))
    # Any other error means that this file system cannot reserve space. A full disk then fails a write.


def start_writeback(descriptor: int, offset: int, size: int) -> None:
    """Ask the kernel to start writing a part of a file to the disk, so that the final fsync has little left to do.

    This is a hint. Its errors are ignored, because the fsync reports them.
    """
    if hasattr(_libc, "sync_file_range"):
        _libc.sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(size), _SYNC_FILE_RANGE_WRITE)


def forget_written(descriptor: int, start: int, stop: int) -> None:
    """Let the kernel forget its copy of a part of a file, as far as the disk has it. This is a hint."""
    with suppress(OSError):
        os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)


def clone(source: int, target: int) -> bool:
    """Make `target` share the blocks of `source` (reflink: btrfs, XFS). False where that is not possible."""
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in NOT_SUPPORTED:
            return False
        raise
    return True
