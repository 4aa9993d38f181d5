"""Several hosts on one mirror: nothing lost, nothing doubled, nothing torn, whoever is killed, frozen or cut off."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dcsync.sandbox import Fault, Options, Sandbox, World
from tests.rigs.hosts import Fleet, fleet
from tests.rigs.mirror import assert_proved_by_sums, sidecar, tables
from tests.rigs.postgres import Postgres
from tests.test_kill import assert_latest_is_newest, assert_nothing_torn


def make_world(jobs: int, *, requests: int = 5, files: int = 4, seed: int = 5) -> World:
    """Return a world with that many extracts, shared out over some data requests."""
    world = World(seed=seed)
    now = datetime.now(UTC)
    identifiers = [world.add_request(f"Request {number}") for number in range(requests)]
    for number in range(jobs):
        add_job(world, identifiers[number % requests], number, files, now - timedelta(hours=jobs - number))
    return world


def add_job(world: World, request: str, number: int, files: int, completed_at: datetime) -> str:
    body = {**tables(files - 1, size=2000), f"admin_day_{number}.csv": f"id\n{number}\n".encode()}
    return world.add_job(request, completed_at=completed_at, files=body, with_archive=False)


def assert_all_of_it_once(hosts: Fleet, jobs: int) -> None:
    """Each job is one folder, whole, and one row; `latest` is the newest; nothing is left in the staging."""
    assert assert_nothing_torn(hosts.root, hosts.sandbox.world) == jobs
    found = [path.parent for path in hosts.root.glob("acme/*/[0-9]*/**/_dcsync.json")]
    assert len({sidecar(path)["job"]["id"] for path in found}) == jobs
    for path in found:
        assert_proved_by_sums(path)
    assert_latest_is_newest(hosts.root)
    assert hosts.states() == {"published": jobs}
    rows = hosts.query("SELECT folder FROM job")
    assert {str(row[0]) for row in rows} == {str(path.relative_to(hosts.root)) for path in found}


@pytest.mark.timeout(120)
async def test_three_hosts_share_the_work_and_mirror_each_extract_once(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    jobs = 40
    async with Sandbox(make_world(jobs), options=Options(quota_per_minute=None, latency_s=0.01)) as sandbox:
        sandbox.faults.add(Fault(server="storage", kind="delay", seconds=0.05, times=None))
        async with fleet(tmp_path, sandbox, postgres_server) as hosts:
            for host in hosts.hosts:
                await hosts.start(host)
            await hosts.published(jobs, within_s=90)
            statuses = [await hosts.stop(host) for host in hosts.hosts]

            assert statuses == [0, 0, 0]
            assert_all_of_it_once(hosts, jobs)
            # Every file once: nobody fetched what another one did.
            assert sandbox.count("storage") == jobs * 4
            assert all(host.said("snapshot published") > 0 for host in hosts.hosts)
            assert sum(host.said("snapshot published") for host in hosts.hosts) == jobs
            assert sandbox.tokens.refresh_count == 1
            assert all(host.said("a bug in dcsync") == 0 for host in hosts.hosts)
