"""Work on row histories in a thread of its own, which may take minutes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from dcsync.errors import RowsInterrupted
from dcsync.ops.integrity.content_reader import ReadingObserver
from dcsync.rows import Engine
from dcsync.tasks import Threads

T = TypeVar("T")

#: A statement that runs is interrupted again this often, until it ends.
_INTERRUPT_S: Final = 0.05


class Stopping:
    """Asks a build to end, from another thread."""

    def __init__(self) -> None:
        self._is_set = threading.Event()
        self._engine: Engine | None = None

    def stop(self) -> None:
        """End the statement that runs, and begin no more. Call it again until the build has ended."""
        self._is_set.set()
        engine = self._engine
        if engine is not None:
            engine.interrupt()

    def check(self) -> None:
        """Raise `RowsInterrupted` if the build is to end."""
        if self._is_set.is_set():
            raise RowsInterrupted("the row history was interrupted")

    def wait(self, seconds: float) -> None:
        """Wait, at most until the build is to end."""
        self._is_set.wait(seconds)

    def watch(self, engine: Engine) -> None:
        """Let `stop` interrupt this engine."""
        self._engine = engine


@dataclass(frozen=True, slots=True)
class FromThread:
    """Tells an observer from another thread."""

    loop: asyncio.AbstractEventLoop
    observer: ReadingObserver

    def snapshot(self, folder: str, number: int, of: int) -> None:
        """Tell it of a snapshot."""
        self.loop.call_soon_threadsafe(self.observer.snapshot, folder, number, of)

    def read(self, size: int) -> None:
        """Tell it of bytes that were read."""
        self.loop.call_soon_threadsafe(self.observer.read, size)


async def in_thread(work: Callable[[Stopping], T]) -> T:
    """Run work that may take minutes in a thread of its own. Cancelling interrupts it."""
    stopping = Stopping()
    with Threads(1, "dcsync-history") as pool:
        future = asyncio.get_running_loop().run_in_executor(pool, work, stopping)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                stopping.stop()
                # A second cancellation waits for the same end.
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({future}, timeout=_INTERRUPT_S)
            # Reading the outcome keeps the loop from reporting an exception that was never retrieved.
            future.exception()
            raise
