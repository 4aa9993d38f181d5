"""Two writers of one manifest file, and reads and writes that are cancelled."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
import sqlalchemy as sa

from dcsync.core.lifecycle import JobState
from dcsync.core.ports import AccountFacts
from dcsync.manifest import SqlManifest, open_manifest
from tests.fakes import JOB_ID, make_stored
from tests.rigs.sqlite import ACME, backend_of, fill, publish, raw


async def test_a_writer_waits_until_the_other_one_is_done(path: Path) -> None:
    await fill(path)
    facts = AccountFacts(error="written second")
    async with open_manifest(path) as manifest, asyncio.TaskGroup() as group:
        with raw(path) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("UPDATE account SET error = 'written first'")
            writing = group.create_task(manifest.learn(ACME, facts))
            # The time is not waited for but given: one that does not wait is refused within it.
            _, waiting = await asyncio.wait({writing}, timeout=0.2)
            other.execute("COMMIT")
        await writing

        assert waiting == {writing}
        assert await manifest.facts(ACME) == facts


async def cancel_at(manifest: SqlManifest, statement: str, moment: str) -> bool:
    """Publish, and cancel that when the database is at a statement; say whether it came there and was cancelled."""
    reached = False

    def cancel(connection: object, cursor: object, executed: str, *rest: object) -> None:
        nonlocal reached
        if executed.startswith(statement) and not reached:
            reached = True
            publishing.cancel()

    sa.event.listen(backend_of(manifest)._engine.sync_engine, moment, cancel)
    async with asyncio.TaskGroup() as group:
        publishing = group.create_task(publish(manifest, JOB_ID, make_stored("new.csv")))
    sa.event.remove(backend_of(manifest)._engine.sync_engine, moment, cancel)
    return reached and publishing.cancelled()


@pytest.mark.parametrize(
    "statement", ["SELECT account.name", "INSERT INTO job", "INSERT INTO content", "UPDATE job SET request"]
)
@pytest.mark.parametrize("moment", ["before_cursor_execute", "after_cursor_execute"])
async def test_a_write_that_is_cancelled_at_a_statement_is_rolled_back_whole(
    path: Path, statement: str, moment: str
) -> None:
    async with open_manifest(path) as manifest:
        await publish(manifest, "before")
        before = await manifest.jobs(ACME)

        assert await cancel_at(manifest, statement, moment)
        # What a cancelled statement leaves in a reference cycle would hold the lock.
        gc.collect()

        after = dict(await manifest.jobs(ACME))
        # The poll before it is a transaction of its own.
        polled = after.pop(JOB_ID, None)
        assert after == before
        assert polled is None or (polled.state, polled.folder) == (JobState.SEEN, None)
        assert (polled is None) == (statement in {"SELECT account.name", "INSERT INTO job"})
        with raw(path) as other:
            assert other.execute("SELECT id FROM job WHERE files IS NOT NULL").fetchall() == [("before",)]


async def test_closing_comes_to_its_end_however_often_it_is_cancelled(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """docs/project/faults.md D10: a second SIGTERM comes while the first one closes everything."""
    opened = asyncio.Event()

    async def hold() -> None:
        async with open_manifest(path):
            opened.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        holding = group.create_task(hold())
        await opened.wait()
        while not holding.done():
            holding.cancel()
            await asyncio.sleep(0)  # noqa: TID251 - one turn of the loop

    assert holding.cancelled()
    assert caplog.records == []


#: Takes a tenth of a second, so that cancelling meets it at work.
SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT max(i) FROM n"


@pytest.mark.parametrize("turns", range(8))
async def test_a_read_that_is_cancelled_again_while_it_closes_leaves_nothing_that_never_ends(
    path: Path, turns: int
) -> None:
    """Three times Ctrl-C: the loop waited for ever for a thread that had ended."""

    async def read() -> None:
        async with open_manifest(path) as manifest, manifest.reading() as connection:
            begun.set()
            await connection.execute(sa.text(SLOW))

    begun, before = asyncio.Event(), asyncio.all_tasks()
    task = asyncio.ensure_future(read())  # noqa: TID251 - it is cancelled, and awaited below
    await begun.wait()
    await asyncio.sleep(0.01)  # noqa: TID251 - the thread's work
    task.cancel()
    for _ in range(3):
        for _ in range(turns):
            await asyncio.sleep(0)  # noqa: TID251 - where in closing the next one comes
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    left = asyncio.all_tasks() - before
    for other in left:
        other.cancel()
    if left:
        _, endless = await asyncio.wait(left, timeout=120)
        assert endless == set()
