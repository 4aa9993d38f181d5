"""What follows a run: runs that end at the same time share a report."""

from __future__ import annotations

import asyncio

import pytest

from dcsync.app.sync import Reports


async def test_runs_that_end_while_a_report_is_written_share_the_next_one() -> None:
    reports, begun, at_work, go_on = Reports(), 0, asyncio.Event(), asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        at_work.set()
        await go_on.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(reports.write(work))
        await at_work.wait()
        later = [group.create_task(reports.write(work)) for _ in range(9)]
        await asyncio.sleep(0)  # noqa: TID251 - all of them have asked
        assert begun == 1
        go_on.set()

    assert begun == 2
    assert all(task.done() for task in later)


async def test_after_a_report_that_failed_the_next_run_writes_one() -> None:
    reports, written = Reports(), []

    async def fail() -> None:
        raise OSError

    async def work() -> None:
        written.append(1)

    with pytest.raises(OSError):  # noqa: PT011 - its own
        await reports.write(fail)
    await reports.write(work)
    await reports.write(work)

    assert written == [1, 1]
