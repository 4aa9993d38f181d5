"""Hashes of content, computed in one pass over its bytes."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dcsync.core.table import TableCounter, TableFacts
from dcsync.core.transfer import PIECE_SIZE
from dcsync.mirror.native import fastest_crc32

_CRC32 = fastest_crc32()


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """The results of one pass over content."""

    size: int
    sha256: str
    crc32: int
    md5: str | None = None
    table: TableFacts | None = None


class Hashers:
    """SHA-256 and CRC32 of the same bytes, and on request MD5 (for ETags) and header and row count (for tables).

    The hashes are C code and release the interpreter lock for large pieces. MD5 would take a third of the time.
    """

    def __init__(self, *, with_md5: bool = False, with_table: bool = False) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if with_md5 else None
        self._crc32 = 0
        self._table = TableCounter() if with_table else None

    @property
    def crc32(self) -> int:
        """The CRC32 of the bytes so far."""
        return self._crc32

    def update(self, data: bytes | bytearray) -> None:
        """Add the next bytes."""
        self.size += len(data)
        self._sha256.update(data)
        if self._md5 is not None:
            self._md5.update(data)
        self._crc32 = _CRC32(data, self._crc32)
        if self._table is not None:
            self._table.update(data)

    def digest(self) -> Digest:
        """Return the hashes of the bytes so far."""
        return Digest(
            size=self.size,
            sha256=self._sha256.hexdigest(),
            crc32=self._crc32,
            md5=None if self._md5 is None else self._md5.hexdigest(),
            table=None if self._table is None else self._table.facts(),
        )


def hash_descriptor(descriptor: int, *, each: Callable[[int], None] | None = None, with_table: bool = False) -> Digest:
    """Read a file from its beginning and return its hashes. `each` is called with the length of every piece."""
    hashers = Hashers(with_table=with_table)
    while piece := os.pread(descriptor, PIECE_SIZE, hashers.size):
        hashers.update(piece)
        if each is not None:
            each(len(piece))
    return hashers.digest()


def count_rows(descriptor: int) -> TableFacts | None:
    """Read a table from its beginning and return its header and row count."""
    counter = TableCounter()
    offset = 0
    while piece := os.pread(descriptor, PIECE_SIZE, offset):
        counter.update(piece)
        offset += len(piece)
    return counter.facts()


class Unreadable(OSError):
    """A read failed with EIO. A caller that can download the content again need not report a faulty disk."""


@contextmanager
def eio_as_unreadable() -> Iterator[None]:
    """Turn EIO in the block into `Unreadable`. Other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EIO:
            raise Unreadable(error.errno, error.strerror) from None
        raise
