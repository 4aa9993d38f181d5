"""`sync --job`: what a run does with a job that is asked for by id, in each state that the job can have."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dcsync.app.from_config import account_settings
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.errors import ExitStatus
from dcsync.ops.mirroring.outcome import Wanted
from dcsync.ops.mirroring.run import mirror_job, poll_account
from tests.rigs.mirror import Mirror, add_extract, tables

ACME = AccountName("acme")


#: Each state of a job, what `sync --job` does with it, and the exit status.
NAMED = [
    (JobState.WAITING, "left", ExitStatus.DONE),
    (JobState.SEEN, "mirrored", ExitStatus.DONE),
    (JobState.LISTED, "mirrored", ExitStatus.DONE),
    (JobState.STAGING, "mirrored", ExitStatus.DONE),
    (JobState.FAILED, "mirrored", ExitStatus.DONE),
    (JobState.QUARANTINED, "mirrored", ExitStatus.DONE),
    (JobState.PUBLISHED, "left", ExitStatus.DONE),
    (JobState.REDUCED, "left", ExitStatus.DONE),
    (JobState.PRUNED, "left", ExitStatus.DONE),
    (JobState.EMPTY, "left", ExitStatus.DONE),
    (JobState.TOO_OLD, "left", ExitStatus.INCOMPLETE),
    (JobState.EXPIRED, "left", ExitStatus.INCOMPLETE),
]
#: How a job gets into each state, by moves that the program makes.
PATHS = {
    JobState.LISTED: ["listed"],
    JobState.STAGING: ["listed", "staging"],
    JobState.FAILED: ["failed"],
    JobState.QUARANTINED: ["quarantined"],
    JobState.EXPIRED: ["expired"],
    JobState.REDUCED: ["reduced"],
    JobState.PRUNED: ["published", "pruned"],
}


def test_every_state_of_a_job_can_be_named() -> None:
    assert {state for state, _, _ in NAMED} == set(JobState)


@pytest.mark.parametrize(("state", "what", "status"), NAMED, ids=[state.value for state, _, _ in NAMED])
async def test_a_job_asked_for_by_id_is_mirrored_or_left_with_a_reason(
    mirror: Mirror, state: JobState, what: str, status: ExitStatus
) -> None:
    """A dry run plans the same jobs, and changes none."""
    request = mirror.world.add_request("Nightly")
    match state:
        case JobState.WAITING:
            job = mirror.world.add_job(request, status="running", completion=None)
        case JobState.EMPTY:
            job = mirror.world.add_job(request, status="complete", completion="failed")
        case _:
            job = add_extract(mirror, tables(1), days_ago={JobState.EXPIRED: 29.9, JobState.TOO_OLD: 30}.get(state, 1))
    async with mirror.opened() as context:
        (account,) = account_settings(mirror.configuration())
        await poll_account(context, account)
        if state in {JobState.PUBLISHED, JobState.REDUCED}:
            await mirror_job(context, account, JobId(job))
        later = mirror.clock.now() + timedelta(hours=3)
        for step in PATHS.get(state, []):
            await context.manifest.move(ACME, JobId(job), JobState(step), at=later, attempts=3, next_try_at=later)
        before = await context.manifest.job(ACME, JobId(job))
    assert before is not None
    assert before.state is state
    if state is JobState.EXPIRED:
        mirror.clock.advance(86400)
    listed = mirror.sandbox.count("api", path_contains="/data-listing")

    dry = await mirror.sync_one(wanted=Wanted(jobs=(job,)), dry_run=True)
    async with mirror.opened() as context:
        assert await context.manifest.job(ACME, JobId(job)) == before
    plain = await mirror.sync_one(wanted=Wanted(jobs=(job,)))

    mirrored = [job] if what == "mirrored" else []
    left = [(job, state)] if what == "left" else []
    assert [planned.job for planned in dry.planned] == mirrored
    assert [published.job for published in plain.published] == mirrored
    for outcome in (dry, plain):
        assert [(skipped.job, skipped.state) for skipped in outcome.skipped] == left
        assert (outcome.exit_status, outcome.failed, outcome.found_jobs) == (status, [], [job])
    asked = mirror.sandbox.count("api", path_contains="/data-listing") - listed
    assert asked == (2 if mirrored else 0)
    async with mirror.opened() as context:
        after = await context.manifest.job(ACME, JobId(job))
    assert after is not None
    assert after.state is (JobState.PUBLISHED if mirrored else state)


async def test_a_job_that_a_wrong_clock_called_expired_is_tried_again_when_named(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1), days_ago=2)
    async with mirror.opened() as context:
        (account,) = account_settings(mirror.configuration())
        await poll_account(context, account)
        await context.manifest.move(ACME, JobId(job), JobState.EXPIRED, at=mirror.clock.now())

    assert (await mirror.sync_one()).published == []
    outcome = await mirror.sync_one(wanted=Wanted(jobs=(job,)))

    assert [published.job for published in outcome.published] == [job]
