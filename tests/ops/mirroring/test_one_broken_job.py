"""A job that does not work stops no other, and an outage is told from it."""

from __future__ import annotations

import errno
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dcsync.api import transport
from dcsync.core.lifecycle import JobState
from dcsync.errors import ApiFault, ExitStatus
from dcsync.mirror import disk
from dcsync.mirror.root import MirrorRoot
from dcsync.sandbox import Fault
from tests.rigs.listener import DAY, HOUR, Listener
from tests.rigs.mirror import Mirror, add_extract, status_of, tables
from tests.rigs.outcomes import count_lists, published

#: What "does not answer" can look like.
SILENCE: dict[str, dict[str, Any]] = {
    "500": {"kind": "status", "status": 500},
    "503": {"kind": "status", "status": 503, "body": b"<h1>Busy</h1>"},
    "504": {"kind": "status", "status": 504},
    "reset": {"kind": "reset"},
    "nothing": {"kind": "hang", "seconds": 0.3},
}


@pytest.fixture(params=SILENCE)
def silence(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A call that is not answered."""
    monkeypatch.setattr(transport, "_TIMEOUT", aiohttp.ClientTimeout(total=0.1))
    return {"server": "api", "times": None, **SILENCE[request.param]}


def break_job(mirror: Mirror, job: str, how: dict[str, Any], *, where: str = "data-listing") -> Fault:
    return mirror.sandbox.faults.add(Fault(match=f"/jobs/{job}/{where}", **how))


@pytest.mark.parametrize("where", ["data-listing", "data/"])
async def test_a_job_whose_calls_are_not_answered_fails_alone(
    mirror: Mirror, listener: Listener, silence: dict[str, Any], where: str
) -> None:
    """It was the error of its account, so that no younger job was mirrored as long as it lasted."""
    request = mirror.world.add_request("Nightly", schedule="ONE_TIME")
    first, broken, last = (
        add_extract(mirror, tables(1, seed=day), request=request, days_ago=2 - day) for day in range(3)
    )
    break_job(mirror, broken, silence, where=where)

    outcome = await mirror.run()

    assert (outcome.error, published(outcome)) == (None, [first, last])
    ((failed),) = outcome.failed
    code = "A-SERVER" if silence["kind"] == "status" else "A-NETWORK"
    assert (failed.job, failed.state, failed.code) == (broken, JobState.FAILED, code)
    assert failed.next_try_at is not None
    (item,) = (await status_of(mirror)).accounts[0].alerts
    assert (item.alert.code, item.alert.subject, (await status_of(mirror)).check) == (code, broken, 3)
    assert broken in item.alert.message
    assert f"The next attempt is due at {failed.next_try_at:%Y-%m-%d %H:%M}Z" in item.alert.message

    mirror.sandbox.faults.clear()
    mirror.clock.advance(HOUR)
    assert published(await mirror.run()) == [broken]
    assert (await status_of(mirror)).codes == []


async def test_a_job_that_failed_before_takes_one_call_of_each_retry(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    break_job(mirror, job, {"server": "api", "kind": "status", "times": None})
    await mirror.sync()
    assert mirror.sandbox.count("api", path_contains="/data-listing") == transport.ATTEMPTS

    for attempt in range(1, 4):
        mirror.clock.advance(DAY / 4)
        outcome = await mirror.sync_one()

        assert mirror.sandbox.count("api", path_contains="/data-listing") == transport.ATTEMPTS + attempt
        assert outcome.calls == 2
        next_try_at = outcome.failed[0].next_try_at
        assert next_try_at is not None
        # It doubles each time, half of it at random.
        assert next_try_at - mirror.clock.now() >= timedelta(minutes=2**attempt / 2)


async def test_one_429_does_not_end_the_retry_of_a_job_that_failed_before(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    break_job(mirror, job, {"server": "api", "kind": "status", "times": None})
    await mirror.sync()
    mirror.sandbox.faults.clear()
    headers = {"Retry-After": "2"}
    break_job(mirror, job, {"server": "api", "kind": "status", "status": 429, "headers": headers, "times": 1})
    mirror.clock.advance(HOUR)

    outcome = await mirror.sync_one()

    assert (outcome.error, published(outcome)) == (None, [job])


async def test_a_job_that_is_never_answered_is_lost_when_autodesk_deletes_it(mirror: Mirror) -> None:
    mirror.world.add_request("Nightly", schedule="ONE_TIME")
    job = add_extract(mirror, tables(1), days_ago=29)
    other = add_extract(mirror, tables(1))
    break_job(mirror, job, {"server": "api", "kind": "status", "times": None})
    await mirror.sync()
    mirror.clock.advance(DAY)

    (lost,) = (await mirror.run()).failed

    assert (lost.state, lost.next_try_at) == (JobState.EXPIRED, None)
    # And it is left alone.
    listings = mirror.sandbox.count("api", path_contains="/data-listing")
    mirror.clock.advance(DAY)
    await mirror.run()
    assert mirror.sandbox.count("api", path_contains="/data-listing") == listings
    status = await status_of(mirror)
    assert (status.check, status.codes) == (ExitStatus.DONE, ["L-LOST"])
    assert (await mirror.states())[other] is JobState.PUBLISHED


async def test_any_number_of_broken_jobs_holds_up_no_other(mirror: Mirror) -> None:
    jobs = [add_extract(mirror, tables(1, seed=day), days_ago=6 - day) for day in range(6)]
    for job in jobs[:4]:
        break_job(mirror, job, {"server": "api", "kind": "status", "times": None})

    outcome = await mirror.sync_one()

    assert (outcome.error, published(outcome)) == (None, jobs[4:])
    assert [failed.job for failed in outcome.failed] == jobs[:4]
    # The list is asked once for two jobs in a row.
    assert count_lists(mirror) == 1 + 2


async def test_an_outage_ends_the_account_at_the_second_job_and_marks_one_of_them(mirror: Mirror) -> None:
    jobs = [add_extract(mirror, tables(1, seed=day), days_ago=5 - day) for day in range(5)]
    # After the list and the data request were read.
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, times=None, skip=2))

    outcome = await mirror.sync_one()

    assert isinstance(outcome.error, ApiFault)
    assert [failed.job for failed in outcome.failed] == jobs[:1]
    states = await mirror.states()
    assert [states[job] for job in jobs] == [JobState.FAILED] + [JobState.SEEN] * 4
    calls = len(mirror.sandbox.calls)
    assert calls == 2 + 3 * transport.ATTEMPTS

    # The next run asks once, and a minute later once more.
    for number in (1, 2):
        outcome = await mirror.sync_one()
        assert isinstance(outcome.error, ApiFault)
        assert len(mirror.sandbox.calls) == calls + number * transport.ATTEMPTS

    mirror.sandbox.faults.clear()
    mirror.clock.advance(HOUR)
    assert published(await mirror.sync_one()) == jobs


async def test_a_job_that_the_disk_refuses_fails_alone(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody took the permission for one folder away."""
    first, last = (add_extract(mirror, tables(1, seed=day), days_ago=1 - day) for day in range(2))
    rename = disk.rename_noreplace

    def refuse(*arguments: Any) -> None:
        if first[:8] in str(arguments):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        rename(*arguments)

    monkeypatch.setattr(disk, "rename_noreplace", refuse)

    outcome = await mirror.sync_one()

    assert (outcome.error, published(outcome)) == (None, [last])
    assert [(failed.job, failed.code) for failed in outcome.failed] == [(first, "F-PERM")]


async def test_a_mirror_that_cannot_be_written_at_all_stops_the_account(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in range(2):
        add_extract(mirror, tables(1, seed=day), days_ago=1 - day)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(disk, "rename_noreplace", refuse)
    monkeypatch.setattr("dcsync.mirror.root.write_new", refuse)

    outcome = await mirror.sync_one()

    assert outcome.error is not None
    assert outcome.error.code == "F-PERM"
    assert (outcome.published, outcome.failed) == ([], [])


def test_what_the_check_writes_is_removed(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    root = MirrorRoot(tmp_path, descriptor)

    root.check_writable()

    assert [path.name for path in tmp_path.rglob("*")] == [".dcsync", "staging"]
    os.close(descriptor)


async def test_a_quarantined_job_is_tried_once_a_day_and_needs_nobody(mirror: Mirror, listener: Listener) -> None:
    """It waited for a person, although the file may be right again at Autodesk."""
    request = mirror.world.add_request("Nightly", schedule="ONE_TIME")
    job = add_extract(mirror, tables(1), request=request)
    mirror.sandbox.faults.add(Fault(server="storage", kind="short", amount=5, times=None))
    for _ in range(3):
        await mirror.run()
        mirror.clock.advance(HOUR)
    assert (await mirror.states())[job] is JobState.QUARANTINED
    # Each try asks for the file a few times.
    before = mirror.sandbox.count("storage")
    for day in range(1, 4):
        mirror.clock.advance(DAY)
        for _ in range(3):
            await mirror.run()
        assert (await mirror.states())[job] is JobState.QUARANTINED
        assert mirror.sandbox.count("storage") == before + day * before // 3
        assert (await status_of(mirror)).codes == ["F-SIZE"]

    mirror.sandbox.faults.clear()
    mirror.clock.advance(DAY)
    listener.events()
    assert published(await mirror.run()) == [job]
    assert (await status_of(mirror)).codes == []
    assert ("recovered", "F-SIZE") in listener.kinds()


async def test_a_quarantined_job_is_lost_when_autodesk_deletes_it(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1), days_ago=28)
    mirror.sandbox.faults.add(Fault(server="storage", kind="short", amount=5, times=None))
    for _ in range(3):
        await mirror.sync()
        mirror.clock.advance(HOUR)
    mirror.clock.advance(2 * DAY)

    await mirror.sync()

    assert (await mirror.states())[job] is JobState.EXPIRED
