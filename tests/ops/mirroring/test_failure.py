"""A failed job: its state, its next attempt, and what the outcome and the log say of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from structlog.testing import capture_logs

from dcsync.core.lifecycle import JobState, next_try_after
from dcsync.core.model import Job
from dcsync.core.ports import KnownJob
from dcsync.errors import (
    ApiFault,
    DcsyncError,
    DiskDenied,
    DiskFull,
    ExtractEmpty,
    ExtractMissing,
    InodesExhausted,
    NothingSelected,
    RateLimited,
    SizeMismatch,
    SpaceNeeds,
    StorageFault,
)
from dcsync.ops.mirroring.failure import Failures
from dcsync.ops.mirroring.outcome import AccountOutcome, Failed
from dcsync.ops.mirroring.room import Room
from dcsync.ops.mirroring.selection import reselected
from tests.fakes import make_job
from tests.rigs.mirror import TODAY
from tests.rigs.publishing import Workbench, make_id

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
FAULT = ApiFault("no answer")
POISON = SizeMismatch("too short")
#: Half of the random part of a wait.
DRAW = 0.5


@pytest.fixture
def outcome(bench: Workbench) -> AccountOutcome:
    return AccountOutcome(account=bench.account)


async def fail(
    bench: Workbench,
    outcome: AccountOutcome,
    error: DcsyncError,
    *,
    age: timedelta = timedelta(),
    attempts: int = 0,
    reason_code: str | None = None,
    dry_run: bool = False,
    **job: str,
) -> KnownJob:
    """Fail a job of that age, and return what the manifest has of it afterwards."""
    made = make_job(id=make_id(1), created_at=TODAY - age, completed_at=TODAY - age, **job)
    known = replace(await bench.know(made), attempts=attempts, reason_code=reason_code)
    failures = Failures(bench.account, outcome, dry_run=dry_run)
    await failures.fail(replace(bench.context, draw=lambda: DRAW), known, error)
    found = await bench.context.manifest.job(bench.account.name, made.id)
    assert found is not None
    return found


def due_after(attempts: int, *, asked_s: float | None = None) -> datetime:
    return TODAY + next_try_after(attempts, asked_s=asked_s, draw=DRAW)


async def test_a_failed_job_is_tried_again_after_its_back_off(bench: Workbench, outcome: AccountOutcome) -> None:
    found = await fail(bench, outcome, FAULT)

    assert (found.state, found.attempts, found.next_try_at) == (JobState.FAILED, 1, due_after(1))
    assert (found.reason_code, found.reason) == ("A-SERVER", "no answer")
    assert outcome.failed == [
        Failed(
            job=found.job.id,
            state=JobState.FAILED,
            code="A-SERVER",
            message="no answer",
            hint=FAULT.advice,
            next_try_at=due_after(1),
        )
    ]


@pytest.mark.parametrize(("reason_code", "attempts"), [("A-SERVER", 3), ("F-SIZE", 1), (None, 1)])
async def test_only_failures_with_the_same_code_in_a_row_count(
    bench: Workbench, outcome: AccountOutcome, reason_code: str | None, attempts: int
) -> None:
    found = await fail(bench, outcome, FAULT, attempts=2, reason_code=reason_code)

    assert (found.attempts, found.next_try_at) == (attempts, due_after(attempts))


async def test_the_wait_that_the_server_asks_for_is_kept(bench: Workbench, outcome: AccountOutcome) -> None:
    found = await fail(bench, outcome, RateLimited("wait", retry_after_s=7200.0))

    assert found.next_try_at == due_after(1, asked_s=7200.0)


@pytest.mark.parametrize(
    ("error", "attempts", "state"),
    [
        (POISON, 1, JobState.FAILED),
        (POISON, 2, JobState.QUARANTINED),
        (FAULT, 9, JobState.FAILED),
    ],
)
async def test_wrong_content_is_quarantined_at_the_third_attempt(
    bench: Workbench, outcome: AccountOutcome, error: DcsyncError, attempts: int, state: JobState
) -> None:
    found = await fail(bench, outcome, error, attempts=attempts, reason_code=error.code)

    assert found.state is state
    if state is JobState.QUARANTINED:
        assert found.next_try_at == outcome.failed[0].next_try_at == TODAY + DAY


@pytest.mark.parametrize(
    ("error", "days", "state"),
    [
        (FAULT, 30, JobState.EXPIRED),
        (FAULT, 29, JobState.FAILED),
        (StorageFault("no answer"), 30, JobState.EXPIRED),
        (POISON, 30, JobState.EXPIRED),
        (DiskDenied("refused"), 30, JobState.FAILED),
    ],
)
async def test_a_call_that_fails_when_autodesk_has_deleted_the_extract_is_a_loss(
    bench: Workbench, outcome: AccountOutcome, error: DcsyncError, days: int, state: JobState
) -> None:
    with capture_logs() as lines:
        found = await fail(bench, outcome, error, age=days * DAY)

    assert found.state is state
    is_loss = state is JobState.EXPIRED
    assert (found.next_try_at is None) is is_loss
    assert (outcome.failed[0].hint == error.advice) is not is_loss
    (line,) = lines
    assert (line["log_level"], line["event"]) == (("error", "extract lost") if is_loss else ("warning", "job failed"))
    assert (line["job"], line["state"], line["code"]) == (found.job.id, state.value, error.code)


@pytest.mark.parametrize("error", [ExtractMissing("no listing"), ExtractEmpty("an empty listing")])
@pytest.mark.parametrize(
    ("age", "status", "state"),
    [
        (DAY, "complete", JobState.FAILED),
        (DAY + timedelta(seconds=1), "complete", JobState.QUARANTINED),
        (DAY + timedelta(seconds=1), "odd", JobState.WAITING),
        (30 * DAY, "complete", JobState.EXPIRED),
        (30 * DAY, "odd", JobState.EXPIRED),
    ],
)
async def test_a_job_without_a_listing_is_given_time_by_its_age_and_status(
    bench: Workbench, outcome: AccountOutcome, error: DcsyncError, age: timedelta, status: str, state: JobState
) -> None:
    found = await fail(bench, outcome, error, age=age, status=status)

    assert found.state is state
    if state is JobState.WAITING:
        assert outcome.failed[0].hint.startswith("the job has no data listing")
        assert found.next_try_at is None


async def test_a_job_without_dates_is_tried_again(bench: Workbench, outcome: AccountOutcome) -> None:
    made = make_job(id=make_id(1), created_at=None, completed_at=None)
    known = await bench.know(made)

    await Failures(bench.account, outcome, dry_run=False).fail(bench.context, known, ExtractMissing("no listing"))

    assert await bench.state(made) is JobState.FAILED


async def test_a_selection_that_leaves_nothing_is_remembered_with_its_job(
    bench: Workbench, outcome: AccountOutcome
) -> None:
    found = await fail(bench, outcome, NothingSelected("include matches nothing"))
    jobs = {found.job.id: found}

    assert await reselected(bench.context.manifest, bench.account, jobs) == set()
    wider = replace(bench.account, selection=replace(bench.account.selection, include=("admin_*",)))
    assert await reselected(bench.context.manifest, wider, jobs) == {found.job.id}


async def test_in_a_dry_run_nothing_is_recorded_or_logged(bench: Workbench, outcome: AccountOutcome) -> None:
    with capture_logs() as lines:
        found = await fail(bench, outcome, FAULT, dry_run=True)

    assert (found.state, found.reason_code, lines) == (JobState.SEEN, None, [])
    (failed,) = outcome.failed
    assert (failed.job, failed.state, failed.code) == (found.job.id, JobState.SEEN, "A-SERVER")
    assert (failed.message, failed.hint, failed.next_try_at) == ("no answer", FAULT.advice, None)


# --- space ------------------------------------------------------------------------------------------------------------

NEEDS = SpaceNeeds(size=1 << 40, entries=3)


@pytest.mark.parametrize("kind", [DiskFull, InodesExhausted])
async def test_jobs_that_wait_for_space_are_one_failure_without_an_attempt(
    bench: Workbench, outcome: AccountOutcome, kind: type[DiskFull | InodesExhausted]
) -> None:
    error = kind("too little space", needs=NEEDS)
    failures, room = Failures(bench.account, outcome, dry_run=False), Room(bench.context, bench.account.name)
    jobs = [bench.job(number) for number in (1, 2, 3)]

    for job in jobs:
        known = replace(await bench.know(job), attempts=2)
        await failures.wait_for_room(bench.context, room, known, error)

    assert ([failed.job for failed in outcome.failed], outcome.blocked, outcome.due_later) == ([jobs[0].id], 3, 2)
    assert outcome.failed[0].next_try_at is None
    last = None
    for job in jobs:
        last = await bench.context.manifest.job(bench.account.name, job.id)
        assert last is not None
        assert (last.state, last.attempts, last.next_try_at) == (JobState.FAILED, 0, None)
        assert (last.reason_code, last.reason) == (error.code, "too little space")
    assert last is not None
    assert (await room.blocked([last])).keys() == {jobs[2].id}


async def test_a_disk_that_fills_up_during_a_download_counts_as_an_attempt_of_each_job(
    bench: Workbench, outcome: AccountOutcome
) -> None:
    failures, room = Failures(bench.account, outcome, dry_run=False), Room(bench.context, bench.account.name)

    for number in (1, 2):
        await failures.wait_for_room(bench.context, room, await bench.know(bench.job(number)), DiskFull("full"))

    assert (len(outcome.failed), outcome.blocked, outcome.due_later) == (2, 2, 0)
    found = await bench.context.manifest.job(bench.account.name, bench.job(2).id)
    assert found is not None
    assert found.attempts == 1
    assert found.next_try_at is not None


# --- losses -----------------------------------------------------------------------------------------------------------


def lost(job: Job, reason_code: str | None, state: JobState = JobState.EXPIRED) -> KnownJob:
    return KnownJob(job=job, state=state, reason_code=reason_code, reason="is gone")


def test_a_job_that_autodesk_deleted_before_it_was_mirrored_is_reported_as_lost(
    bench: Workbench, outcome: AccountOutcome
) -> None:
    one, two, unwanted, other = (make_job(id=make_id(number)) for number in (1, 2, 3, 4))
    changed = [lost(one, "F-SIZE"), lost(two, None), lost(unwanted, None), lost(other, None, JobState.EMPTY)]

    with capture_logs() as lines:
        Failures(bench.account, outcome, dry_run=False).report_losses(changed, [changed[0], changed[1], changed[3]])

    assert [(failed.job, failed.code) for failed in outcome.failed] == [(one.id, "F-SIZE"), (two.id, "L-STATUS")]
    assert {failed.state for failed in outcome.failed} == {JobState.EXPIRED}
    assert outcome.failed[0].message == f"job {one.id} is gone"
    assert [(line["event"], line["log_level"]) for line in lines] == [("extract lost", "error")] * 2
