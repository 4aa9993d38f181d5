"""The end of what a test has started. Each wait has a limit, so that a test that fails does not wait for ever."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, AnyStr, Final

#: Finds a hang. No work takes as long.
LIMIT_S: Final = 60.0


def end(process: subprocess.Popen[Any], *, group: bool = False) -> None:
    """Kill a process, or its whole group, wait for its end and close its pipes. What it left may still hold them."""
    with suppress(ProcessLookupError):
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait(LIMIT_S)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):  # what was not written yet has no reader
                pipe.close()


async def end_soon(process: asyncio.subprocess.Process) -> int:
    """Wait for the end of a process that was killed, or that has nothing left to do. Return its exit status."""
    async with asyncio.timeout(LIMIT_S):
        return await process.wait()


def join(thread: threading.Thread) -> None:
    """Wait for the end of a thread."""
    thread.join(LIMIT_S)
    assert not thread.is_alive(), f"the thread {thread.name} has not ended"


@contextmanager
def ending(process: subprocess.Popen[AnyStr]) -> Iterator[subprocess.Popen[AnyStr]]:
    """Kill a process at the end of the block, unless it has ended by then. `Popen` itself would wait for its end."""
    try:
        yield process
    finally:
        end(process)


@asynccontextmanager
async def dying(process: asyncio.subprocess.Process) -> AsyncIterator[asyncio.subprocess.Process]:
    """Kill a process at the end of the block, unless it has ended by then."""
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await end_soon(process)
