"""Work on rows in a thread."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dcsync.errors import RowsInterrupted
from dcsync.rows import Engine, in_thread, opened
from dcsync.tasks import DiskThreads

#: It would run for days.
ENDLESS = "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range * b.range = 7"


async def test_it_returns_the_result() -> None:
    with DiskThreads() as disk, opened(memory=128 << 20, spill=None) as engine:
        assert await in_thread(disk, engine, lambda: engine.one("SELECT 42")) == (42,)


async def test_cancelling_ends_the_statement_and_every_later_one() -> None:
    started = threading.Event()
    ends: list[type[BaseException]] = []

    def work(engine: Engine) -> None:
        started.set()
        for _ in range(2):
            try:
                engine.one(ENDLESS)
            except RowsInterrupted as error:
                ends.append(type(error))
        raise RowsInterrupted("ended")

    with DiskThreads() as disk, opened(memory=128 << 20, spill=None) as engine:
        async with asyncio.timeout(60):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(in_thread(disk, engine, lambda: work(engine)))
                await disk.run(started.wait)
                task.cancel()
        assert task.cancelled()
    assert ends == [RowsInterrupted, RowsInterrupted]


async def test_an_error_of_the_work_is_raised() -> None:
    def work() -> None:
        message = "broken"
        raise OSError(message)

    with (
        DiskThreads() as disk,
        opened(memory=128 << 20, spill=None) as engine,
        pytest.raises(OSError, match="broken"),
    ):
        await in_thread(disk, engine, work)
