"""Jobs that dcsync cannot classify: an unknown status, no end, an ID that cannot be used. None is silent for ever."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dcsync.app.from_config import account_settings
from dcsync.core.lifecycle import JobState
from dcsync.core.model import JobId
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.errors import ExitStatus
from dcsync.ops.mirroring.outcome import Wanted
from dcsync.sandbox import Fault
from tests.rigs.listener import DAY, HOUR, Listener
from tests.rigs.mirror import Mirror, add_extract, status_of, tables


def count_listings(mirror: Mirror) -> int:
    return mirror.sandbox.count("api", path_contains="/data-listing")


def pass_month(mirror: Mirror, seconds: float = 30 * DAY) -> None:
    """Let more time pass than the access token lasts."""
    mirror.clock.advance(seconds)
    mirror.environ["TOKEN"] = mirror.sandbox.tokens.issue_access_token("tester", 10 * DAY)


def add_odd_job(mirror: Mirror, status: str = "Archived", *, is_listed: bool = False, days_ago: float = 0.0) -> str:
    """Add a job that has a completion time and no documented status."""
    request = next(iter(mirror.world.requests), None) or mirror.world.add_request("Odd", schedule="ONE_TIME")
    job = add_extract(mirror, tables(2), request=request, days_ago=days_ago)
    entry = mirror.world.jobs[job]
    entry.status, entry.completion, entry.keeps_extract = status, None, is_listed
    return job


@pytest.mark.parametrize("status", ["success", "Succeeded", "Archived", "complete", "running", ""])
async def test_a_job_that_ended_with_an_unknown_status_is_an_alert_at_once(
    mirror: Mirror, listener: Listener, status: str
) -> None:
    job = add_odd_job(mirror, status)

    outcome = await mirror.run()

    (event,) = listener.events()
    assert (event["event"], event["code"], event["subject"]) == ("alert", "L-STATUS", job)
    quoted = f"the status {status!r}" if status else "no status"
    assert event["message"] == (
        f"job {job} of 2026-11-22 12:00Z has {quoted} and no completion status, which dcsync does not know, "
        "so it is not mirrored"
    )
    assert outcome.exit_status is ExitStatus.INCOMPLETE
    assert (await status_of(mirror)).check is ExitStatus.INCOMPLETE
    assert (await status_of(mirror)).accounts[0].last_success is None


async def test_a_job_that_runs_is_no_alert(mirror: Mirror, listener: Listener) -> None:
    mirror.world.add_job(mirror.world.add_request("Once", schedule="ONE_TIME"), status="running", completion=None)

    outcome = await mirror.run()

    assert (outcome.exit_status, outcome.waiting, outcome.unclear) == (ExitStatus.DONE, 1, 0)
    assert listener.events() == []


async def test_one_call_a_poll_finds_out_whether_its_data_listing_can_be_read_and_is_remembered(
    mirror: Mirror, listener: Listener
) -> None:
    listed, bare = add_odd_job(mirror, is_listed=True), add_odd_job(mirror)

    calls = []
    for _ in range(4):
        before = count_listings(mirror)
        await mirror.run()
        calls.append(count_listings(mirror) - before)

    assert calls == [1, 1, 0, 0]
    hints = {item.alert.subject: item.alert for item in (await status_of(mirror)).accounts[0].alerts}
    assert hints[listed].message.endswith("Its data listing can be read")
    assert f"dcsync sync --job {listed}. " in hints[listed].hint
    assert "data listing" not in hints[bare].message
    assert "check the job in Autodesk's Data Connector" in hints[bare].hint
    # Another status is another question.
    mirror.world.jobs[bare].status = "Succeeded"
    await mirror.run()
    assert count_listings(mirror) == 3


async def test_a_question_that_gets_no_answer_is_asked_again_and_stops_nothing(mirror: Mirror) -> None:
    add_odd_job(mirror)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, match="/data-listing", times=None))

    assert (await mirror.run()).error is None
    mirror.sandbox.faults.clear()
    before = count_listings(mirror)
    await mirror.run()

    assert count_listings(mirror) == before + 1


async def test_a_named_job_with_an_unknown_status_is_mirrored(mirror: Mirror, listener: Listener) -> None:
    job = add_odd_job(mirror, is_listed=True)
    await mirror.run()
    listener.events()

    dry = await mirror.sync_one(wanted=Wanted(jobs=(job,)), dry_run=True)
    assert [planned.job for planned in dry.planned] == [job]
    outcome = await mirror.run(wanted=Wanted(jobs=(job,)))

    assert listener.kinds() == [("snapshot", ""), ("recovered", "L-STATUS")]
    assert (outcome.exit_status, outcome.unclear, outcome.waiting) == (ExitStatus.DONE, 0, 0)
    mirror.assert_identical(job)
    assert (await mirror.run()).exit_status is ExitStatus.DONE
    assert (await status_of(mirror)).check is ExitStatus.DONE


async def test_a_named_job_without_a_data_listing_waits_as_before(mirror: Mirror, listener: Listener) -> None:
    job = add_odd_job(mirror, days_ago=3)
    await listener.run()

    outcome = await mirror.run(wanted=Wanted(jobs=(job,)))

    (failed,) = outcome.failed
    assert (failed.state, failed.code, failed.next_try_at) == (JobState.WAITING, "L-MISSING", None)
    assert "Each poll checks its status" in failed.hint
    assert outcome.exit_status is ExitStatus.INCOMPLETE
    assert listener.events() == []
    # It is complete after all.
    mirror.world.jobs[job].status, mirror.world.jobs[job].completion = "complete", "success"
    assert await listener.run() == [("snapshot", ""), ("recovered", "L-STATUS")]


async def test_an_unknown_status_is_a_named_loss_after_30_days(mirror: Mirror, listener: Listener) -> None:
    job = add_odd_job(mirror)
    assert await listener.run() == [("alert", "L-STATUS")]
    pass_month(mirror, 30 * DAY - HOUR)
    await listener.run()
    assert (await mirror.states())[job] is JobState.WAITING
    mirror.clock.advance(HOUR)

    outcome = await mirror.run()

    (event,) = listener.events()
    assert (event["event"], event["code"], event["job"]) == ("failure", "L-LOST", job)
    assert event["message"] == (
        f"job {job} is expired: has the status 'Archived' and no completion status, which dcsync does not know, and "
        "Autodesk deletes extracts after 30 days"
    )
    assert (outcome.exit_status, [failed.state for failed in outcome.failed]) == (
        ExitStatus.INCOMPLETE,
        [JobState.EXPIRED],
    )
    assert await listener.run() == []
    assert [item.alert.code for item in (await status_of(mirror)).accounts[0].alerts] == ["L-LOST"]


async def test_a_job_that_runs_for_30_days_ends_as_failed(mirror: Mirror, listener: Listener) -> None:
    request = mirror.world.add_request("Once", schedule="ONE_TIME")
    job = mirror.world.add_job(request, status="running", completion=None)
    await mirror.run()
    pass_month(mirror)

    await mirror.run()

    async with mirror.opened() as context:
        known = await context.manifest.job(mirror.acme, JobId(job))
    assert known is not None
    assert (known.state, known.reason) == (JobState.EMPTY, "still running at Autodesk after 30 days")
    assert listener.kinds() == [("failure", "L-FAILED")]
    # It is mirrored if it ends after all.
    mirror.world.jobs[job].status, mirror.world.jobs[job].completion = "complete", "success"
    mirror.world.jobs[job].completed_at = mirror.clock.now()
    assert [published.job for published in (await mirror.run()).published] == [job]


# --- IDs that cannot be used ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["", "../../x", ".."])
async def test_a_job_whose_id_cannot_be_used_is_an_alert_and_no_success(
    mirror: Mirror, listener: Listener, bad: str
) -> None:
    good = add_extract(mirror, tables(1))
    odd = add_extract(mirror, tables(1, seed=1))
    mirror.world.jobs[odd].id = bad

    outcome = await mirror.run()

    assert [published.job for published in outcome.published] == [good]
    assert outcome.exit_status is ExitStatus.INCOMPLETE
    (event,) = [event for event in listener.events() if event["event"] != "snapshot"]
    assert (event["event"], event["code"]) == ("alert", "L-ENTRY")
    assert event["message"] == (
        f"1 entry of Autodesk's lists cannot be used: a job has the unusable `id` {bad!r} "
        "(of 2026-11-22 12:00Z, data request My Company Data Extract)"
    )
    status = await status_of(mirror)
    assert (status.check, status.accounts[0].last_success) == (ExitStatus.INCOMPLETE, None)

    del mirror.world.jobs[odd]
    assert await listener.run() == [("recovered", "L-ENTRY")]
    assert (await status_of(mirror)).check is ExitStatus.DONE


async def test_an_entry_is_no_alert_once_autodesk_has_deleted_its_extract(mirror: Mirror, listener: Listener) -> None:
    odd = add_extract(mirror, tables(1), days_ago=29)
    mirror.world.jobs[odd].id = ""
    assert await listener.run() == [("alert", "L-ENTRY")]
    mirror.clock.advance(DAY)

    assert await listener.run() == [("recovered", "L-ENTRY")]


async def test_an_entry_of_a_data_request_that_is_not_wanted_is_no_alert(mirror: Mirror) -> None:
    add_extract(mirror, tables(1), request=mirror.world.add_request("Nightly"))
    weekly = mirror.world.add_request("Weekly")
    add_extract(mirror, tables(1), request=weekly)
    odd = add_extract(mirror, tables(1, seed=1), request=weekly)
    mirror.world.jobs[odd].id = ""
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "requests": ["Nightly"]}]

    assert (await mirror.run()).exit_status is ExitStatus.DONE
    assert (await status_of(mirror)).check is ExitStatus.DONE


async def test_a_data_request_whose_id_cannot_be_used_is_an_alert(mirror: Mirror, listener: Listener) -> None:
    """Its jobs are unusable too, and the daily list of data requests names it even without jobs."""
    request = mirror.world.add_request("Nightly")
    add_extract(mirror, tables(1), request=request)
    odd = mirror.world.add_request("Odd")
    mirror.world.requests[odd].id = "a/b"
    await listener.run()
    mirror.clock.advance(DAY + 60)

    assert ("alert", "L-ENTRY") in await listener.run()
    alerts = {item.alert.code.value: item.alert for item in (await status_of(mirror)).accounts[0].alerts}
    assert "a data request has the unusable `id` 'a/b'" in alerts["L-ENTRY"].message


async def test_jobs_of_a_data_request_with_an_unusable_id_are_no_success(mirror: Mirror) -> None:
    odd = mirror.world.add_request("Odd")
    add_extract(mirror, tables(1), request=odd)
    mirror.world.requests[odd].id = "a/b"

    outcome = await mirror.run()

    assert outcome.exit_status is ExitStatus.INCOMPLETE
    assert outcome.unusable == ["a job has the unusable `requestId` 'a/b' (of 2026-11-22 12:00Z)"]


# --- older than 30 days -----------------------------------------------------------------------------------------------


async def test_300_jobs_past_30_days_cost_no_call_and_are_no_alert(mirror: Mirror, listener: Listener) -> None:
    request = mirror.world.add_request("Nightly", schedule="ONE_TIME")
    for number in range(300):
        add_extract(mirror, {"a.csv": b"id\n"}, request=request, days_ago=31 + number)
    today = add_extract(mirror, tables(1), request=request)

    outcome = await mirror.run()

    assert [published.job for published in outcome.published] == [today]
    assert (outcome.exit_status, outcome.failed, outcome.expiring, outcome.new_jobs) == (ExitStatus.DONE, [], [], 1)
    # One page of jobs, the data request, and today's data listing and file.
    assert mirror.sandbox.count("api") == outcome.calls == 1 + 1 + 2
    assert count_listings(mirror) == 1
    assert listener.kinds() == [("snapshot", "")]
    status = await status_of(mirror)
    assert (status.check, status.codes) == (ExitStatus.DONE, [])
    assert status.accounts[0].jobs["too_old"] == 99
    # Nothing more on the next day, either.
    assert (await mirror.run()).calls == 1


async def test_old_jobs_that_are_not_in_order_do_not_hide_the_newest(mirror: Mirror) -> None:
    request = mirror.world.add_request("Nightly", schedule="ONE_TIME")
    at_once = mirror.clock.now() - timedelta(days=400)
    for number in range(150):
        add_extract(mirror, {"a.csv": b"id\n"}, request=request, days_ago=200 - number, created_at=at_once)
    today = add_extract(mirror, tables(1), request=request, created_at=at_once, job_id="0")

    outcome = await mirror.run()

    assert [published.job for published in outcome.published] == [today]


async def test_old_jobs_of_unknown_data_requests_take_one_list_of_them(mirror: Mirror) -> None:
    """An ended data request is known at once, although none of its jobs can be mirrored."""
    requests = [mirror.world.add_request(f"Old {number}", schedule="ONE_TIME") for number in range(5)]
    for request in requests:
        add_extract(mirror, tables(1), request=request, days_ago=40)
    mirror.world.requests.pop(requests[-1])

    outcome = await mirror.run()

    assert outcome.calls == 2
    assert sorted(known.description for known in outcome.requests) == [f"Old {number}" for number in range(4)]
    assert (await mirror.run()).calls == 1


async def test_a_loss_of_an_older_version_is_none_if_the_job_was_too_old_when_it_was_first_seen(
    mirror: Mirror, listener: Listener
) -> None:
    late, lost = add_extract(mirror, tables(1), days_ago=40), add_extract(mirror, tables(1, seed=1), days_ago=29)
    async with mirror.opened() as context:
        (account,) = account_settings(mirror.configuration())
        jobs = [KnownJob(job=job, state=JobState.SEEN) for job in await context.api.jobs(account.id)]
        request = jobs[0].job.request_id
        known = KnownRequest(id=request, description="Nightly", slug="nightly", is_delta=False)
        await context.manifest.record_poll(account.name, jobs=jobs, requests=[(known, None)], at=mirror.clock.now())
        for job in (late, lost):
            await context.manifest.move(
                account.name, JobId(job), JobState.EXPIRED, at=mirror.clock.now(), reason_code="L-MISSING"
            )
    assert [item.alert.code for item in (await status_of(mirror)).accounts[0].alerts] == ["L-LOST", "L-LOST"]

    await mirror.run()

    assert await mirror.states() == {late: JobState.TOO_OLD, lost: JobState.EXPIRED}
    assert [item.alert.subject for item in (await status_of(mirror)).accounts[0].alerts] == [lost]


async def test_a_job_that_is_too_old_says_so_when_named(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1), days_ago=30)

    outcome = await mirror.sync_one(wanted=Wanted(jobs=(job,)))

    (skipped,) = outcome.skipped
    assert (skipped.state, outcome.exit_status) == (JobState.TOO_OLD, ExitStatus.INCOMPLETE)
    assert "it can no longer be downloaded" in skipped.reason
    assert outcome.found_jobs == [job]
    assert count_listings(mirror) == 0


async def test_a_job_that_a_wrong_clock_called_too_old_is_mirrored_with_the_right_one(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    pass_month(mirror)
    await mirror.sync()
    assert (await mirror.states())[job] is JobState.TOO_OLD
    mirror.clock.advance(-30 * DAY)

    assert [published.job for published in (await mirror.sync_one()).published] == [job]
