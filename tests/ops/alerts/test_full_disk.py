"""A full disk is one alert, costs no calls while it lasts, and is over as soon as the space is there."""

from __future__ import annotations

import os

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.errors import DiskFull, ExitStatus, SpaceNeeds
from dcsync.ops.context import NullObserver
from dcsync.ops.observed import Observations
from tests.rigs.listener import HOUR, Listener
from tests.rigs.mirror import Mirror, add_extract, status_of, tables


def fill_disk(mirror: Mirror) -> None:
    """Make the reserve larger than what is free."""
    mirror.config["mirror"] = {"min_free": 1 << 60}


def free_disk(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"min_free": 0}


def add_ten(mirror: Mirror) -> list[str]:
    request = mirror.world.add_request("Nightly", schedule="ONE_TIME")
    return [add_extract(mirror, tables(1, seed=day), request=request, days_ago=10 - day) for day in range(10)]


async def test_ten_jobs_on_a_full_disk_are_one_alert_and_one_event_without_an_attempt(
    mirror: Mirror, listener: Listener
) -> None:
    jobs = add_ten(mirror)
    fill_disk(mirror)

    outcome = await mirror.run()

    assert mirror.sandbox.count("api", path_contains="/data-listing") == 0
    assert (outcome.exit_status, len(outcome.failed), outcome.blocked) == (ExitStatus.INCOMPLETE, 1, 10)
    status = await status_of(mirror)
    (alert,) = [item.alert for item in status.accounts[0].alerts]
    assert (alert.code, alert.subject, alert.scope) == ("F-SPACE", "", "mirror")
    assert alert.message.endswith("; 10 extracts wait for space")
    assert "free of" in alert.message
    assert "bytes" not in alert.message
    assert "(1048576.0 TiB of them for mirror.min_free)" in alert.message
    assert status.check is ExitStatus.INCOMPLETE
    mirror.clock.advance(HOUR)
    assert await listener.run() == [("failure", "F-SPACE")]
    mirror.clock.advance(HOUR)
    assert await listener.run() == []
    # Only the polls took calls.
    assert mirror.sandbox.count("api") == 3 + 1

    # The space is there: all at once, whatever was tried before.
    free_disk(mirror)
    outcome = await mirror.run()
    assert [published.job for published in outcome.published] == jobs
    assert listener.kinds() == [("snapshot", "")] * 10 + [("recovered", "F-SPACE")]
    assert (await status_of(mirror)).check is ExitStatus.DONE


def add_huge(mirror: Mirror, *, days_ago: float) -> str:
    """Add a job that is larger than the disk, and never downloaded."""
    job = add_extract(mirror, tables(1), days_ago=days_ago)
    free = os.statvfs(mirror.root)
    mirror.world.jobs[job].listing = [{"name": "admin_table_000.csv", "size": free.f_blocks * free.f_frsize * 2}]
    return job


async def test_jobs_that_do_not_fit_are_listed_once_and_smaller_ones_go_on(mirror: Mirror, listener: Listener) -> None:
    huge = [add_huge(mirror, days_ago=9 - day) for day in range(3)]
    small = add_extract(mirror, tables(1))

    first = await mirror.run()

    assert [published.job for published in first.published] == [small]
    assert ([failed.job for failed in first.failed], first.blocked, first.due_later) == ([huge[0]], 3, 2)
    calls = mirror.sandbox.count("api")
    second = await mirror.run()
    assert (second.failed, second.blocked, second.due_later) == ([], 3, 3)
    assert mirror.sandbox.count("api") - calls == 1
    assert second.exit_status is ExitStatus.INCOMPLETE
    await free_space_for(mirror, huge)
    for job in huge:
        mirror.world.jobs[job].listing = None
    assert [published.job for published in (await mirror.run()).published] == huge


async def free_space_for(mirror: Mirror, jobs: list[str]) -> None:
    """Let so little be needed that there is space: a test cannot make its disk larger."""
    async with mirror.opened() as context:
        observed = Observations(context.manifest, mirror.acme)
        assert set(await observed.space_needs()) == set(jobs)
        await observed.save_space_needs({JobId(job): SpaceNeeds(size=1, entries=1) for job in jobs})


class FullDisk(NullObserver):
    """A disk that is full in the middle of every job, although there was space before."""

    def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:
        message = f"writing {label}: no space left"
        raise DiskFull(message)


async def test_a_disk_that_was_full_in_a_download_is_tried_again_as_soon_as_more_is_free(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    first = await mirror.sync_one(observer=FullDisk())
    (failed,) = first.failed
    assert failed.state is JobState.FAILED
    assert failed.next_try_at is not None

    # Another program may use the disk, or a quota limits it: the wait ends, whatever is free.
    second = await mirror.sync_one(observer=FullDisk())
    assert (second.failed, second.due_later) == ([], 1)
    mirror.clock.advance(HOUR)
    assert len((await mirror.sync_one(observer=FullDisk())).failed) == 1
    # And it ends at once when there is space.
    await free_space_for(mirror, [job])
    assert [published.job for published in (await mirror.sync_one()).published] == [job]
    # Nothing is kept of it.
    await mirror.sync()
    async with mirror.opened() as context:
        assert await Observations(context.manifest, mirror.acme).space_needs() == {}
