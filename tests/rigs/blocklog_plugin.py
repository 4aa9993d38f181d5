"""An nbdkit plugin (`nbdkit python`): a disk in an image file that logs every write and flush, in order.

It runs in the system's own Python. The log is what `tests.rigs.blocklog` reads.
"""

from __future__ import annotations

import os
import struct
from typing import Final

API_VERSION: Final = 2
HEADER: Final = struct.Struct("<cQI")

_files: dict[str, int] = {}


def config(key: str, value: str) -> None:
    """Take `image=…` and `log=…`."""
    _files[key] = os.open(value, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def open(readonly: bool) -> int:  # noqa: A001 - nbdkit's name
    """Begin a connection."""
    return 1


def get_size(_: int) -> int:
    """Return the disk's size."""
    return os.fstat(_files["image"]).st_size


def pread(_: int, buf: bytearray, offset: int, flags: int) -> None:
    """Read."""
    buf[:] = os.pread(_files["image"], len(buf), offset)


def pwrite(_: int, buf: bytes, offset: int, flags: int) -> None:
    """Write, and log it first."""
    data = bytes(buf)
    os.write(_files["log"], HEADER.pack(b"W", offset, len(data)) + data)
    os.pwrite(_files["image"], data, offset)


def flush(_: int, flags: int) -> None:
    """Log that everything before is durable now."""
    os.write(_files["log"], HEADER.pack(b"F", 0, 0))
