"""One member of an archive, from its local header to its last byte, as its pieces come. Pure: bytes in, bytes out.

Output is counted as it comes: a member that unpacks to more than it said is cut off there (FAULTS S4, S5).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from dcsync.core.transfer import PIECE_SIZE
from dcsync.core.ziplayout import DEFLATED, LOCAL_HEADER_SIZE, Member, ZipError, content_offset


class Decompressor(Protocol):
    """What zlib's and isal's objects have in common."""

    @property
    def eof(self) -> bool:
        """Whether the end of the stream was reached."""

    @property
    def unconsumed_tail(self) -> bytes:
        """What was not looked at because of `max_length`."""

    @property
    def unused_data(self) -> bytes:
        """What came after the end of the stream."""

    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes:
        """Return up to `max_length` bytes more."""


def zlib_decompressor() -> Decompressor:
    """Return zlib's for raw deflate."""
    return zlib.decompressobj(-zlib.MAX_WBITS)


class MemberReader:
    """Takes a member's bytes in any pieces and gives its content. Feed it from the member's offset on.

    `inflate` makes the decompressor: zlib's, or one that is faster.
    """

    def __init__(self, member: Member, *, inflate: Callable[[], Decompressor] = zlib_decompressor) -> None:
        self._member = member
        self._header: bytearray | None = bytearray()
        self._left = member.packed
        self._given = 0
        self._inflate = inflate() if member.method == DEFLATED else None

    @property
    def is_complete(self) -> bool:
        """Whether all of the content was given."""
        return self._header is None and self._left == 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give the content of the next bytes in pieces of at most 1 MiB; what follows the content is ignored.

        Raises `ZipError` when the member is not what the directory said.
        """
        rest = data if self._header is None else self._skip_header(self._header, data)
        taken, self._left = rest[: self._left], self._left - min(len(rest), self._left)
        if taken:
            yield from self._content(bytes(taken))

    def finish(self) -> None:
        """Raise `ZipError` unless the content was whole. Its CRC32 is the caller's to check."""
        if not self.is_complete:
            msg = "its bytes end before its content does"
            raise ZipError(msg)
        if self._inflate is not None and not self._inflate.eof:
            msg = "its compressed stream has no end"
            raise ZipError(msg)
        if self._given != self._member.size:
            msg = f"it unpacks to {self._given} bytes, the directory says {self._member.size}"
            raise ZipError(msg)

    def _skip_header(self, header: bytearray, data: bytes) -> bytes:
        header += data
        fixed = LOCAL_HEADER_SIZE + len(self._member.raw_name)
        if len(header) < fixed:
            return b""
        begin = content_offset(bytes(header[:fixed]), self._member)
        if len(header) < begin:
            return b""
        self._header = None
        return bytes(header[begin:])

    def _content(self, data: bytes) -> Iterator[bytes]:
        if self._inflate is None:
            for start in range(0, len(data), PIECE_SIZE):
                yield self._counted(data[start : start + PIECE_SIZE])
            return
        while True:
            # One byte more than is due, so that a stream that goes on is noticed.
            most = min(PIECE_SIZE, self._member.size - self._given + 1)
            try:
                out = self._inflate.decompress(data, most)
            except Exception as error:  # noqa: BLE001 - zlib.error, and isal's own, which is another
                msg = f"its compressed stream is damaged ({type(error).__name__})"
                raise ZipError(msg) from None
            data = self._inflate.unconsumed_tail
            if out:
                yield self._counted(out)
            if self._inflate.eof and (data or self._left or self._inflate.unused_data):
                msg = "its compressed stream ends before its bytes do"
                raise ZipError(msg)
            if self._inflate.eof or (not data and len(out) < most):
                # With less than was allowed, nothing is held back inside.
                return

    def _counted(self, out: bytes) -> bytes:
        self._given += len(out)
        if self._given > self._member.size:
            msg = f"it unpacks to more than the {self._member.size} bytes that the directory says"
            raise ZipError(msg)
        return out
