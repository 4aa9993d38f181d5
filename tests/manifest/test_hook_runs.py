"""Hook runs: when each is due, how long a failure stands, and how long runs are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dcsync.core.events import Event, EventKind
from dcsync.manifest import HookRun, HookRuns, HookState, open_manifest
from tests.fakes import NOON, make_event

LOAD = ("/bin/load", "--all")
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@pytest.fixture
async def runs(tmp_path: Path) -> AsyncIterator[HookRuns]:
    async with open_manifest(tmp_path / "manifest.sqlite") as opened:
        yield HookRuns(opened)


async def add(runs: HookRuns, *events: Event, argv: tuple[str, ...] = LOAD) -> list[HookRun]:
    """Make a hook due for each event, and return the runs."""
    await runs.add([(argv, event) for event in events])
    return list(reversed(await runs.latest(limit=len(events))))


async def finish(runs: HookRuns, run: HookRun, state: HookState, *, at: datetime = NOON, **changes: Any) -> None:
    values: dict[str, Any] = {"exit_status": 0 if state is HookState.DONE else 1, "error": None, "next_try_at": None}
    await runs.finish(run, state=state, at=at, **{**values, **changes})


async def test_a_hook_is_due_at_once_in_the_order_of_the_events(runs: HookRuns) -> None:
    events = [make_event(job=None, kind=EventKind.FAILURE), make_event(data={"folder": "/srv/ü"})]
    await add(runs, *events)

    first, second = await runs.due(NOON)

    assert (first.kind, first.job, second.kind, second.job) == (EventKind.FAILURE, None, EventKind.SNAPSHOT, "job")
    assert second.event == events[1].json()
    assert (second.argv, second.state, second.attempts, second.created_at) == (LOAD, HookState.DUE, 0, NOON)
    assert (second.ended_at, second.exit_status, second.error) == (None, None, None)


async def test_a_failed_hook_is_due_again_at_its_next_attempt(runs: HookRuns) -> None:
    (run,) = await add(runs, make_event())
    await finish(runs, run, HookState.DUE, error="no", next_try_at=NOON + MINUTE)

    assert await runs.due(NOON + MINUTE - timedelta(microseconds=1)) == ()
    (again,) = await runs.due(NOON + MINUTE)
    assert (again.attempts, again.exit_status, again.error, again.ended_at) == (1, 1, "no", NOON)


async def test_a_finished_or_failed_run_is_not_due(runs: HookRuns) -> None:
    done, failed = await add(runs, make_event(), make_event())
    await finish(runs, done, HookState.DONE)
    await finish(runs, failed, HookState.FAILED)

    assert await runs.due(NOON + 1000 * DAY) == ()


async def test_a_run_with_a_time_in_the_future_is_due_now(runs: HookRuns) -> None:
    (created, tried) = await add(runs, make_event(at=NOON + 900 * DAY), make_event())
    await finish(runs, tried, HookState.DUE, at=NOON + 900 * DAY, next_try_at=NOON + 900 * DAY + MINUTE)

    assert [run.id for run in await runs.due(NOON + MINUTE)] == [created.id, tried.id]


async def test_the_next_attempt_is_the_earliest_of_the_due_runs(runs: HookRuns) -> None:
    assert await runs.next_at() is None
    done, soon, late = await add(runs, make_event(), make_event(), make_event())
    await finish(runs, done, HookState.DONE)
    await finish(runs, soon, HookState.DUE, next_try_at=NOON + MINUTE)
    await finish(runs, late, HookState.DUE, next_try_at=NOON + 10 * MINUTE)

    assert await runs.next_at() == NOON + MINUTE


async def test_the_latest_runs_come_first_up_to_the_limit(runs: HookRuns) -> None:
    added = await add(runs, *[make_event(job=f"job-{number % 2}") for number in range(5)])

    assert [run.id for run in await runs.latest(limit=2)] == [added[4].id, added[3].id]
    assert [run.id for run in await runs.latest(job="job-1")] == [added[3].id, added[1].id]
    assert await runs.latest(job="no") == ()


async def test_a_failed_hook_of_a_snapshot_stands_until_a_run_for_that_snapshot_succeeds(runs: HookRuns) -> None:
    (failed,) = await add(runs, make_event())
    await finish(runs, failed, HookState.FAILED)
    other_job, other_argv = await add(runs, make_event(job="b")), await add(runs, make_event(), argv=("/bin/no",))
    for run in (*other_job, *other_argv):
        await finish(runs, run, HookState.DONE)
    assert [run.id for run in await runs.failed("acme")] == [failed.id]
    assert await runs.failed("beta") == ()

    (again,) = await add(runs, make_event())
    assert [run.id for run in await runs.failed("acme")] == [failed.id]
    await finish(runs, again, HookState.DONE)
    assert await runs.failed("acme") == ()


async def test_any_other_failed_hook_stands_until_the_next_run_succeeds(runs: HookRuns) -> None:
    (failed,) = await add(runs, make_event(EventKind.FAILURE, job=None))
    await finish(runs, failed, HookState.FAILED)
    assert [run.id for run in await runs.failed("acme")] == [failed.id]

    (next_one,) = await add(runs, make_event(EventKind.RECOVERED, job=None))
    await finish(runs, next_one, HookState.DONE)

    assert await runs.failed("acme") == ()


async def test_an_earlier_success_does_not_make_up_for_a_later_failure(runs: HookRuns) -> None:
    worked, failed = await add(runs, make_event(), make_event())
    await finish(runs, worked, HookState.DONE)
    await finish(runs, failed, HookState.FAILED)

    assert [run.id for run in await runs.failed("acme")] == [failed.id]


async def test_old_runs_are_deleted_unless_they_are_due(runs: HookRuns) -> None:
    old_done, old_due = await add(runs, make_event(), make_event())
    (new,) = await add(runs, make_event(at=NOON + MINUTE))
    for run in (old_done, new):
        await finish(runs, run, HookState.DONE)

    await runs.delete_finished(before=NOON + MINUTE)

    assert [run.id for run in await runs.latest()] == [new.id, old_due.id]
