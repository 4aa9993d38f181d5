"""From the line to the disk: the next megabyte comes while the last one is written."""

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
    """Gathers pieces of 1 MiB and hands one to `write` in a thread while the next one comes.

    `drain` it whatever happens. `on_written` is told each result, in the event loop's thread and in order.
    """

    def __init__(
        self,
        disk: DiskThreads,
        write: Callable[[bytearray], T],
        on_written: Callable[[T], None] = lambda _: None,
    ) -> None:
        self.rest = bytearray()
        self._disk = disk
        self._write = write
        self._on_written = on_written
        self._writing: asyncio.Future[T] | None = None

    async def add(self, piece: bytes) -> None:
        """Take in a piece; waits while two are on their way to the disk."""
        self.rest += piece
        if len(self.rest) >= PIECE_SIZE:
            await self.drain()
            # The buffer is handed over, not shared.
            self._writing, self.rest = self._disk.start(self._write, self.rest), bytearray()

    async def drain(self) -> None:
        """Wait for the write under way and raise its error."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self._on_written(await self._disk.wait(writing))

    async def flush(self) -> None:
        """Write everything."""
        await self.drain()
        if self.rest:
            rest, self.rest = self.rest, bytearray()
            self._on_written(await self._disk.run(self._write, rest))


class Gauge:
    """Counts what comes: holds it back to the bandwidth, and notices a transfer that crawls."""

    def __init__(self, context: SyncContext) -> None:
        self._context = context
        self._guard = RateGuard(context.clock.monotonic())

    async def count(self, size: int) -> None:
        """Count `size` bytes more. Raises `TooSlow`."""
        now = self._context.clock.monotonic()
        if self._guard.is_too_slow(now, size):
            message = "the file store sends less than 1 KiB a second"
            raise TooSlow(message)
        wait = self._context.throttle.wait_s(now, size)
        if wait > 0:
            await self._context.clock.sleep(wait)
