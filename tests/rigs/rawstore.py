"""A file store that speaks just enough HTTP to break it at any byte: a cut, a lie, a change in the middle."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

Kind = Literal[
    "cut",  # the right headers, `amount` bytes, then the connection is closed
    "reset",  # the same, and the kernel sends RST: what the client has not read may be lost
    "short",  # `amount` bytes and a Content-Length that says so
    "short-open",  # `amount` bytes without a Content-Length, ended by closing
    "short-chunked",  # `amount` bytes in whole chunks, ended well
    "long",  # `amount` bytes too many, with a Content-Length that says so
    "long-open",  # the same without a Content-Length
    "long-chunked",  # the same in chunks
    "wrong-length",  # the right body under a Content-Length that is off by `amount`
    "gzip",  # an encoded body that says so
    "no-range",  # Range is ignored: 200 and everything
    "wrong-range",  # another Content-Range than was asked for
    "other",  # another body of the same size under another ETag
    "other-range",  # the same, but If-Match is ignored
    "bad-chunk",  # a chunk whose length is no number
    "bad-trailer",  # the right body in chunks with a malformed trailer
    "garbage",  # no HTTP at all
    "nothing",  # the connection is closed before a byte
]

_RANGE: Final = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d*)", re.IGNORECASE)
_IF_MATCH: Final = re.compile(rb'\r\nif-match: *("[^"]*")', re.IGNORECASE)

_BAD_ENDS: Final = {"bad-chunk": b"zz\r\n", "bad-trailer": b"0\r\nno trailer at all\r\n\r\n"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Twist:
    """What goes wrong with one answer."""

    kind: Kind
    amount: int = 0


@dataclass(slots=True, kw_only=True)
class Blob:
    """A file: its body, what is served in its place, and what goes wrong with its answers, one after the other."""

    body: bytes
    other: bytes = b""
    twists: list[Twist] = field(default_factory=list)
    #: The headers of each request, as they came.
    asked: list[bytes] = field(default_factory=list)
    has_etag: bool = True


class RawStore:
    """The files by their path; `pieces` cuts a body into the writes that send it.

    If `is_slow`, each piece is sent in a turn of the loop of its own, so that several answers arrive at the same time.
    """

    def __init__(self, pieces: Callable[[bytes], Iterator[bytes]], *, is_slow: bool = False) -> None:
        self.is_slow = is_slow
        self.blobs: dict[str, Blob] = {}
        self.pieces = pieces
        self.base_url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[RawStore]:
        """Serve on loopback until the end of the block."""
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self
            server.close()


class _Connection(asyncio.Protocol):
    def __init__(self, store: RawStore) -> None:
        self._store = store
        self._transport: asyncio.Transport | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        made: socket.socket = transport.get_extra_info("socket")
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        path = head.split(b" ", 2)[1].decode().partition("?")[0]
        blob = self._store.blobs[path]
        blob.asked.append(head)
        twist = blob.twists.pop(0) if blob.twists else None
        kind, amount = ("", 0) if twist is None else (twist.kind, twist.amount)
        if kind == "nothing":
            self._end()
            return
        if kind == "garbage":
            self._send(b"\xff\xfe nothing that HTTP knows \r\n\r\n")
            self._end()
            return
        body, etag = (blob.other, b'"other"') if kind in {"other", "other-range"} else (blob.body, b'"right"')
        wanted = _IF_MATCH.search(head)
        if wanted is not None and wanted[1] != etag and kind != "other-range":
            self._send(b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n")
            return
        start, stop, status = 0, len(body), b"200 OK"
        headers = b"ETag: " + etag + b"\r\n" if blob.has_etag else b""
        span = _RANGE.search(head)
        if span is not None and kind != "no-range":
            start, status = int(span[1]), b"206 Partial Content"
            if start >= len(body):
                self._send(b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n")
                return
            stop = min(stop, int(span[2]) + 1) if span[2] else stop
            shown = start + 1 if kind == "wrong-range" else start
            headers += b"Content-Range: bytes %d-%d/%d\r\n" % (shown, stop - 1, len(body))
        self._send_body(kind, amount, b"HTTP/1.1 " + status + b"\r\n" + headers, body[start:stop])

    def _send_body(self, kind: str, amount: int, head: bytes, due: bytes) -> None:
        if kind == "gzip":
            due, head = gzip.compress(due), head + b"Content-Encoding: gzip\r\n"
        sent = due
        if kind.startswith(("cut", "reset", "short")):
            sent = due[:amount]
        elif kind.startswith("long"):
            sent = due + b"x" * max(1, amount)
        if kind.endswith("chunked") or kind in _BAD_ENDS:
            self._send_chunked(kind, head, sent)
            return
        length = len(due) if kind in {"cut", "reset"} else len(sent) + (amount if kind == "wrong-length" else 0)
        if kind.endswith("open"):
            self._send(head + b"Connection: close\r\n\r\n")
        else:
            self._send(head + b"Content-Length: %d\r\n\r\n" % max(0, length))
        pieces = self._store.pieces(sent)
        if self._store.is_slow:
            self._send_slowly(kind, pieces)
            return
        for piece in pieces:
            self._send(piece)
        self._finish(kind)

    def _send_slowly(self, kind: str, pieces: Iterator[bytes]) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            return
        piece = next(pieces, None)
        if piece is None:
            self._finish(kind)
            return
        self._send(piece)
        asyncio.get_running_loop().call_later(0.0005, self._send_slowly, kind, pieces)

    def _finish(self, kind: str) -> None:
        if kind == "cut":
            # After a moment, so that the client has read what came: an error takes what still lies in its buffer.
            asyncio.get_running_loop().call_later(0.002, self._end)
        elif kind == "wrong-length" or kind.endswith("open"):
            self._end()
        elif kind == "reset":
            self._reset()

    def _send_chunked(self, kind: str, head: bytes, body: bytes) -> None:
        self._send(head + b"Transfer-Encoding: chunked\r\n\r\n")
        for piece in self._store.pieces(body):
            self._send(b"%x\r\n%b\r\n" % (len(piece), piece))
        self._send(_BAD_ENDS.get(kind, b"0\r\n\r\n"))
        if kind in _BAD_ENDS:
            self._end()

    def _send(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def _end(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def _reset(self) -> None:
        assert self._transport is not None
        made: socket.socket = self._transport.get_extra_info("socket")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.close()
