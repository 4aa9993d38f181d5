"""A project, list or data request that cannot be read stops no other."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dcsync.api import client, transport
from dcsync.errors import ApiFault, ExitStatus
from dcsync.ops.mirroring import job_lists
from dcsync.sandbox import Fault
from tests.rigs.listener import DAY, HOUR, Listener
from tests.rigs.mirror import Mirror, add_extract, sidecar, status_of, tables
from tests.rigs.outcomes import count_lists, published

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


# --- projects ---------------------------------------------------------------------------------------------------------


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
    assert outcome.error is not None
    assert outcome.error.message.startswith(f"projects {ONE}, {TWO}, {THREE}: GET ")


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


async def test_a_data_request_of_two_projects_is_late_if_one_of_them_can_be_read(mirror: Mirror) -> None:
    """The unreadable project made its last poll old, and nothing was late."""
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "projects": [ONE, TWO, THREE]}]
    nightly = mirror.world.add_request("Nightly", created_at=mirror.clock.now() - timedelta(days=60, hours=10))
    mirror.world.requests[nightly].project_ids = (ONE, TWO)
    for day in range(3, 0, -1):
        add_extract(mirror, tables(1, seed=day), request=nightly, days_ago=day - 0.4)
    assert len(published(await mirror.run())) == 3

    for project in (TWO, THREE):
        refuse_project(mirror, project, 403)
    for _ in range(2):
        mirror.clock.advance(DAY)
        await mirror.run()

    assert (await status_of(mirror)).codes.count("L-LATE") == 1


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


# --- lists and descriptions -------------------------------------------------------------------------------------------


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
