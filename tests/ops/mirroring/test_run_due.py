"""Which jobs a run tries, and in which order. No job can be downloaded here."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from structlog.testing import capture_logs

from dcsync.core.lifecycle import JobState
from dcsync.core.wire import BadEntry
from dcsync.errors import (
    AccessRefused,
    ApiUnreachable,
    SizeMismatch,
    SpaceNeeds,
)
from dcsync.ops.observed import Observations
from tests.fakes import REQUEST_ID
from tests.rigs.canned import CannedApi
from tests.rigs.due import DAY, DOWN, HOUR, OTHER, Rig, S, make, pending
from tests.rigs.mirror import TODAY
from tests.rigs.publishing import make_id

# --- what a poll records ----------------------------------------------------------------------------------------------


async def test_jobs_that_are_new_and_not_too_old_are_counted(rig: Rig) -> None:
    await rig.know(pending(1), S.WAITING)
    rig.show([make(1), make(2), make(3, 40 * DAY), make(4)])

    outcome = await rig.run()

    assert outcome.new_jobs == 2
    assert rig.tried == [make_id(1), make_id(2), make_id(4)]
    assert (await rig.known(make(3))).state is S.TOO_OLD
    assert [request.id for request in outcome.requests] == [REQUEST_ID]


async def test_a_job_that_changed_is_recorded_though_its_data_request_is_known(rig: Rig) -> None:
    await rig.know(pending(1), S.WAITING)
    rig.show([make(1, completion_status="failed")])

    await rig.run()

    assert (await rig.known(make(1))).state is S.EMPTY


async def test_a_description_is_recorded_though_no_job_changed(rig: Rig) -> None:
    job = await rig.know(make(), S.FAILED, described=False, next_try_at=TODAY + HOUR)
    rig.show([job])

    await rig.run()

    found = (await rig.bench.context.manifest.requests(rig.bench.account.name))[REQUEST_ID]
    assert found.is_described


async def test_a_dry_run_records_nothing(rig: Rig) -> None:
    quarantined = await rig.know(make(2), S.QUARANTINED, next_try_at=TODAY - HOUR, attempts=3, reason_code="F-SIZE")
    manifest, name = rig.bench.context.manifest, rig.bench.account.name
    before, facts = await rig.known(quarantined), await manifest.facts(name)
    rig.bench.mirror.clock.advance(60)
    rig.show([make(1), BadEntry(problem="no id")], [quarantined])

    outcome = await rig.run(dry_run=True)

    assert await manifest.job(name, make_id(1)) is None
    assert await rig.known(quarantined) == before
    assert await manifest.facts(name) == facts
    assert await Observations(manifest, name).unusable_jobs() == ()
    assert await rig.runs() == []
    # But it tries to plan both, and says so.
    assert rig.tried == [make_id(1), make_id(2)]
    assert {failed.state for failed in outcome.failed} == {S.SEEN}
    assert rig.observer.done == rig.tried


async def test_what_cannot_be_used_or_read_is_in_the_outcome_and_kept(rig: Rig) -> None:
    manifest, name = rig.bench.context.manifest, rig.bench.account.name
    api = CannedApi(projects={"ONE": [[BadEntry(problem="no id", dated_at=TODAY)]], "TWO": []})
    api.failing["page 1 of TWO"] = AccessRefused("no")
    rig.api = api

    outcome = await rig.run(projects=("ONE", "TWO"))

    assert len(outcome.unusable) == 1
    assert await Observations(manifest, name).unusable_jobs() == tuple(outcome.unusable)
    assert [(part.code, part.subject) for part in outcome.broken] == [("L-PROJECT", "TWO")]
    assert await Observations(manifest, name).unread_since() == {"TWO": None}
    assert (await manifest.facts(name)).last_success_at is None


# --- which jobs -------------------------------------------------------------------------------------------------------


async def test_jobs_are_tried_oldest_first_and_those_without_a_time_last(rig: Rig) -> None:
    for number, completed in [(5, None), (4, TODAY - DAY), (3, TODAY - DAY), (2, TODAY - 2 * DAY), (1, None)]:
        await rig.know(make(number, completed_at=completed))

    await rig.run()

    assert rig.tried == [make_id(number) for number in (2, 3, 4, 1, 5)]


@pytest.mark.parametrize(
    ("completed", "is_tried"),
    [(TODAY - DAY, True), (TODAY - DAY - timedelta(seconds=1), False), (None, True)],
)
async def test_jobs_that_completed_before_the_start_of_an_account_are_left_alone(
    rig: Rig, completed: datetime | None, *, is_tried: bool
) -> None:
    await rig.know(make(completed_at=completed))

    await rig.run(start=TODAY - DAY)

    assert bool(rig.tried) is is_tried


async def test_only_the_data_requests_of_the_configuration_are_mirrored(rig: Rig) -> None:
    await rig.know(make(1))
    await rig.know(make(2, request_id=OTHER))
    await rig.know(pending(3, request_id=OTHER), S.WAITING)

    outcome = await rig.run(requests=(OTHER,))

    assert rig.tried == [make_id(2)]
    assert ([request.id for request in outcome.requests], outcome.waiting) == ([OTHER], 1)


async def test_a_run_can_be_limited_to_a_data_request_and_mirrors_no_other_one(rig: Rig) -> None:
    await rig.know(make(1))
    await rig.know(make(2, request_id=OTHER))

    await rig.run(OTHER)

    assert rig.tried == [make_id(2)]


async def test_a_limit_does_not_widen_the_configuration(rig: Rig) -> None:
    await rig.know(make(1))

    await rig.run(REQUEST_ID, requests=(OTHER,))

    assert rig.tried == []


async def test_jobs_that_wait_are_counted(rig: Rig) -> None:
    await rig.know(pending(1), S.WAITING)
    await rig.know(make(2, status="odd"), S.WAITING)
    await rig.know(make(3), S.PUBLISHED)

    outcome = await rig.run()

    assert (outcome.waiting, outcome.unclear) == (2, 1)
    # Whether the one with the odd status has a listing is in its alert.
    assert rig.tried == [make_id(2)]


async def test_a_named_job_with_an_odd_status_no_longer_waits(rig: Rig) -> None:
    job = await rig.know(make(1, status="odd"), S.WAITING)
    await rig.know(make(2, status="odd"), S.WAITING)

    outcome = await rig.run(jobs=(job.id,))

    assert (outcome.waiting, outcome.unclear, outcome.skipped) == (0, 0, [])
    assert [failed.job for failed in outcome.failed] == [job.id]


async def test_a_named_job_that_still_runs_waits(rig: Rig) -> None:
    job = await rig.know(pending(1), S.WAITING)

    outcome = await rig.run(jobs=(job.id,))

    assert (outcome.waiting, outcome.found_jobs, rig.tried) == (1, [job.id], [])


@pytest.mark.parametrize(
    ("state", "age", "is_tried"),
    [
        (S.EXPIRED, 29 * DAY, True),  # the clock was wrong
        (S.EXPIRED, 30 * DAY, False),
        (S.QUARANTINED, DAY, True),
        (S.EMPTY, DAY, False),
    ],
)
async def test_a_named_job_is_tried_again_if_its_extract_may_exist(
    rig: Rig, state: JobState, age: timedelta, *, is_tried: bool
) -> None:
    job = make(1, age, completion_status="failed" if state is S.EMPTY else "success")
    if state is S.EMPTY:
        await rig.know(job, state)
    else:
        await rig.know(job, state, attempts=3)

    outcome = await rig.run(jobs=(job.id,))

    assert bool(rig.tried) is is_tried
    assert [skipped.job for skipped in outcome.skipped] == ([] if is_tried else [job.id])
    if is_tried:
        # The attempts count anew.
        assert (await rig.known(job)).attempts == 1


async def test_a_named_job_may_be_too_old_and_of_an_unknown_data_request(rig: Rig) -> None:
    rig.show([make(1, 40 * DAY, request_id=OTHER), make(2, 40 * DAY), make(4, 40 * DAY, request_id=OTHER)])

    outcome = await rig.run(jobs=(make_id(1), make_id(3)), requests=("My *",))

    assert (outcome.found_jobs, [skipped.state for skipped in outcome.skipped]) == ([make_id(1)], [S.TOO_OLD])


@pytest.mark.parametrize(("state", "age"), [(S.SEEN, DAY), (S.TOO_OLD, 40 * DAY)])
async def test_a_named_job_of_another_data_request_is_not_found(rig: Rig, state: JobState, age: timedelta) -> None:
    job = await rig.know(make(1, age), state)

    outcome = await rig.run(jobs=(job.id,), requests=(OTHER,))

    assert (outcome.found_jobs, rig.tried) == ([], [])


@pytest.mark.parametrize(
    ("age", "given_up"),
    [(30 * DAY - HOUR, 1), (30 * DAY, 0)],
)
async def test_quarantined_jobs_count_as_given_up_while_autodesk_has_them(
    rig: Rig, age: timedelta, given_up: int
) -> None:
    await rig.know(make(1, age), S.QUARANTINED, next_try_at=TODAY + HOUR)
    await rig.know(make(2), S.PUBLISHED)

    outcome = await rig.run()

    assert outcome.given_up == given_up
    assert [failed.state for failed in outcome.failed] == [S.EXPIRED] * (1 - given_up)


@pytest.mark.parametrize(("wait", "is_tried"), [(HOUR, False), (timedelta(), True)])
async def test_a_quarantined_job_is_tried_when_its_day_is_over_and_says_why_it_was(
    rig: Rig, wait: timedelta, *, is_tried: bool
) -> None:
    job = await rig.know(
        make(1, 2 * HOUR), S.QUARANTINED, next_try_at=TODAY + wait, attempts=3, reason_code="F-SIZE", reason="short"
    )
    rig.fail(job, ApiUnreachable("no route"))

    outcome = await rig.run()

    assert (bool(rig.tried), outcome.given_up) == (is_tried, 1)
    found = await rig.known(job)
    assert found.state is (S.FAILED if is_tried else S.QUARANTINED)
    assert found.reason_code == ("A-NETWORK" if is_tried else "F-SIZE")


async def test_the_failures_before_the_quarantine_still_count(rig: Rig) -> None:
    job = await rig.know(make(1, HOUR), S.QUARANTINED, next_try_at=TODAY, attempts=3, reason_code="F-SIZE")
    rig.fail(job, SizeMismatch("short"))

    await rig.run()

    found = await rig.known(job)
    assert (found.state, found.attempts) == (S.QUARANTINED, 4)


# --- when -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wait", "reason_code", "is_tried"),
    [
        (timedelta(), "A-SERVER", True),
        (HOUR, "A-SERVER", False),
        (HOUR, "C-NOTABLES", True),  # the configuration has selected no table, and has changed since
        (HOUR, "F-SPACE", True),  # there is space now
    ],
)
async def test_a_failed_job_waits_for_its_time_or_for_what_it_lacks(
    rig: Rig, wait: timedelta, reason_code: str, *, is_tried: bool
) -> None:
    await rig.know(make(), S.FAILED, next_try_at=TODAY + wait, reason_code=reason_code)

    outcome = await rig.run()

    assert (bool(rig.tried), outcome.due_later) == (is_tried, 0 if is_tried else 1)


async def test_a_named_job_is_tried_at_any_time(rig: Rig) -> None:
    job = await rig.know(make(), S.FAILED, next_try_at=TODAY + HOUR, reason_code="A-SERVER")

    outcome = await rig.run(jobs=(job.id,))

    assert (rig.tried, outcome.due_later) == ([f"{job.id}, once"], 0)


@pytest.mark.parametrize(("next_try_at", "is_tried"), [(None, False), (TODAY + HOUR, False), (TODAY - HOUR, True)])
async def test_a_job_for_which_there_is_no_space_waits(
    rig: Rig, next_try_at: datetime | None, *, is_tried: bool
) -> None:
    job = await rig.know(make(), S.FAILED, next_try_at=next_try_at, reason_code="F-SPACE")
    observed = Observations(rig.bench.context.manifest, rig.bench.account.name)
    needs = {job.id: SpaceNeeds(size=1 << 60, entries=0), make_id(9): SpaceNeeds(size=1, entries=0)}
    await observed.save_space_needs(needs)

    outcome = await rig.run()

    assert (bool(rig.tried), outcome.blocked, outcome.due_later) == (
        is_tried,
        0 if is_tried else 1,
        0 if is_tried else 1,
    )
    # What a job needed that is no longer open is forgotten.
    assert (await observed.space_needs()).keys() == {job.id}


@pytest.mark.parametrize("limit", ["dry run", "data request"])
async def test_a_run_that_does_not_look_at_all_jobs_forgets_no_need_of_space(rig: Rig, limit: str) -> None:
    observed = Observations(rig.bench.context.manifest, rig.bench.account.name)
    await observed.save_space_needs({make_id(9): SpaceNeeds(size=1, entries=0)})

    await (rig.run(dry_run=True) if limit == "dry run" else rig.run(REQUEST_ID))

    assert (await observed.space_needs()).keys() == {make_id(9)}


async def test_the_jobs_of_a_data_request_that_cannot_be_read_are_due_later(rig: Rig) -> None:
    rig.show([make()], requests=DOWN)
    rig.api.failing[f"request {REQUEST_ID}"] = DOWN

    outcome = await rig.run()

    assert (rig.tried, outcome.due_later) == ([], 1)
    assert [part.code for part in outcome.broken] == ["L-REQUEST"]


@pytest.mark.parametrize(("age", "warned"), [(20 * DAY, 1), (20 * DAY - HOUR, 0)])
async def test_an_open_job_that_autodesk_deletes_soon_is_a_warning(rig: Rig, age: timedelta, warned: int) -> None:
    job = await rig.know(make(1, age), S.FAILED, next_try_at=TODAY + HOUR, reason_code="A-SERVER")

    with capture_logs() as lines:
        outcome = await rig.run()

    assert outcome.expiring == [job.id] * warned
    found = [line for line in lines if line["event"] == "Autodesk will delete an extract soon"]
    assert [line["job"] for line in found] == [job.id] * warned
