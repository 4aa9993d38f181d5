"""Which jobs a run tries, in which order, and what it records of itself. No job can be downloaded here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, Job, JobId, RequestId
from dcsync.core.ports import KnownJob
from dcsync.core.wire import BadEntry
from dcsync.errors import (
    AccessRefused,
    ApiFault,
    ApiUnreachable,
    BadAnswer,
    DcsyncError,
    DiskFull,
    Fenced,
    ManifestError,
    MirrorMissing,
    SizeMismatch,
    SpaceNeeds,
)
from dcsync.manifest.schema import run as run_table
from dcsync.ops.context import NullObserver
from dcsync.ops.mirroring.outcome import AccountOutcome, Wanted
from dcsync.ops.mirroring.run import mirror_job, poll_account, sync
from dcsync.ops.observed import Observations
from tests.fakes import REQUEST_ID, make_job, make_request
from tests.rigs.canned import CannedApi, Page
from tests.rigs.mirror import TODAY
from tests.rigs.publishing import Workbench, make_id, make_known_request

S = JobState
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
DOWN = ApiFault("no answer")
OTHER = RequestId("0" * 36)


def make(number: int = 1, age: timedelta = DAY, **changes: Any) -> Job:
    """Return a complete job of that age."""
    made = TODAY - age
    return make_job(**{"id": make_id(number), "created_at": made, "completed_at": made, **changes})


def pending(number: int = 1, age: timedelta = DAY, **changes: Any) -> Job:
    return make(number, age, **{"status": "running", "completion_status": None, "completed_at": None, **changes})


class Observer(NullObserver):
    """Remembers which jobs are done."""

    def __init__(self) -> None:
        self.done: list[JobId] = []

    def job_done(self, job: JobId) -> None:
        self.done.append(job)


@dataclass(slots=True, kw_only=True)
class Rig:
    """A mirror, what the manifest has of jobs, and an API."""

    bench: Workbench
    api: CannedApi
    observer: Observer

    async def know(self, job: Job, state: JobState = S.SEEN, *, described: bool = True, **move: Any) -> Job:
        """Record a job in a state. `move` are the fields of its last change."""
        request = make_known_request(id=job.request_id, is_described=described)
        manifest, name = self.bench.context.manifest, self.bench.account.name
        first = S.SEEN if move else state
        document = make_request(id=job.request_id) if described else None
        await manifest.record_poll(
            name, jobs=[KnownJob(job=job, state=first)], requests=[(request, document)], at=TODAY
        )
        if move:
            await manifest.move(name, job.id, state, at=TODAY, **move)
        return job

    def show(self, *pages: Page, **failing: Exception) -> None:
        """Let the API have these pages. `failing` names calls, with `_` for a space."""
        errors = {what.replace("_", " ", 1): error for what, error in failing.items()}
        self.api = CannedApi(pages, requests=[make_request()], failing=errors)

    def fail(self, job: Job, error: Exception) -> None:
        """Let the data listing of a job fail in another way."""
        self.api._failing[f"listing {job.id}"] = error

    async def run(
        self, *names: str, jobs: tuple[JobId, ...] = (), dry_run: bool = False, **account: Any
    ) -> AccountOutcome:
        """Do one run, of these data requests or jobs if any are named."""
        context = replace(self.bench.context, api=self.api, observer=self.observer)
        settings = replace(self.bench.account, **account)
        (outcome,) = await sync(context, [settings], wanted=Wanted(requests=names, jobs=jobs), dry_run=dry_run)
        return outcome

    @property
    def tried(self) -> list[str]:
        """The jobs whose data listing was asked for, in order."""
        return [call.removeprefix("listing ") for call in self.api.asked if call.startswith("listing")]

    async def known(self, job: Job) -> KnownJob:
        found = await self.bench.context.manifest.job(self.bench.account.name, job.id)
        assert found is not None
        return found

    async def runs(self) -> list[Any]:
        async with self.bench.context.manifest.reading() as connection:
            return list(await connection.execute(sa.select(run_table)))


@pytest.fixture
def rig(bench: Workbench) -> Rig:
    return Rig(bench=bench, api=CannedApi(requests=[make_request()]), observer=Observer())


# --- what a poll records ----------------------------------------------------------------------------------------------


async def test_jobs_that_are_new_and_not_too_old_are_counted(rig: Rig) -> None:
    await rig.know(pending(1), S.WAITING)
    rig.show([make(1), make(2), make(3, 40 * DAY)])

    outcome = await rig.run()

    assert outcome.new_jobs == 1
    assert rig.tried == [make_id(1), make_id(2)]
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
    api._failing["page 1 of TWO"] = AccessRefused("no")
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
    await rig.know(job, state, **({} if state is S.EMPTY else {"attempts": 3}))

    outcome = await rig.run(jobs=(job.id,))

    assert bool(rig.tried) is is_tried
    assert [skipped.job for skipped in outcome.skipped] == ([] if is_tried else [job.id])
    if is_tried:
        # The attempts count anew.
        assert (await rig.known(job)).attempts == 1


async def test_a_named_job_may_be_too_old_and_of_an_unknown_data_request(rig: Rig) -> None:
    rig.show([make(1, 40 * DAY, request_id=OTHER), make(2, 40 * DAY)])

    outcome = await rig.run(jobs=(make_id(1), make_id(3)), requests=("My *",))

    assert (outcome.found_jobs, [skipped.state for skipped in outcome.skipped]) == ([make_id(1)], [S.TOO_OLD])


async def test_a_named_job_of_another_data_request_is_not_found(rig: Rig) -> None:
    job = await rig.know(make(1))

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
    rig.api._failing[f"request {REQUEST_ID}"] = DOWN

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


# --- how a job fails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason_code", "is_once"),
    [("A-SERVER", True), ("A-NETWORK", True), ("A-ANSWER", True), ("F-SIZE", False), (None, False)],
)
async def test_a_job_whose_calls_failed_before_takes_one_call_of_each(
    rig: Rig, reason_code: str | None, *, is_once: bool
) -> None:
    job = await rig.know(make(), S.FAILED, next_try_at=TODAY, reason_code=reason_code)

    await rig.run()

    assert rig.tried == [f"{job.id}, once" if is_once else job.id]


async def test_a_failed_job_stops_no_other_one(rig: Rig) -> None:
    jobs = [await rig.know(make(number, (9 - number) * DAY)) for number in (1, 2, 3)]
    rig.fail(jobs[0], RuntimeError("a bug with a secret"))
    rig.fail(jobs[1], AccessRefused("no"))

    with capture_logs() as lines:
        outcome = await rig.run()

    assert outcome.error is None
    assert [failed.code for failed in outcome.failed] == ["D-BUG", "A-DENIED", "L-QUARANTINE"] or len(
        outcome.failed
    ) == 3
    assert outcome.failed[0].message == "unexpected RuntimeError; the log has the traceback"
    assert rig.observer.done == [job.id for job in jobs]
    (line,) = [line for line in lines if line["event"].startswith("a bug in dcsync stopped a job")]
    assert (line["job"], line["exc_info"]) == (jobs[0].id, True)
    (row,) = await rig.runs()
    assert (row.published, row.failed, row.calls, row.error_code) == (0, 3, outcome.calls, None)
    assert outcome.calls == len(rig.api.asked) == 4


async def test_an_error_of_the_whole_run_stops_the_account_at_once(rig: Rig) -> None:
    jobs = [await rig.know(make(number, (9 - number) * DAY)) for number in (1, 2)]
    rig.fail(jobs[0], MirrorMissing("away"))

    outcome = await rig.run()

    assert isinstance(outcome.error, MirrorMissing)
    assert (rig.tried, outcome.failed, rig.observer.done) == ([jobs[0].id], [], [jobs[0].id])
    assert (await rig.known(jobs[0])).state is S.SEEN


async def test_a_job_that_another_host_has_taken_over_is_not_recorded(rig: Rig) -> None:
    jobs = [await rig.know(make(number, (9 - number) * DAY)) for number in (1, 2)]
    rig.fail(jobs[0], Fenced("taken"))

    with capture_logs() as lines:
        outcome = await rig.run()

    assert [failed.job for failed in outcome.failed] == [jobs[1].id]
    assert (await rig.known(jobs[0])).state is S.SEEN
    (line,) = [line for line in lines if line["event"].startswith("another host took over")]
    assert line["job"] == jobs[0].id


async def test_a_full_disk_lets_its_job_wait_except_in_a_dry_run(rig: Rig) -> None:
    job = await rig.know(make())
    rig.fail(job, DiskFull("full"))

    dry, outcome = await rig.run(dry_run=True), await rig.run()

    assert (dry.blocked, outcome.blocked) == (0, 1)
    assert [failed.code for failed in dry.failed] == [failed.code for failed in outcome.failed] == ["F-SPACE"]
    assert job.id in await Observations(rig.bench.context.manifest, rig.bench.account.name).space_needs()


async def test_two_silent_jobs_ask_for_the_list_and_its_error_stops_the_account(rig: Rig) -> None:
    jobs = [await rig.know(make(number, (9 - number) * DAY)) for number in (1, 2, 3)]
    for job in jobs:
        rig.fail(job, DOWN)
    rig.api._failing["probe"] = BadAnswer("html", status=200)

    outcome = await rig.run()

    assert isinstance(outcome.error, BadAnswer)
    assert [failed.job for failed in outcome.failed] == [jobs[0].id]


async def test_the_poll_of_the_next_run_begins_the_row_of_silent_jobs_anew(rig: Rig) -> None:
    job = await rig.know(make())
    rig.fail(job, DOWN)

    await rig.run()
    await rig.bench.context.manifest.move(rig.bench.account.name, job.id, S.FAILED, at=TODAY, next_try_at=TODAY)
    await rig.run()

    assert "probe" not in rig.api.asked


# --- what is recorded of the run --------------------------------------------------------------------------------------


async def test_a_run_without_a_failure_is_a_success_and_no_row(rig: Rig) -> None:
    outcome = await rig.run()

    facts = await rig.bench.context.manifest.facts(rig.bench.account.name)
    assert (facts.last_poll_at, facts.last_success_at, facts.error_code, facts.error) == (TODAY, TODAY, None, None)
    assert (outcome.error, await rig.runs()) == (None, [])


@pytest.mark.parametrize(
    ("error", "code"), [(DOWN, "A-SERVER"), (RuntimeError("a secret"), "D-BUG"), (KeyError("x"), "D-BUG")]
)
async def test_what_stopped_an_account_is_recorded_until_a_run_succeeds(rig: Rig, error: Exception, code: str) -> None:
    await rig.run()
    rig.show(page_1=error)
    rig.bench.mirror.clock.advance(60)

    with capture_logs() as lines:
        outcome = await rig.run()

    manifest, name = rig.bench.context.manifest, rig.bench.account.name
    facts = await manifest.facts(name)
    assert outcome.error is not None
    assert outcome.error.code == facts.error_code
    assert (facts.error, facts.last_success_at) == (outcome.error.message, TODAY)
    assert "secret" not in outcome.error.message
    assert isinstance(error, DcsyncError) or type(error).__name__ in outcome.error.message
    (line,) = [line for line in lines if "stopped" in line["event"]]
    assert (line["account"], line["log_level"]) == ("acme", "warning" if error is DOWN else "error")
    (row,) = await rig.runs()
    assert (row.error_code, row.published, row.failed, row.calls) == (facts.error_code, 0, 0, 1)
    assert (row.started_at, row.ended_at) == (TODAY + timedelta(minutes=1), TODAY + timedelta(minutes=1))

    rig.show()
    await rig.run()
    assert (await manifest.facts(name)).error_code is None


async def test_an_error_of_the_manifest_is_not_written_into_the_manifest(rig: Rig) -> None:
    rig.show(page_1=ManifestError("locked"))

    outcome = await rig.run()

    assert isinstance(outcome.error, ManifestError)
    assert (await rig.bench.context.manifest.facts(rig.bench.account.name)).error_code is None


async def test_each_account_has_its_own_outcome(rig: Rig) -> None:
    accounts = [replace(rig.bench.account, name=AccountName(name)) for name in ("acme", "beta")]
    context = replace(rig.bench.context, api=rig.api)

    outcomes = await sync(context, accounts)

    assert [outcome.account.name for outcome in outcomes] == ["acme", "beta"]
    assert [outcome.calls for outcome in outcomes] == [1, 1]


# --- several hosts ----------------------------------------------------------------------------------------------------


async def test_a_poll_alone_returns_the_due_jobs_and_mirrors_none(rig: Rig) -> None:
    await rig.know(make(1))
    await rig.know(make(2, 2 * DAY))
    context = replace(rig.bench.context, api=rig.api)

    outcome, due = await poll_account(context, rig.bench.account)

    assert ([known.job.id for known in due], rig.tried) == ([make_id(2), make_id(1)], [])
    assert outcome.account == rig.bench.account
    facts = await context.manifest.facts(rig.bench.account.name)
    assert (facts.last_poll_at, facts.last_success_at) == (TODAY, None)


async def test_a_poll_that_finds_nothing_due_is_a_success(rig: Rig) -> None:
    context = replace(rig.bench.context, api=rig.api)

    _, due = await poll_account(context, rig.bench.account)

    assert due == []
    assert (await context.manifest.facts(rig.bench.account.name)).last_success_at == TODAY


@pytest.mark.parametrize(
    ("state", "request_id", "is_tried"),
    [
        (S.SEEN, REQUEST_ID, True),
        (S.FAILED, REQUEST_ID, True),
        (S.PUBLISHED, REQUEST_ID, False),
        (S.EXPIRED, REQUEST_ID, False),
        (S.SEEN, OTHER, False),
    ],
)
async def test_a_host_mirrors_a_job_that_is_open_and_wanted(
    rig: Rig, state: JobState, request_id: RequestId, *, is_tried: bool
) -> None:
    job = await rig.know(make(request_id=request_id), state)
    context, account = replace(rig.bench.context, api=rig.api), replace(rig.bench.account, requests=(REQUEST_ID,))

    outcome = await mirror_job(context, account, job.id)

    assert bool(rig.tried) is is_tried
    assert len(outcome.failed) == is_tried


async def test_a_host_that_knows_nothing_of_a_job_does_nothing(rig: Rig) -> None:
    outcome = await mirror_job(replace(rig.bench.context, api=rig.api), rig.bench.account, make_id(7))

    assert (outcome.error, outcome.failed, rig.tried) == (None, [], [])


@pytest.mark.parametrize(("other", "is_success"), [(None, True), (REQUEST_ID, False), (OTHER, True)])
async def test_a_host_that_finishes_the_last_open_job_of_an_account_records_a_success(
    rig: Rig, other: RequestId | None, *, is_success: bool
) -> None:
    job = await rig.know(make(1), S.PUBLISHED)
    if other is not None:
        await rig.know(make(2, request_id=other))
    context, account = replace(rig.bench.context, api=rig.api), replace(rig.bench.account, requests=(REQUEST_ID,))

    await mirror_job(context, account, job.id)

    assert ((await context.manifest.facts(account.name)).last_success_at == TODAY) is is_success


async def test_a_host_moves_latest_if_the_host_that_published_ended_before(rig: Rig) -> None:
    bench = rig.bench
    job = bench.job()
    await bench.publish(job, {"a.csv": "id\n"})
    bench.latest.unlink()

    await mirror_job(replace(bench.context, api=rig.api), bench.account, job.id)

    assert bench.latest.resolve() == bench.path(job)
