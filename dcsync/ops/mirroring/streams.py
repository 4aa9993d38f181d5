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

    The caller must `drain` it, also after an error. `on_written` gets each result, in order and in the event loop's
    thread.
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
        """Add a piece. Waits while two pieces of 1 MiB are not written yet."""
        self.rest += piece
        if len(self.rest) >= PIECE_SIZE:
            await self.drain()
            # The thread gets this buffer alone: new bytes go into a new one.
            self._writing, self.rest = self._disk.start(self._write, self.rest), bytearray()

    async def drain(self) -> None:
        """Wait for the running write and raise its error."""
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
