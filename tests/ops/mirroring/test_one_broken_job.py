"""A job, project, list or data request that does not work stops nothing else, and an outage is told from it."""

from __future__ import annotations

import errno
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dcsync.api import client, transport
from dcsync.core.lifecycle import JobState
from dcsync.errors import ApiFault, ExitStatus
from dcsync.mirror import disk
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.mirroring import job_lists
from dcsync.ops.mirroring.outcome import AccountOutcome
from dcsync.sandbox import Fault
from tests.rigs.listener import DAY, HOUR, Listener
from tests.rigs.mirror import Mirror, add_extract, sidecar, status_of, tables

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


def published(outcome: AccountOutcome) -> list[str]:
    return [found.job for found in outcome.published]


def count_lists(mirror: Mirror) -> int:
    """Return how many pages of job lists were read."""
    return sum(call.path.endswith("/jobs") for call in mirror.sandbox.calls)


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


# --- projects ---------------------------------------------------------------------------------------------------------

ONE, TWO, THREE = (f"{number}0000000-0000-4000-8000-000000000000" for number in (1, 2, 3))


@pytest.fixture
def projects(mirror: Mirror) -> dict[str, str]:
    """A data request in each of three projects, all configured. Returns their jobs."""
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "projects": [ONE, TWO, THREE]}]
    jobs = {}
    for number, project in enumerate((ONE, TWO, THREE)):
        request = mirror.world.add_request(f"Project {number}", schedule="ONE_TIME", project_id=project)
        jobs[project] = add_extract(mirror, tables(1, seed=number), request=request)
    return jobs


def refuse_project(mirror: Mirror, project: str, status: int) -> None:
    mirror.sandbox.faults.add(
        Fault(server="api", kind="status", status=status, match=f"projectId(%5D)?={project}", times=None)
    )


@pytest.mark.parametrize("status", [400, 403, 404, 500])
async def test_a_project_that_is_refused_is_named_and_the_others_go_on(
    mirror: Mirror, listener: Listener, projects: dict[str, str], status: int
) -> None:
    refuse_project(mirror, TWO, status)

    outcome = await mirror.run()

    assert (outcome.error, outcome.exit_status) == (None, ExitStatus.INCOMPLETE)
    assert sorted(published(outcome)) == sorted([projects[ONE], projects[THREE]])
    now = await status_of(mirror)
    (item,) = now.accounts[0].alerts
    assert (item.alert.code, item.alert.subject, now.check) == ("L-PROJECT", TWO, ExitStatus.INCOMPLETE)
    assert TWO in item.alert.message
    assert str(status) in item.alert.message
    assert item.alert.hint.endswith("Each poll tries again")
    # What helps depends on the refusal.
    helps = {403: "Project Administrator role in this project", 500: "on Autodesk's side"}
    assert helps.get(status, "correct its ID in [[account]] projects") in item.alert.hint
    assert [(part.code, part.hint) for part in outcome.broken] == [("L-PROJECT", item.alert.hint)]
    assert listener.kinds().count(("alert", "L-PROJECT")) == 1

    mirror.sandbox.faults.clear()
    outcome = await mirror.run()
    assert published(outcome) == [projects[TWO]]
    assert (await status_of(mirror)).codes == []


async def test_what_a_project_showed_before_its_list_broke_is_not_recorded(
    mirror: Mirror, projects: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of known jobs ends the next poll, so the older ones would never be seen."""
    monkeypatch.setattr(client, "PAGE_SIZE", 3)
    request = next(entry for entry in mirror.world.requests.values() if entry.project_id == TWO).id
    older = [
        add_extract(mirror, tables(1, seed=9 + number), request=request, days_ago=1 + number) for number in range(6)
    ]
    mirror.sandbox.faults.add(
        Fault(server="api", kind="status", status=403, match=f"projectId={TWO}.*offset=[1-9]", times=1)
    )

    assert sorted(published(await mirror.sync_one())) == sorted([projects[ONE], projects[THREE]])
    assert sorted(published(await mirror.sync_one())) == sorted([projects[TWO], *older])


async def test_if_no_project_can_be_read_the_account_stops(mirror: Mirror, projects: dict[str, str]) -> None:
    for project in projects:
        refuse_project(mirror, project, 403)

    outcome = await mirror.sync_one()

    assert outcome.exit_status is ExitStatus.PERMISSION_DENIED


async def test_an_outage_is_not_met_project_by_project(mirror: Mirror, projects: dict[str, str]) -> None:
    assert len(projects) == 3
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, times=None))

    outcome = await mirror.sync_one()

    assert isinstance(outcome.error, ApiFault)
    # The second list is a probe, and so is the third.
    assert len(mirror.sandbox.calls) == transport.ATTEMPTS + 2


async def test_a_project_that_cannot_be_read_is_neither_late_nor_gone(mirror: Mirror, projects: dict[str, str]) -> None:
    nightly = mirror.world.add_request(
        "Nightly", created_at=mirror.clock.now() - timedelta(days=60, hours=10), project_id=TWO
    )
    for day in range(3, 0, -1):
        add_extract(mirror, tables(1, seed=20 + day), request=nightly, days_ago=day - 0.4)
    assert len(published(await mirror.run())) == 3 + len(projects)
    refuse_project(mirror, TWO, 403)
    mirror.clock.advance(HOUR)
    await mirror.run()
    assert (await status_of(mirror)).codes == ["L-PROJECT"]

    # Days later, nothing is known of it.
    for _ in range(3):
        mirror.clock.advance(DAY)
        await mirror.run()
    assert (await status_of(mirror)).codes == ["L-PROJECT"]

    mirror.sandbox.faults.clear()
    await mirror.run()
    assert (await status_of(mirror)).codes == ["L-LATE"]


# --- lists and descriptions -------------------------------------------------------------------------------------------


class Endless:
    """A job list on which each page has other jobs, all of today."""

    def __init__(self, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, *, pages: int) -> None:
        monkeypatch.setattr(client, "PAGE_SIZE", 5)
        monkeypatch.setattr(job_lists, "MOST_PAGES", pages)
        monkeypatch.setattr(job_lists, "MOST_PAGES_AGAIN", 2)
        self.request = mirror.world.add_request("Nightly", schedule="ONE_TIME")
        for number in range(60):
            mirror.world.add_job(
                self.request,
                status="running",
                created_at=mirror.clock.now() - timedelta(seconds=number),
                completed_at=None,
                files={},
            )


async def test_a_job_list_without_an_end_is_left_and_the_newest_are_mirrored(
    mirror: Mirror, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless(mirror, monkeypatch, pages=6)
    mirror.clock.advance(60)
    job = add_extract(mirror, tables(1), request=endless.request, created_at=mirror.clock.now())

    outcome = await mirror.run()

    assert published(outcome) == [job]
    assert count_lists(mirror) == 6
    now = await status_of(mirror)
    assert (now.codes, now.check) == (["L-LIST"], ExitStatus.INCOMPLETE)
    assert ("alert", "L-LIST") in listener.kinds()
    # From then on it costs less, and what is new is still seen.
    mirror.clock.advance(60)
    job = add_extract(mirror, tables(1, seed=1), request=endless.request, created_at=mirror.clock.now())
    assert published(await mirror.run()) == [job]
    assert count_lists(mirror) == 6 + 2

    mirror.world.jobs.clear()
    await mirror.run()
    assert (await status_of(mirror)).codes == []


async def test_a_job_that_waits_and_is_no_longer_listed_does_not_make_each_poll_read_everything(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE_SIZE", 3)
    for day in range(20):
        add_extract(mirror, tables(1, seed=day), days_ago=1 + day)
    request = next(iter(mirror.world.requests))
    gone = mirror.world.add_job(
        request, status="running", created_at=mirror.clock.now() - timedelta(hours=1), completed_at=None, files={}
    )
    await mirror.sync()
    del mirror.world.jobs[gone]
    before = count_lists(mirror)

    await mirror.sync()

    assert count_lists(mirror) == before + 1


async def test_a_data_request_that_cannot_be_read_now_is_described_by_the_list(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", match="/requests/", times=None))

    assert published(await mirror.sync_one()) == [job]

    assert sidecar(mirror.snapshot_of(job))["request"]["description"] == "My Company Data Extract"


async def test_the_jobs_of_a_data_request_that_cannot_be_read_wait_and_no_others(
    mirror: Mirror, listener: Listener
) -> None:
    """Its folder gets its name."""
    broken, other = (mirror.world.add_request(name, schedule="ONE_TIME") for name in ("Broken", "Other"))
    add_extract(mirror, tables(1), request=other, days_ago=1)
    await mirror.run()
    listener.events()
    first = add_extract(mirror, tables(1), request=broken)
    second = add_extract(mirror, tables(1, seed=1), request=other)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", match="/requests", times=None))

    outcome = await mirror.run()

    assert (published(outcome), outcome.exit_status) == ([second], ExitStatus.INCOMPLETE)
    assert (await status_of(mirror)).codes == ["L-REQUEST"]
    assert ("alert", "L-REQUEST") in listener.kinds()

    mirror.sandbox.faults.clear()
    assert published(await mirror.run()) == [first]
    assert (await status_of(mirror)).codes == []
    assert mirror.snapshot_of(first).relative_to(mirror.root).parts[1].startswith("broken-")


async def test_after_a_day_it_is_mirrored_without_a_description(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", match="/requests", times=None))
    assert published(await mirror.sync_one()) == []
    mirror.clock.advance(DAY + HOUR)

    assert published(await mirror.sync_one()) == [job]


# --- quarantine -------------------------------------------------------------------------------------------------------


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
