"""What was told, what is remembered, and the hooks: all of it or nothing, and still there after a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dcsync.core.alerts import Alert, AlertCode, StandingAlert
from dcsync.core.events import Event, EventKind
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId, RequestId
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.errors import ManifestError
from dcsync.manifest import HookRun, HookState, Notes, SqlManifest, Sums, open_manifest
from tests.fakes import NOON, REQUEST_ID, make_job, make_published, make_request, make_snapshot, make_transfer
from tests.manifest.test_sql import downgrade

ACME, BETA = AccountName("acme"), AccountName("beta")
LOAD = ("/bin/load", "--all")
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
X, Y = AlertCode.L_LATE, AlertCode.L_SLOW
LONG_AGO = NOON - 1000 * DAY


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "manifest.sqlite"


@pytest.fixture
async def manifest(path: Path) -> AsyncIterator[SqlManifest]:
    """An empty manifest."""
    async with open_manifest(path) as opened:
        yield opened


@pytest.fixture
def notes(manifest: SqlManifest) -> Notes:
    return Notes(manifest)


def make_standing(code: AlertCode = X, *, account: str = "acme", **changes: Any) -> StandingAlert:
    values: dict[str, Any] = {"since": NOON, "notified_at": None, **changes}
    alert = Alert.of(code, account=account, message=f"{code} stands", hint="do", subject=values.pop("subject", ""))
    return StandingAlert(alert=alert, **values)


def make_event(kind: EventKind = EventKind.SNAPSHOT, *, job: str | None = "job", **changes: Any) -> Event:
    return Event(**{"kind": kind, "account": "acme", "at": NOON, "message": "ü\n\x1b[31m", "job": job, **changes})


async def note(notes: Notes, *events: Event, argv: tuple[str, ...] = LOAD) -> list[HookRun]:
    """Note a hook for each event, and return the runs."""
    await notes.settle([], standing=[], hooks=[(argv, event) for event in events], remembered={})
    return list(reversed(await notes.hooks_of(limit=len(events))))


async def end(notes: Notes, run: HookRun, state: HookState, *, at: datetime = NOON, **changes: Any) -> None:
    values: dict[str, Any] = {"exit_status": 0 if state is HookState.DONE else 1, "error": None, "next_try_at": None}
    await notes.finish_hook(run, state=state, at=at, **{**values, **changes})


async def publish(manifest: SqlManifest, job: str, at: datetime = NOON, *, account: AccountName = ACME) -> None:
    known = KnownJob(job=make_job(id=JobId(job)), state=JobState.SEEN)
    await manifest.record_poll(account, jobs=[known], requests=[], at=NOON)
    transfer = make_transfer(fetched_bytes=80, linked_bytes=7)
    record = make_published(job, folder=f"{account}/{job}", at=at, transfer=transfer)
    await manifest.publish(account, record, make_snapshot().files)


def make_known_request(identifier: str = REQUEST_ID) -> KnownRequest:
    return KnownRequest(id=RequestId(identifier), description="Nightly", slug="nightly", is_delta=False)


# --- what stands ------------------------------------------------------------------------------------------------------


async def test_what_stands_comes_back_oldest_first_with_its_history(notes: Notes) -> None:
    young = make_standing(Y, since=NOON + timedelta(microseconds=1), notified_at=NOON + DAY)
    old = make_standing(X, subject="job")

    await notes.settle(["acme"], standing=[young, old], hooks=[], remembered={})

    assert await notes.standing(["acme"]) == (old, young)


async def test_an_account_s_part_is_replaced_and_the_others_stay(notes: Notes) -> None:
    await notes.settle(
        ["acme", "beta"], standing=[make_standing(), make_standing(account="beta")], hooks=[], remembered={}
    )

    await notes.settle(["acme"], standing=[make_standing(Y)], hooks=[], remembered={})

    assert [item.alert.code for item in await notes.standing(["acme"])] == [Y]
    assert [item.alert.code for item in await notes.standing(["beta"])] == [X]
    assert await notes.standing(["gamma"]) == ()
    assert len(await notes.standing(["acme", "beta"])) == 2


async def test_what_was_told_its_hooks_and_what_is_remembered_are_written_together_or_not_at_all(notes: Notes) -> None:
    await notes.settle(["acme"], standing=[make_standing()], hooks=[], remembered={"k": "before"})
    twice = [make_standing(Y), make_standing(Y)]

    with pytest.raises(ManifestError):
        await notes.settle(["acme"], standing=twice, hooks=[(LOAD, make_event())], remembered={"k": "after"})

    assert [item.alert.code for item in await notes.standing(["acme"])] == [X]
    assert await notes.recall("k") == "before"
    assert await notes.hooks_of() == ()


async def test_what_is_remembered_is_replaced_and_of_the_rest_nothing_is_known(notes: Notes) -> None:
    assert await notes.recall("k") is None
    await notes.remember("k", "1")
    await notes.remember("k", "2")
    await notes.remember("other", "")

    assert await notes.recall("k") == "2"
    assert await notes.recall("other") == ""


async def test_it_is_all_there_after_a_restart(path: Path) -> None:
    async with open_manifest(path) as before:
        notes = Notes(before)
        await notes.settle(["acme"], standing=[make_standing()], hooks=[(LOAD, make_event())], remembered={"k": "v"})

    async with open_manifest(path) as after:
        notes = Notes(after)
        assert len(await notes.standing(["acme"])) == 1
        assert len(await notes.due_hooks(NOON)) == 1
        assert await notes.recall("k") == "v"


# --- snapshots --------------------------------------------------------------------------------------------------------


async def test_snapshots_after_a_moment_come_in_the_order_they_were_published(
    manifest: SqlManifest, notes: Notes
) -> None:
    await publish(manifest, "b", NOON + MINUTE)
    await publish(manifest, "c", NOON + MINUTE)
    await publish(manifest, "a", NOON + 2 * MINUTE)
    await publish(manifest, "old", NOON)
    await publish(manifest, "others", NOON + MINUTE, account=BETA)

    assert [row.job for row in await notes.published_after(ACME, NOON)] == ["b", "c", "a"]
    assert [row.job for row in await notes.published_after(ACME, NOON - timedelta(microseconds=1))] == [
        "old",
        "b",
        "c",
        "a",
    ]
    assert await notes.published_after(ACME, NOON + 2 * MINUTE) == ()


async def test_a_snapshot_that_is_named_is_there_whenever_it_was_published(manifest: SqlManifest, notes: Notes) -> None:
    await publish(manifest, "a")
    await publish(manifest, "b")
    await publish(manifest, "others", account=BETA)

    assert [row.job for row in await notes.published_after(ACME, NOON, also=["a", "others", "no"])] == ["a"]


async def test_a_snapshot_says_what_it_is_also_when_its_request_is_not_known(
    manifest: SqlManifest, notes: Notes
) -> None:
    await publish(manifest, "a")
    (before,) = await notes.published_after(ACME, LONG_AGO)
    await manifest.record_poll(ACME, jobs=[], requests=[(make_known_request(), None)], at=NOON)

    (row,) = await notes.published_after(ACME, LONG_AGO)

    assert (before.description, row.description) == ("", "Nightly")
    assert (row.request, row.folder, row.completed_at) == (REQUEST_ID, "acme/a", NOON)
    assert (row.published_at, row.fetched_bytes, row.linked_bytes) == (NOON, 80, 7)


async def test_a_job_whose_folder_is_gone_is_no_snapshot(manifest: SqlManifest, notes: Notes) -> None:
    await publish(manifest, "a")
    await manifest.move(ACME, JobId("a"), JobState.SEEN, at=NOON)

    assert await notes.published_after(ACME, LONG_AGO, also=["a"]) == ()


# --- hooks ------------------------------------------------------------------------------------------------------------


async def test_a_hook_is_due_at_once_in_the_order_of_the_events(notes: Notes) -> None:
    events = [make_event(job=None, kind=EventKind.FAILURE), make_event(data={"folder": "/srv/ü"})]
    await note(notes, *events)

    first, second = await notes.due_hooks(NOON)

    assert (first.kind, first.job, second.kind, second.job) == (EventKind.FAILURE, None, EventKind.SNAPSHOT, "job")
    assert second.event == events[1].json()
    assert (second.argv, second.state, second.attempts, second.created_at) == (LOAD, HookState.DUE, 0, NOON)
    assert (second.ended_at, second.exit_status, second.error) == (None, None, None)


async def test_a_hook_that_failed_is_due_at_its_time(notes: Notes) -> None:
    (run,) = await note(notes, make_event())
    await end(notes, run, HookState.DUE, error="no", next_try_at=NOON + MINUTE)

    assert await notes.due_hooks(NOON + MINUTE - timedelta(microseconds=1)) == ()
    (again,) = await notes.due_hooks(NOON + MINUTE)
    assert (again.attempts, again.exit_status, again.error, again.ended_at) == (1, 1, "no", NOON)


async def test_what_is_done_or_given_up_is_not_due(notes: Notes) -> None:
    done, failed = await note(notes, make_event(), make_event())
    await end(notes, done, HookState.DONE)
    await end(notes, failed, HookState.FAILED)

    assert await notes.due_hooks(NOON + 1000 * DAY) == ()


async def test_a_hook_of_a_clock_that_was_ahead_does_not_wait_until_then(notes: Notes) -> None:
    (created, tried) = await note(notes, make_event(at=NOON + 900 * DAY), make_event())
    await end(notes, tried, HookState.DUE, at=NOON + 900 * DAY, next_try_at=NOON + 900 * DAY + MINUTE)

    assert [run.id for run in await notes.due_hooks(NOON + MINUTE)] == [created.id, tried.id]


async def test_the_newest_runs_are_listed_first_and_no_more_than_asked_for(notes: Notes) -> None:
    runs = await note(notes, *[make_event(job=f"job-{number % 2}") for number in range(5)])

    assert [run.id for run in await notes.hooks_of(limit=2)] == [runs[4].id, runs[3].id]
    assert [run.id for run in await notes.hooks_of(job="job-1")] == [runs[3].id, runs[1].id]
    assert await notes.hooks_of(job="no") == ()


async def test_a_snapshot_s_failed_hook_stands_until_a_run_for_that_snapshot_works(notes: Notes) -> None:
    (failed,) = await note(notes, make_event())
    await end(notes, failed, HookState.FAILED)
    other_job, other_argv = await note(notes, make_event(job="b")), await note(notes, make_event(), argv=("/bin/no",))
    for run in (*other_job, *other_argv):
        await end(notes, run, HookState.DONE)
    assert [run.id for run in await notes.failed_hooks("acme")] == [failed.id]
    assert await notes.failed_hooks("beta") == ()

    (again,) = await note(notes, make_event())
    assert [run.id for run in await notes.failed_hooks("acme")] == [failed.id]
    await end(notes, again, HookState.DONE)
    assert await notes.failed_hooks("acme") == ()


async def test_any_other_failed_hook_stands_until_the_next_run_works(notes: Notes) -> None:
    (failed,) = await note(notes, make_event(EventKind.FAILURE, job=None))
    await end(notes, failed, HookState.FAILED)
    assert [run.id for run in await notes.failed_hooks("acme")] == [failed.id]

    (next_one,) = await note(notes, make_event(EventKind.RECOVERED, job=None))
    await end(notes, next_one, HookState.DONE)

    assert await notes.failed_hooks("acme") == ()


async def test_a_run_that_worked_before_makes_no_later_failure_good(notes: Notes) -> None:
    worked, failed = await note(notes, make_event(), make_event())
    await end(notes, worked, HookState.DONE)
    await end(notes, failed, HookState.FAILED)

    assert [run.id for run in await notes.failed_hooks("acme")] == [failed.id]


async def test_old_runs_are_forgotten_unless_they_are_due(notes: Notes) -> None:
    old_done, old_due = await note(notes, make_event(), make_event())
    (new,) = await note(notes, make_event(at=NOON + MINUTE))
    for run in (old_done, new):
        await end(notes, run, HookState.DONE)

    await notes.forget_hooks(before=NOON + MINUTE)

    assert [run.id for run in await notes.hooks_of()] == [new.id, old_due.id]


# --- what else the store tells ----------------------------------------------------------------------------------------


async def test_requests_are_told_as_the_api_last_described_them(manifest: SqlManifest) -> None:
    other = RequestId("0b5f0a52-0000-4000-8000-000000000002")
    first = make_request(schedule_interval="DAY", effective_from=NOON, extra={"new": [1]})
    await manifest.record_poll(
        ACME, jobs=[], requests=[(make_known_request(), first), (make_known_request(other), None)], at=NOON
    )
    assert await manifest.request_documents(ACME) == {REQUEST_ID: first}
    assert await manifest.request_documents(BETA) == {}

    changed = make_request(schedule_interval="WEEK", is_active=False)
    await manifest.record_poll(ACME, jobs=[], requests=[(make_known_request(), changed)], at=NOON)
    # Without a description the last one stays.
    await manifest.record_poll(ACME, jobs=[], requests=[(make_known_request(), None)], at=NOON)

    assert await manifest.request_documents(ACME) == {REQUEST_ID: changed}


async def test_sums_are_of_all_snapshots_of_an_account_pruned_ones_included(manifest: SqlManifest) -> None:
    assert await manifest.sums(ACME) == Sums()
    for job in ("a", "b"):
        await publish(manifest, job)
    await publish(manifest, "c", account=BETA)
    await manifest.move(ACME, JobId("a"), JobState.PRUNED, at=NOON)
    await manifest.record_poll(
        ACME, jobs=[KnownJob(job=make_job(id=JobId("d")), state=JobState.SEEN)], requests=[], at=NOON
    )

    assert await manifest.sums(ACME) == Sums(snapshots=2, calls=6, fetched_bytes=160, linked_bytes=14)


async def test_whether_it_has_the_newest_schema_can_be_asked_before_it_is_read(path: Path) -> None:
    async with open_manifest(path) as manifest:
        assert await manifest.is_current()
    downgrade(path, "0002")

    async with open_manifest(path, read_only=True) as manifest:
        assert not await manifest.is_current()


async def test_when_the_next_hook_is_to_be_tried_is_the_soonest_of_those_that_are_due(notes: Notes) -> None:
    assert await notes.next_hook_at() is None
    done, soon, late = await note(notes, make_event(), make_event(), make_event())
    await end(notes, done, HookState.DONE)
    await end(notes, soon, HookState.DUE, next_try_at=NOON + MINUTE)
    await end(notes, late, HookState.DUE, next_try_at=NOON + 10 * MINUTE)

    assert await notes.next_hook_at() == NOON + MINUTE
