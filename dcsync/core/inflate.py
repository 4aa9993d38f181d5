"""Unpacks one ZIP entry piece by piece, from its local header to its last byte. Pure: bytes in, bytes out.

The output is counted as it appears. An entry that unpacks to more than its declared size is stopped there
(docs/project/faults.md S4, S5).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from dcsync.core.transfer import PIECE_SIZE
from dcsync.core.ziplayout import DEFLATED, LOCAL_HEADER_SIZE, Member, ZipError, content_offset


class Decompressor(Protocol):
    """The interface that the objects of zlib and isal share."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def unconsumed_tail(self) -> bytes:
        """The input that was not read because of `max_length`."""

    @property
    def unused_data(self) -> bytes:
        """The input after the end of the stream."""

    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes:
        """Return up to `max_length` more bytes."""


def zlib_decompressor() -> Decompressor:
    """Return zlib's decompressor for raw deflate."""
    return zlib.decompressobj(-zlib.MAX_WBITS)


class MemberReader:
    """Takes the bytes of a member in pieces of any size and gives its content. Feed it from the member's offset on.

    `inflate` creates the decompressor: zlib's or a faster one.
    """

    def __init__(self, member: Member, *, inflate: Callable[[], Decompressor] = zlib_decompressor) -> None:
        self._member = member
        self._header: bytearray | None = bytearray()
        self._left = member.packed
        self._given = 0
        self._inflate = inflate() if member.method == DEFLATED else None

    @property
    def is_complete(self) -> bool:
        """Whether all bytes of the content have been fed."""
        return self._header is None and self._left == 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give the content of the next bytes in pieces of at most 1 MiB. Bytes after the content are ignored.

        Raises `ZipError` when the member contradicts the central directory.
        """
        rest = data if self._header is None else self._skip_header(self._header, data)
        taken, self._left = rest[: self._left], self._left - min(len(rest), self._left)
        if taken:
            yield from self._content(bytes(taken))

    def finish(self) -> None:
        """Raise `ZipError` unless the content is complete. The caller checks the CRC32."""
        if not self.is_complete:
            msg = "the ZIP entry ends before its content is complete"
            raise ZipError(msg)
        if self._inflate is not None and not self._inflate.eof:
            msg = "the compressed data of the ZIP entry has no end"
            raise ZipError(msg)
        if self._given != self._member.size:
            msg = f"the ZIP entry unpacks to {self._given} bytes, the central directory says {self._member.size}"
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
            # One byte more than expected, so that a stream that is too long is detected.
            most = min(PIECE_SIZE, self._member.size - self._given + 1)
            try:
                out = self._inflate.decompress(data, most)
            except Exception as error:  # noqa: BLE001 - zlib.error, or isal's error, which is a different class
                msg = f"the compressed data of the ZIP entry is damaged ({type(error).__name__})"
                raise ZipError(msg) from None
            data = self._inflate.unconsumed_tail
            if out:
                yield self._counted(out)
            if self._inflate.eof and (self._left or self._inflate.unused_data):
                msg = "the compressed data of the ZIP entry ends before its declared size"
                raise ZipError(msg)
            if len(out) < most:
                # The decompressor gave less than it was allowed to, so it holds nothing back and has read all input.
                return

    def _counted(self, out: bytes) -> bytes:
        self._given += len(out)
        if self._given > self._member.size:
            msg = f"the ZIP entry unpacks to more than the {self._member.size} bytes of the central directory"
            raise ZipError(msg)
        return out
