"""What follows a run: a report, which runs share, and which is not written again if it would show the same."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from dcsync.app.sync import Reports, follow_up, open_dispatcher
from dcsync.core.alerts import AlertCode
from dcsync.core.model import AccountName
from dcsync.manifest import SnapshotRows
from dcsync.manifest.broken import BrokenPart, BrokenParts
from tests.fakes import NOON
from tests.rigs.mirror import Mirror, add_extract, tables


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


SHORT = timedelta(hours=3)


@pytest.mark.parametrize(
    ("content", "later", "is_due"),
    [
        (["a"], timedelta(0), False),
        (["a"], timedelta(minutes=29), False),
        (["a"], timedelta(minutes=30), True),
        # The clock was set back.
        (["a"], timedelta(minutes=-1), True),
        (["b"], timedelta(0), True),
    ],
)
def test_a_report_is_due_when_it_would_show_something_else_or_an_old_time(
    content: list[str], later: timedelta, is_due: bool
) -> None:
    reports = Reports()
    assert reports.is_due(["a"], NOON, stale_after=SHORT)
    reports.note(["a"], NOON, is_written=True)

    assert reports.is_due(content, NOON + later, stale_after=SHORT) is is_due


def test_a_page_that_is_soon_outdated_is_written_more_often() -> None:
    reports = Reports()
    reports.note(["a"], NOON, is_written=True)

    assert not reports.is_due(["a"], NOON + timedelta(minutes=9), stale_after=timedelta(hours=1))
    assert reports.is_due(["a"], NOON + timedelta(minutes=10), stale_after=timedelta(hours=1))


def test_a_report_that_could_not_be_written_is_due() -> None:
    reports = Reports()
    reports.note(["a"], NOON, is_written=True)
    reports.note(["b"], NOON, is_written=False)

    assert reports.is_due(["b"], NOON, stale_after=SHORT)


async def test_a_poll_writes_the_report_only_if_it_shows_something_else(mirror: Mirror) -> None:
    add_extract(mirror, tables(2, seed=1), days_ago=2)
    await mirror.sync()
    config, reports, page = mirror.configuration(), Reports(), mirror.root / "index.html"
    async with mirror.opened() as context:
        dispatcher = await open_dispatcher(
            config, mirror.stores(config), context, environ=mirror.environ, runs_hooks=False
        )

        async def is_rewritten() -> bool:
            before = page.stat() if page.exists() else None
            assert await follow_up(config, context, dispatcher, [], reports) is not None
            after = page.stat()
            return before is None or (before.st_ino, before.st_mtime_ns) != (after.st_ino, after.st_mtime_ns)

        assert await is_rewritten()
        assert not await is_rewritten()
        mirror.clock.advance(1860)
        assert await is_rewritten()
        page.unlink()
        assert await is_rewritten()
        page.unlink()
        page.mkdir()
        assert not await is_rewritten()
        assert [part.code for part in await BrokenParts(context.manifest, None).load()] == [AlertCode.P_REPORT]
        page.rmdir()
        assert await is_rewritten()
        # That page still had the alert.
        assert await is_rewritten()
        (mirror.root / "views.sql").unlink()
        assert await is_rewritten()
        part = BrokenPart(code=AlertCode.M_MASS, message="too many")
        await BrokenParts(context.manifest, AccountName("acme")).record(part)
        assert await is_rewritten()
        (job,) = await context.manifest.jobs(AccountName("acme"))
        await SnapshotRows(context.manifest).record_pruned(AccountName("acme"), [job], at=mirror.clock.now())
        assert await is_rewritten()
        assert not await is_rewritten()
