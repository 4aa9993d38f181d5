"""The alert of a job stands until the job is published, also while it is tried again."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from dcsync.api import transport
from dcsync.core.lifecycle import JobState
from dcsync.errors import ExitStatus
from dcsync.ops.mirroring.job import JobMirror
from dcsync.sandbox import Fault
from tests.rigs.listener import DAY, HOUR
from tests.rigs.mirror import Mirror, add_extract, status_of, tables


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture(autouse=True)
def retries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "backoff", lambda *_, **__: 0.0)


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch, mirror: Mirror) -> list[tuple[JobState, list[str], ExitStatus]]:
    """What `dcsync status` says while a job is tried."""
    seen: list[tuple[JobState, list[str], ExitStatus]] = []
    move = JobMirror._move

    async def look(self: JobMirror, known: Any, state: JobState, **options: Any) -> None:
        await move(self, known, state, **options)
        status = await status_of(mirror)
        seen.append((state, status.codes, status.check))

    monkeypatch.setattr(JobMirror, "_move", look)
    return seen


async def fail_once(mirror: Mirror, during: list[Any], fault: Fault) -> str:
    request = mirror.world.add_request("Nightly", schedule="ONE_TIME")
    job = add_extract(mirror, tables(1), request=request)
    mirror.sandbox.faults.add(fault)
    await mirror.run()
    during.clear()
    return job


async def test_the_alert_of_a_job_stands_while_it_is_tried_again(mirror: Mirror, during: list[Any]) -> None:
    """A monitor saw it end and begin with each attempt."""
    await fail_once(mirror, during, Fault(server="api", kind="status", match="/data/", times=None))
    mirror.clock.advance(HOUR)

    await mirror.run()

    assert during == [
        (JobState.LISTED, ["A-SERVER"], ExitStatus.INCOMPLETE),
        (JobState.STAGING, ["A-SERVER"], ExitStatus.INCOMPLETE),
    ]
    mirror.sandbox.faults.clear()
    mirror.clock.advance(HOUR)
    await mirror.run()
    assert (await status_of(mirror)).codes == []


async def test_the_alert_of_a_quarantined_job_stands_while_it_is_tried_again(mirror: Mirror, during: list[Any]) -> None:
    await fail_once(mirror, during, Fault(server="storage", kind="short", amount=5, times=None))
    for wait in (HOUR, HOUR, DAY):
        mirror.clock.advance(wait)
        await mirror.run()

    assert {tuple(codes) for _, codes, _ in during} == {("F-SIZE",)}


async def test_what_a_killed_attempt_knew_of_the_one_before_counts(
    mirror: Mirror, during: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a job that a restart interrupts each time is never quarantined."""
    job = await fail_once(mirror, during, Fault(server="storage", kind="short", amount=5, times=None))
    mirror.clock.advance(HOUR)
    await mirror.run()
    mirror.clock.advance(HOUR)

    def end(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("dcsync.ops.mirroring.job.Stager", end)
        with pytest.raises(Killed):
            await mirror.run()
    assert (await status_of(mirror)).codes == ["F-SIZE"]
    await mirror.run()

    assert (await mirror.states())[job] is JobState.QUARANTINED


async def test_tables_that_nothing_selects_are_one_alert_also_while_they_are_tried_again(
    mirror: Mirror, during: list[Any]
) -> None:
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "include": ["forms_*"]}]
    add_extract(mirror, tables(1), request=mirror.world.add_request("Nightly", schedule="ONE_TIME"))
    await mirror.run()
    assert (await status_of(mirror)).codes == ["C-NOTABLES"]
    (before,) = (await status_of(mirror)).accounts[0].alerts
    during.clear()
    mirror.clock.advance(HOUR)

    await mirror.run()

    assert {tuple(codes) for _, codes, _ in during} == {("C-NOTABLES",)}
    (after,) = (await status_of(mirror)).accounts[0].alerts
    assert (after.alert.key, after.since) == (before.alert.key, before.since)


async def test_a_snapshot_that_is_downloaded_again_has_no_alert_without_a_meaning(mirror: Mirror) -> None:
    """It had the alert DCSYNC, without a hint, until it was downloaded."""
    jobs = [
        add_extract(mirror, tables(1, seed=day), request=request, days_ago=4 - day)
        for request in [mirror.world.add_request("Nightly", schedule="ONE_TIME")]
        for day in range(4)
    ]
    await mirror.run()
    shutil.rmtree(mirror.snapshot_of(jobs[0]))

    assert (await mirror.states())[jobs[0]] is JobState.SEEN
    assert (await status_of(mirror)).codes == []
