"""Work that ends when a test says so, and turns for the other tasks of a loop."""

from __future__ import annotations

import asyncio
import threading

from tests.fakes import FakeClock


async def turns(count: int = 5) -> None:
    """Let the other tasks run."""
    clock = FakeClock()
    for _ in range(count):
        await clock.sleep(0)


class Gate:
    """Work for a thread that ends when the test says so."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.may_end = threading.Event()
        self.ended = False

    def __call__(self) -> str:
        self.began.set()
        assert self.may_end.wait(120)
        self.ended = True
        return "done"

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.began.wait, 120)
