"""Hosts on one mirror, killed, frozen, or without their database: each extract is mirrored once all the same."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from dcsync.sandbox import Fault, Options, Sandbox
from tests.rigs.hosts import Fleet, fleet
from tests.rigs.postgres import Postgres
from tests.rigs.waiting import until
from tests.torture.conftest import Figure, pick
from tests.torture.test_fleet import Watched, add_job, assert_all_of_it_once, make_world, most_calls_in_a_minute, told

#: A pause longer than the fast pace's silence makes a zombie; a shorter one does not.
LONGEST_PAUSE_S = 6.0
#: What the log says when the database goes away, and when it is back.
AWAY, AGAIN = "the mirror is not available", "the mirror is available again"


async def tend(hosts: Fleet, waking: dict[int, float]) -> None:
    """Wake the hosts whose time has come, start those that are down, and fail for one that ended by itself."""
    for host in hosts.hosts:
        if host.is_paused and waking[host.number] <= asyncio.get_running_loop().time():
            del waking[host.number]
            hosts.wake(host)
        elif host.process is None:
            await hosts.start(host)
        elif host.process.returncode is not None:
            message = f"host {host.number} ended with {host.process.returncode}: {host.log.read_text()[-2000:]}"
            raise AssertionError(message)


async def torture(hosts: Fleet, chance: random.Random, rounds: int) -> dict[str, int]:
    """Kill and freeze hosts at random moments, so often each; return how many of each met a host that was at work."""
    left = ["kill"] * rounds + ["pause"] * rounds
    chance.shuffle(left)
    waking: dict[int, float] = {}
    met = {"kill": 0, "pause": 0, "zombie": 0}
    loop, began = asyncio.get_running_loop(), datetime.now(UTC)
    while left or waking:
        await asyncio.sleep(chance.uniform(0.1, 1.2))  # noqa: TID251 - other processes' work
        await tend(hosts, waking)
        host = chance.choice(hosts.hosts)
        if not left or host.process is None or (left[-1] == "pause" and host.is_paused):
            continue
        action = left.pop()
        met[action] += bool(
            hosts.query("SELECT 1 FROM procrastinate_jobs WHERE status = 'doing' AND queue_name = 'mirror'")
        )
        if action == "kill":
            # Also one that is frozen: it never wakes.
            waking.pop(host.number, None)
            await hosts.kill(host)
        else:
            hosts.pause(host)
            span = chance.uniform(0.05, LONGEST_PAUSE_S)
            met["zombie"] += span > 3.0
            waking[host.number] = loop.time() + span
        if hosts.states().get("published", 0) + 15 > len(hosts.sandbox.world.jobs):
            # So that there is something to interrupt.
            world = hosts.sandbox.world
            for _ in range(5):
                number, request = len(world.jobs), chance.choice(list(world.requests))
                # Each in a second of its own: two of the same have no order.
                add_job(world, request, number, 3, began - timedelta(hours=1) + timedelta(seconds=2 * number))
    return met


@pytest.mark.first
@pytest.mark.timeout(1800)
async def test_hosts_that_are_killed_and_frozen_at_random_lose_double_and_tear_nothing(
    tmp_path: Path, postgres_server: Postgres, chance: random.Random, figure: Figure
) -> None:
    """The quota of one is kept by all, one refreshes at a time, and what each left is done by the others."""
    quota, rounds = 160, pick(50, 10)
    # A kill may come between the server's commit and our save (fault T1): only a server with grace lets that heal.
    options = Options(quota_per_minute=quota, latency_s=0.01, access_token_lifetime_s=60.0)
    async with Watched(make_world(pick(100, 30), files=3), options=options) as sandbox:
        sandbox.tokens.mode = "grace"
        sandbox.faults.add(Fault(server="storage", kind="delay", seconds=0.1, times=None))
        sandbox.faults.add(Fault(server="token", kind="delay", seconds=0.1, times=None))
        async with fleet(tmp_path, sandbox, postgres_server, requests_per_minute=quota) as hosts:
            for host in hosts.hosts:
                await hosts.start(host)
            await hosts.published(1, within_s=60)

            met = await torture(hosts, chance, rounds)
            jobs = len(sandbox.world.jobs)
            await hosts.published(jobs, within_s=120 + 6 * rounds)
            statuses = [await hosts.stop(host) for host in hosts.hosts if host.process is not None]

            assert set(statuses) == {0}
            assert_all_of_it_once(hosts, jobs)
            assert sandbox.count("api", status=429) == 0
            # They came near it, so that a call too many would have shown. How near depends on the machine.
            assert quota // 2 < most_calls_in_a_minute(sandbox) <= quota
            assert sandbox.most_refreshing == 1
            assert [host.number for host in hosts.hosts if host.said("a bug in dcsync")] == []
            # The kills and pauses met hosts at work, and what was in their hands was taken up.
            assert met["kill"] > rounds // 3
            assert met["pause"] > rounds // 3
            taken_up = sum(host.said("task of a lost host returned to the queue") for host in hosts.hosts)
            fenced = sum(host.said("another host took over a task") for host in hosts.hosts)
            assert taken_up > 0
            figure(
                f"three hosts, {rounds} kills and {rounds} pauses",
                f"{jobs} extracts, each once; {met['kill']} and {met['pause']} met a running job, {met['zombie']} "
                f"made a zombie; {taken_up} tasks picked up again, {fenced} fenced off; "
                f"never two refreshes at a time; "
                f"{most_calls_in_a_minute(sandbox)} of {quota} calls in the fullest minute",
            )
            assert_in_order(hosts)


def assert_in_order(hosts: Fleet) -> None:
    """The snapshots that were there from the start were published in their requests' order."""
    rows = hosts.query("SELECT request, published_at FROM job ORDER BY request, completed_at, id")
    by_request: dict[object, list[int]] = {}
    for request, published_at in rows:
        by_request.setdefault(request, []).append(int(str(published_at)))
    early = [times[:5] for times in by_request.values()]
    assert all(before < after for times in early for before, after in pairwise(times))


@pytest.mark.timeout(600)
async def test_a_database_that_restarts_and_is_away_for_half_a_minute_is_sat_out(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    jobs = 24
    async with Sandbox(make_world(jobs), options=Options(quota_per_minute=None)) as sandbox:
        sandbox.faults.add(Fault(server="storage", kind="delay", seconds=0.3, times=None))
        async with fleet(tmp_path, sandbox, postgres_server) as hosts:
            for host in hosts.hosts:
                await hosts.start(host)
            await hosts.published(3)

            postgres_server.restart()
            await hosts.published(8)
            before = len(list(hosts.root.glob("acme/*/[0-9]*/**/_dcsync.json")))
            assert before < jobs
            with postgres_server.outage():
                await asyncio.sleep(30)  # noqa: TID251 - other processes' work
                during = await told(hosts.hosts[0], "status")
            await hosts.published(jobs)
            # The other hosts may have mirrored everything before one of them has the database again.
            await until(lambda: all(host.said(AGAIN) == host.said(AWAY) for host in hosts.hosts), AGAIN)
            statuses = [await hosts.stop(host) for host in hosts.hosts]

            assert statuses == [0, 0, 0]
            assert_all_of_it_once(hosts, jobs)
            assert during[0] == 3
            assert "the database" in during[1]
            assert "does not answer" in during[1]
            for host in hosts.hosts:
                assert host.said(AWAY) in {1, 2}
                assert host.said("a bug in dcsync") == 0


@pytest.mark.timeout(600)
async def test_at_the_usual_pace_the_job_of_a_killed_host_is_another_one_s_within_90_s(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    async with Sandbox(make_world(1), options=Options(quota_per_minute=None)) as sandbox:
        sandbox.faults.add(Fault(server="storage", kind="delay", seconds=300, times=None))
        async with fleet(tmp_path, sandbox, postgres_server, hosts=2, pace="usual") as hosts:
            first, second = hosts.hosts
            await hosts.start(first)
            await until(lambda: sandbox.active > 0)
            await hosts.start(second)
            await until(second.log.exists)
            await hosts.kill(first)
            sandbox.faults.clear()

            await hosts.published(1)

            assert second.said("task of a lost host returned to the queue") > 0
            # It is told after it is in the manifest.
            await until(lambda: second.said("snapshot published") == 1)
            assert_all_of_it_once(hosts, 1)
