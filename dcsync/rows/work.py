"""Work on rows from asynchronous code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from dcsync.errors import RowsInterrupted
from dcsync.rows.engine import Engine
from dcsync.tasks import DiskThreads, finish

T = TypeVar("T")
_AGAIN_S = 0.1


async def in_thread(disk: DiskThreads, engine: Engine, work: Callable[[], T]) -> T:
    """Run blocking `work` with an engine in a thread. Cancelling interrupts the engine, and waits for the end."""
    future = disk.start(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await finish(_interrupted(future, engine))
        raise


async def _interrupted(future: asyncio.Future[T], engine: Engine) -> None:
    while not future.done():
        # A statement that was about to start misses an interruption.
        engine.interrupt()
        await asyncio.wait([future], timeout=_AGAIN_S)
    with suppress(RowsInterrupted):
        future.result()
