"""Several hosts on one mirror: they share the work, show each other, and refuse one with another manifest."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from dcsync.sandbox import Fault, Options, Sandbox, World
from tests.rigs.ended import dying
from tests.rigs.hosts import SEED, Fleet, Host, fleet
from tests.rigs.kills import Witness
from tests.rigs.mirror import sidecar, tables
from tests.rigs.postgres import Postgres
from tests.rigs.waiting import until


class Watched(Sandbox):
    """A sandbox that sees how many refreshes are under way at the same time."""

    refreshing = most_refreshing = 0

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        is_refresh = request.path.endswith("/token")
        self.refreshing += is_refresh
        self.most_refreshing = max(self.most_refreshing, self.refreshing)
        try:
            return await handler(request)
        finally:
            self.refreshing -= is_refresh


def make_world(jobs: int, *, requests: int = 5, files: int = 4, seed: int = 5) -> World:
    """Return a world with that many extracts, shared out over some data requests."""
    world = World(seed=seed)
    for number in range(requests):
        world.add_request(f"Request {number}")
    add_jobs(world, jobs, files=files)
    return world


def add_jobs(world: World, jobs: int, *, files: int = 4) -> None:
    """Add that many extracts, one an hour, shared out over the data requests."""
    now, requests = datetime.now(UTC) - timedelta(hours=1), list(world.requests)
    for number in range(jobs):
        add_job(world, requests[number % len(requests)], number, files, now - timedelta(hours=jobs - number))


def add_job(world: World, request: str, number: int, files: int, completed_at: datetime) -> str:
    body = {**tables(files - 1, size=2000), "admin_day.csv": f"id\n{number}\n".encode()}
    return world.add_job(request, completed_at=completed_at, files=body, with_archive=False)


def assert_all_of_it_once(hosts: Fleet, jobs: int) -> None:
    """Each job is one folder, whole, and one row; `latest` is the newest; nothing is left in the staging."""
    witness = Witness(hosts.root, hosts.sandbox.world)
    assert witness.look() == jobs
    found = [path.parent for path in hosts.root.glob("acme/*/[0-9]*/**/_dcsync.json")]
    assert len({sidecar(path)["job"]["id"] for path in found}) == jobs
    witness.assert_all_mirrored()
    assert hosts.states() == {"published": jobs}
    rows = hosts.query("SELECT folder FROM job")
    assert {str(row[0]) for row in rows} == {str(path.relative_to(hosts.root)) for path in found}


@pytest.mark.timeout(600)
async def test_three_hosts_share_the_work_and_mirror_each_extract_once(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    jobs = 24
    async with Sandbox(make_world(0), options=Options(quota_per_minute=None, latency_s=0.01)) as sandbox:
        sandbox.faults.add(Fault(server="storage", kind="delay", seconds=0.05, times=None))
        async with fleet(tmp_path, sandbox, postgres_server) as hosts:
            for host in hosts.hosts:
                await hosts.start(host)
            # A host that starts late would find no work left.
            await until(lambda: hosts.workers() == 9, "three workers of each host")
            add_jobs(sandbox.world, jobs)
            hosts.poll_now(hosts.hosts[0])
            await hosts.published(jobs)
            statuses = [await hosts.stop(host) for host in hosts.hosts]

            assert statuses == [0, 0, 0]
            assert_all_of_it_once(hosts, jobs)
            # Every file once: nobody fetched what another one did.
            assert sandbox.count("storage") == jobs * 4
            assert all(host.said("snapshot published") > 0 for host in hosts.hosts)
            assert sum(host.said("snapshot published") for host in hosts.hosts) == jobs
            assert sandbox.tokens.refresh_count == 1
            assert all(host.said("a bug in dcsync") == 0 for host in hosts.hosts)


def most_calls_in_a_minute(sandbox: Sandbox) -> int:
    """Return the most API calls that came within any 60 s."""
    times = sorted(call.at for call in sandbox.calls if call.server == "api")
    first = most = 0
    for last, at in enumerate(times):
        while at - times[first] > 60.0:
            first += 1
        most = max(most, last - first + 1)
    return most


async def told(host: Host, *command: str) -> tuple[int, str]:
    """Run a command on a host beside its daemon; return its status and all that it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dcsync", "--config", str(host.config), *command),
        # The configured token began the chain long ago: nobody needs it any more.
        env={name: value for name, value in os.environ.items() if name != SEED},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        stdin=asyncio.subprocess.DEVNULL,
    )
    async with dying(process):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


@pytest.mark.timeout(600)
async def test_status_shows_the_hosts_and_one_shots_wait_for_none_and_another_manifest_is_refused(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    """The last is docs/project/faults.md M9."""
    async with (
        Sandbox(make_world(1), options=Options(quota_per_minute=None)) as sandbox,
        fleet(tmp_path, sandbox, postgres_server, hosts=5) as hosts,
    ):
        first, second, third, other, file = hosts.hosts
        other.config.write_text(other.config.read_text().replace(hosts.address, postgres_server.fresh()))
        file.config.write_text(file.config.read_text().replace(hosts.address, "sqlite"))
        await hosts.start(first)
        await hosts.published(1)
        sandbox.faults.add(Fault(server="storage", kind="delay", seconds=300, times=None))
        await hosts.start(second)
        await until(lambda: hosts.workers() == 6, "three workers of each host")
        add_jobs(sandbox.world, 3)
        hosts.poll_now(first)
        await until(lambda: sandbox.active > 0, "a download")
        await until(lambda: len(hosts.query("SELECT 1 FROM host WHERE doing <> ''")) > 0, "a host at work")

        status, out = await told(third, "status", "--json")
        shown = json.loads(out)["hosts"]
        sync = await told(third, "sync")
        text = await told(third, "status")
        accounts = await told(third, "accounts")
        while_it_runs = [await told(host, "run") for host in (other, file)]

        assert status == 0
        assert len(shown) == 2
        assert all(host["alive"] and host["role"] == "run" for host in shown)
        assert {host["pid"] for host in shown} == {
            host.process.pid for host in (first, second) if host.process is not None
        }
        assert any("mirroring" in host["doing"] for host in shown)
        assert sync[0] == 11
        assert "daemons on the same manifest are running" in sync[1]
        assert "host:" in text[1]
        # The token of the others serves this host, too.
        assert accounts[0] == 0
        assert sandbox.tokens.refresh_count == 1
        assert [status for status, _ in while_it_runs] == [14, 11]

        sandbox.faults.clear()
        for host in (first, second):
            await hosts.stop(host)
        after = [await told(host, "sync") for host in (other, file)]

        assert [status for status, _ in after] == [14, 14]
        assert all("M-FOREIGN" in out for _, out in after)
        assert Witness(hosts.root, sandbox.world).look() == hosts.states()["published"]
