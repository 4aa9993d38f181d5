"""One range of a file in the object storage, through as many connections as make it faster, delivered in order.

The download begins with one connection, which has requested the whole range. While more connections raise the rate,
they request parts ahead of it, whose bytes stay in memory until their turn. The first connection stops where such a
part begins, but only after the storage has accepted the request for it. A part that fails is requested again in its
turn, so its failure ends the download in the same way as a failure of a single connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from typing import Protocol

from dcsync.clock import Clock
from dcsync.core.widening import Widening
from dcsync.errors import ContentChanged, DcsyncError, RangeIgnored, StorageRefused, StorageUnreachable
from dcsync.ops.connections import AHEAD_BYTES, Connections
from dcsync.tasks import task_group

#: The smallest and the largest part. Each part costs a round trip to the storage, so parts are large. The parts of 16
#: connections must fit into the memory for bytes that arrive before their turn, so they are not larger.
LEAST_PART, MOST_PART = 1 << 20, 4 << 20


class Ranges(Protocol):
    """A remote file. `RemoteFile` is one."""

    @property
    def is_pinned(self) -> bool:
        """Whether ranges that arrive at the same time are sure to be parts of the same file."""

    def range(self, start: int, stop: int) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Request the bytes from `start` to `stop`."""


class _Part:
    """A part of the range that its own connection reads ahead."""

    def __init__(self, start: int, stop: int) -> None:
        self.start = start
        #: The end of the bytes that have arrived.
        self.end = start
        self.stop = stop
        self.is_accepted = False
        self.is_over = False
        self.pieces: deque[bytes] = deque()
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def add(self, piece: bytes) -> None:
        """Add the next bytes. Raises `RangeIgnored` when they are more than was requested."""
        if len(piece) > self.stop - self.end:
            raise _too_much()
        self.end += len(piece)
        self.pieces.append(piece)
        self.changed.set()


class RangeReader:
    """Reads the bytes from `start` to `stop` of a remote file once.

    `own` holds the answer of the first connection, which is closed when it is no longer needed. The caller holds one of
    the run's connections.
    """

    def __init__(
        self,
        remote: Ranges,
        start: int,
        stop: int,
        *,
        own: AsyncExitStack,
        connections: Connections,
        clock: Clock,
    ) -> None:
        self._connections = connections
        self._clock = clock
        self._remote = remote
        #: Everything before this was delivered.
        self._at = start
        self._stop = stop
        self._parts: deque[_Part] = deque()
        self._widening = Widening(clock.monotonic())
        #: The further connections of this download, and the parts that are being read.
        self._more = 0
        self._reading = 0
        self._ended = asyncio.Event()
        #: Whether the consumer reads through a connection of its own now, or waits for one.
        self._owns = True
        self._own = own
        #: The pieces of the consumer's own connection, and where they end.
        self._source: AsyncIterator[bytes] | None = None
        self._until = stop
        self._ranges_work = True

    @asynccontextmanager
    async def pieces(self, first: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield an iterator of the range's pieces in order. `first` is the answer of the first connection.

        The iterator raises the errors of `RemoteFile.range`. It ends early when an answer does.
        """
        if not self._remote.is_pinned or self._stop - self._at <= 2 * LEAST_PART:
            yield first
            return
        self._source = first
        async with task_group() as group, aclosing(self._deliver(group)) as pieces:
            try:
                yield pieces
            finally:
                self._end()

    async def _deliver(self, group: asyncio.TaskGroup) -> AsyncGenerator[bytes]:
        while self._at < self._stop or self._source is not None:
            foremost = self._parts[0] if self._parts and self._parts[0].start <= self._at else None
            if foremost is not None and self._source is not None and foremost.is_accepted:
                await self._close()
            if foremost is not None and self._source is None:
                piece = await self._next_ahead(foremost)
            else:
                piece = await self._next_alone()
                if self._source is None and self._at + len(piece) < self._until:
                    return
            if piece:
                self._at += len(piece)
                self._widen(group)
                yield piece

    async def _next_alone(self) -> bytes:
        """Return the next piece of the consumer's own connection, or b"" when it ends or a part ahead begins."""
        if self._source is None:
            self._owns = True
            while self._reading > self._more:
                # A part failed in its turn, while others read through all connections of this download.
                self._ended.clear()
                await self._ended.wait()
            self._until = self._parts[0].start if self._parts else self._stop
            self._source = await self._own.enter_async_context(self._remote.range(self._at, self._until))
        piece = await anext(self._source, b"")
        if not piece:
            await self._close()
        if self._at + len(piece) > self._until < self._stop:
            raise _too_much()
        while self._parts and self._parts[0].start < self._at + len(piece):
            part = self._parts[0]
            if part.is_accepted:
                piece = piece[: part.start - self._at]
                break
            # Its answer comes too late.
            self._drop(self._parts.popleft())
        self._widening.count(len(piece))
        return piece

    async def _next_ahead(self, part: _Part) -> bytes:
        """Return the next piece of the foremost part, or b"" at its end."""
        while not part.pieces and not part.is_over:
            part.changed.clear()
            await part.changed.wait()
        if part.pieces:
            piece = part.pieces.popleft()
            self._connections.ahead += len(piece)
            return piece
        # If it failed, the consumer's own connection requests the rest of it.
        self._drop(self._parts.popleft())
        return b""

    async def _close(self) -> None:
        self._source, self._owns = None, False
        await self._own.aclose()

    def _widen(self, group: asyncio.TaskGroup) -> None:
        """Start as many connections as are worth it, and give back those that are not."""
        wanted = self._widening.connections(
            self._clock.monotonic(),
            rest=self._stop - self._at,
            receiving=self._owns + sum(part.is_accepted and not part.is_over for part in self._parts),
            limit=self._connections.share if self._ranges_work else 1,
        )
        while self._owns + self._reading < wanted:
            part = self._claim(wanted)
            if part is None:
                break
            part.task = group.create_task(self._read(part, group))
        while self._more and self._more > self._owns + self._reading - 1:
            self._more -= 1
            self._connections.give_back()

    def _claim(self, wanted: int) -> _Part | None:
        """Return the next part to read, if there is one, and memory and a connection for it."""
        most = min(MOST_PART, max(LEAST_PART, AHEAD_BYTES // (2 * wanted)))
        start = self._at + most * self._owns
        if self._parts:
            start = max(start, self._parts[-1].stop)
        # The last parts are small, so that all connections end at about the same time.
        size = min(most, max(LEAST_PART, (self._stop - start) // (2 * wanted)), self._stop - start)
        if size <= 0 or self._connections.ahead < size:
            return None
        if self._owns + self._reading > self._more:
            if not self._connections.take_more():
                return None
            self._more += 1
        self._connections.ahead -= size
        self._reading += 1
        part = _Part(start, start + size)
        self._parts.append(part)
        return part

    async def _read(self, part: _Part, group: asyncio.TaskGroup) -> None:
        try:
            try:
                await self._receive(part)
            except (StorageRefused, StorageUnreachable):
                # An expired URL or a broken connection says nothing about the next one.
                await self._receive(part)
        except (ContentChanged, RangeIgnored):
            # Some storage gives every answer a new ETag. A connection that already has the rest is still good.
            self._ranges_work = False
        except DcsyncError:
            self._widening.refuse(self._clock.monotonic())
        finally:
            self._reading -= 1
            part.is_over = True
            part.changed.set()
            self._ended.set()
        self._widen(group)

    async def _receive(self, part: _Part) -> None:
        async with self._remote.range(part.end, part.stop) as pieces:
            part.is_accepted = True
            async for piece in pieces:
                part.add(piece)
                self._widening.count(len(piece))
        if part.end < part.stop:
            message = "a part of the file ended early"
            raise StorageUnreachable(message)

    def _drop(self, part: _Part) -> None:
        self._connections.ahead += sum(map(len, part.pieces)) + part.stop - part.end
        part.pieces.clear()
        if part.task is not None:
            part.task.cancel()

    def _end(self) -> None:
        for part in self._parts:
            self._drop(part)
        self._parts.clear()
        while self._more:
            self._more -= 1
            self._connections.give_back()


def _too_much() -> RangeIgnored:
    return RangeIgnored("the storage sends more of the file than requested")
