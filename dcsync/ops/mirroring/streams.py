"""From the network to the disk: the next mebibyte arrives while the previous one is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from dcsync.core.transfer import PIECE_SIZE, RateGuard
from dcsync.errors import TooSlow
from dcsync.ops.context import SyncContext
from dcsync.tasks import DiskThreads

T = TypeVar("T")


class WriteBehind(Generic[T]):
    """Collects pieces of 1 MiB and passes each one to `write` in a disk thread while the next one arrives.

    `write` must not keep its argument: two buffers are used in turn. The caller must `drain` it, also after an error.
    `on_written` gets each result, in order and in the event loop's thread.
    """

    def __init__(
        self,
        disk: DiskThreads,
        write: Callable[[bytearray], T],
        on_written: Callable[[T], None] = lambda _: None,
    ) -> None:
        self._disk = disk
        self._write = write
        self._on_written = on_written
        self._writing: asyncio.Future[T] | None = None
        #: The first bytes. A small file has no others, and needs no buffers.
        self._first = bytearray()
        #: The buffer that is being filled, and the one that is being written, which is free once it is drained. To
        #: allocate a new one for each MiB takes a tenth of the CPU time of a large download.
        self._buffers: tuple[bytearray, bytearray] | None = None
        self._filled = 0

    @property
    def rest(self) -> bytearray:
        """The bytes that were not passed to `write`."""
        return self._first if self._buffers is None else self._buffers[0][: self._filled]

    async def add(self, piece: bytes) -> None:
        """Add a piece. Waits while two pieces of 1 MiB are not written yet."""
        if self._buffers is None:
            self._first += piece
            if len(self._first) < PIECE_SIZE:
                return
            full, piece, self._first = self._first, bytes(self._first[PIECE_SIZE:]), bytearray()
            del full[PIECE_SIZE:]
            self._writing, self._buffers = self._disk.start(self._write, full), (bytearray(PIECE_SIZE), full)
        taken = 0
        while taken < len(piece):
            taken += self._fill(piece[taken : taken + PIECE_SIZE - self._filled])
            if self._filled == PIECE_SIZE:
                await self.drain()
                full, free = self._buffers
                self._writing, self._filled = self._disk.start(self._write, full), 0
                self._buffers = free, full

    def _fill(self, piece: bytes) -> int:
        assert self._buffers is not None  # noqa: S101 - the caller made them
        with memoryview(self._buffers[0]) as view:
            view[self._filled : self._filled + len(piece)] = piece
        self._filled += len(piece)
        return len(piece)

    async def drain(self) -> None:
        """Wait for the running write and raise its error."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self._on_written(await self._disk.wait(writing))

    async def flush(self) -> None:
        """Write everything."""
        await self.drain()
        if rest := self.rest:
            self._first, self._filled = bytearray(), 0
            self._on_written(await self._disk.run(self._write, rest))


class Gauge:
    """Counts received bytes: keeps a transfer within the bandwidth limit, and notices one that is too slow."""

    def __init__(self, context: SyncContext) -> None:
        self._context = context
        self._guard = RateGuard(context.clock.monotonic())

    async def count(self, size: int) -> None:
        """Count `size` more bytes, and wait when the limit asks for it. Raises `TooSlow`."""
        now = self._context.clock.monotonic()
        if self._guard.is_too_slow(now, size):
            message = "the object storage sends less than 1 KiB per second"
            raise TooSlow(message)
        wait = self._context.throttle.wait_s(now, size)
        if wait > 0:
            await self._context.clock.sleep(wait)
