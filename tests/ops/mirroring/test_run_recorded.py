"""What a run does about jobs that fail, and what it records of itself. No job can be downloaded here."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, RequestId
from dcsync.core.ports import AccountFacts
from dcsync.errors import (
    AccessRefused,
    BadAnswer,
    DcsyncError,
    DiskFull,
    Fenced,
    ManifestError,
    MirrorMissing,
)
from dcsync.manifest import SqlManifest
from dcsync.ops.mirroring.run import mirror_job, poll_account, sync
from dcsync.ops.observed import Observations
from tests.fakes import REQUEST_ID
from tests.rigs.due import DAY, DOWN, OTHER, Rig, S, make
from tests.rigs.mirror import TODAY
from tests.rigs.publishing import LosesJob, make_id

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


async def test_an_empty_listing_fails_its_job(rig: Rig) -> None:
    job = await rig.know(make(1, timedelta(hours=1)))
    rig.api.empty.add(job.id)

    outcome = await rig.run()

    assert [(failed.code, failed.state) for failed in outcome.failed] == [("L-EMPTY", S.FAILED)]
    assert "is empty" in outcome.failed[0].message


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


@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_disk_without_any_space_takes_no_call_of_a_job_except_to_plan_it(rig: Rig, *, dry_run: bool) -> None:
    for number in (1, 2):
        await rig.know(make(number))
    settings = replace(rig.bench.context.settings, min_free=1 << 60)
    context = replace(rig.bench.context, api=rig.api, settings=settings)

    (outcome,) = await sync(context, [rig.bench.account], dry_run=dry_run)

    assert (len(rig.tried), outcome.blocked) == ((2, 0) if dry_run else (0, 2))
    if not dry_run:
        assert [failed.code for failed in outcome.failed] == ["F-SPACE"]


async def test_two_silent_jobs_ask_for_the_list_and_its_error_stops_the_account(rig: Rig) -> None:
    jobs = [await rig.know(make(number, (9 - number) * DAY)) for number in (1, 2, 3)]
    for job in jobs:
        rig.fail(job, DOWN)
    rig.api.failing["probe"] = BadAnswer("html", status=200)

    outcome = await rig.run()

    assert isinstance(outcome.error, BadAnswer)
    assert [failed.job for failed in outcome.failed] == [jobs[0].id]


async def test_a_mirrored_job_between_two_silent_ones_ends_their_row(rig: Rig) -> None:
    silent, mirrored, other = [await rig.know(make(number, (9 - number) * DAY)) for number in (1, 2, 3)]
    rig.fail(silent, DOWN)
    rig.fail(other, DOWN)
    rig.bench.publish_by_another(mirrored, {"a.csv": "id\n1\n"})

    outcome = await rig.run()

    assert [published.job for published in outcome.published] == [mirrored.id]
    assert "probe" not in rig.api.asked
    (row,) = await rig.runs()
    assert (row.published, row.failed, row.fetched_bytes, row.linked_bytes) == (1, 2, 0, 0)


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
    assert (line["account"], line["log_level"]) == ("acme", "debug" if error is DOWN else "error")
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
    assert [(outcome.calls, outcome.error) for outcome in outcomes] == [(1, None), (1, None)]


async def test_a_run_that_cannot_be_recorded_raises_its_own_error(rig: Rig) -> None:
    fenced = rig.bench.context.manifest.guarded(LosesJob(0))

    with pytest.raises(Fenced):
        await sync(replace(rig.bench.context, api=rig.api, manifest=fenced), [rig.bench.account])


async def test_a_manifest_that_cannot_be_read_stops_its_account(rig: Rig) -> None:
    class Unreadable(SqlManifest):
        async def facts(self, account: AccountName) -> AccountFacts:
            message = f"locked: {account}"
            raise ManifestError(message)

    manifest = Unreadable(rig.bench.context.manifest.backend)

    (outcome,) = await sync(replace(rig.bench.context, api=rig.api, manifest=manifest), [rig.bench.account])

    assert isinstance(outcome.error, ManifestError)
    assert (outcome.error.message, rig.api.asked) == ("locked: acme", [])


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
