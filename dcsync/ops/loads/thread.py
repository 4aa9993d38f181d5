"""A thread for a load. A database may not answer for minutes, and the daemon must not wait for it when it stops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from dcsync.errors import LoadInterrupted
from dcsync.tasks import starting_threads

T = TypeVar("T")

#: How often a load is told to end, and how long its end is waited for.
_AGAIN_S: Final = 0.1
_END_S: Final = 3.0


class Stopping:
    """Asks a load to end, from another thread."""

    def __init__(self) -> None:
        self._is_set = threading.Event()
        self._interrupt: Callable[[], object] | None = None

    def stop(self) -> None:
        """End what runs now, and begin no more. Call it again until the load has ended."""
        self._is_set.set()
        if self._interrupt is not None:
            self._interrupt()

    def check(self) -> None:
        """Raise `LoadInterrupted` if the load is to end."""
        if self._is_set.is_set():
            raise LoadInterrupted("the load", "", "it was interrupted")

    def wait(self, seconds: float) -> None:
        """Wait, at most until the load is to end."""
        self._is_set.wait(seconds)

    def watch(self, interrupt: Callable[[], object] | None) -> None:
        """Let `stop` call this as well. It is called at once if the load is to end already."""
        self._interrupt = interrupt
        if interrupt is not None and self._is_set.is_set():
            interrupt()


async def in_thread(work: Callable[[Stopping], T]) -> T:
    """Run `work` in a thread of its own and return its result.

    Cancelling asks it to end, and waits for that for 3 s. A load that does not end by then ends with the process, as if
    it were killed. The target then shows what it showed before, or the new rows.
    """
    loop, stopping = asyncio.get_running_loop(), Stopping()
    done: asyncio.Future[T] = loop.create_future()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type] # without an error there is a result

    def run() -> None:
        result, failure = None, None
        try:
            result = work(stopping)
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            failure = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(deliver, result, failure)

    with starting_threads():
        threading.Thread(target=run, name="dcsync-load", daemon=True).start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await _end(done, stopping)
        raise


async def _end(done: asyncio.Future[T], stopping: Stopping) -> None:
    for _ in range(round(_END_S / _AGAIN_S)):
        if done.done():
            break
        stopping.stop()
        # A second cancellation waits for the same end.
        with suppress(asyncio.CancelledError):
            await asyncio.wait({done}, timeout=_AGAIN_S)
    if done.done():
        # Reading the outcome keeps the loop from reporting an exception that was never retrieved.
        done.exception()
    else:
        done.cancel()
