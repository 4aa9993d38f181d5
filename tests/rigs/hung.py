"""A disk that does not answer: a FUSE file system that nobody serves. Every call waits, as on a dead NFS server."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.rigs.disks import make_nodes

_DETACH = 2


@contextmanager
def hung(place: Path) -> Iterator[None]:
    """Mount a disk that does not answer on a folder. With the block's end, every call that waits for it fails."""
    make_nodes()
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0"
        if libc.mount(b"dcsync-hung", os.fsencode(place), b"fuse", 0, options.encode()) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        try:
            yield
        finally:
            libc.umount2(os.fsencode(place), _DETACH)
    finally:
        # The end of the connection: ENOTCONN for everybody who waits.
        os.close(descriptor)
