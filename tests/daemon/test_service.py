"""The daemon over hours and days of simulated time."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from dcsync.auth.token_store import TokenPair, TokenStore
from dcsync.errors import ExitStatus
from dcsync.sandbox import Fault
from tests.rigs.daemon import events, running
from tests.rigs.mirror import Mirror, add_extract, tables
from tests.rigs.opens import Opens, counting_opens

#: Hours of a daemon take seconds, and on a busy machine a minute.
pytestmark = pytest.mark.timeout(240)


async def test_it_polls_immediately_and_then_at_its_interval(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        assert rig.polls() == 1
        assert "READY=1" in rig.heard.messages

        await rig.pass_time(hours=5)

        # Every 15 minutes with one minute of jitter: about 20 polls.
        assert 18 <= rig.polls() - 1 <= 21
        assert rig.heard.last_status.startswith("STATUS=waiting; next poll at ")
    assert rig.task.result() is ExitStatus.DONE


async def test_a_new_extract_is_there_after_the_next_poll(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        job = add_extract(rig.mirror, tables(3))

        await rig.pass_time(minutes=17)

        rig.mirror.assert_identical(job)


async def test_a_poll_opens_nothing_more(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        add_extract(rig.mirror, tables(3))
        with counting_opens() as opens:
            rig.service.poll_now()
            await rig.settle()
            await rig.service.health()

        assert rig.mirror.snapshots()
        assert opens == Opens()


async def test_sigusr1_polls_now(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        job = add_extract(rig.mirror, tables(3))
        rig.service.poll_now()
        await rig.settle()

        rig.mirror.assert_identical(job)


async def test_sleeping_for_eight_hours_causes_one_poll(tmp_path: Path) -> None:
    """docs/project/faults.md D14."""
    async with running(tmp_path) as rig:
        await rig.pass_time(minutes=40)
        before = rig.polls()

        rig.clock.leap(timedelta(hours=8))
        await rig.pass_time(minutes=2)

        assert rig.polls() - before == 1
        await rig.pass_time(hours=1)
        assert 4 <= rig.polls() - before <= 6


async def test_a_wall_clock_that_jumps_causes_no_burst_and_no_silence(tmp_path: Path) -> None:
    """docs/project/faults.md C1."""
    async with running(tmp_path) as rig:
        for jump in (timedelta(hours=1), timedelta(hours=-1), timedelta(days=3650), timedelta(days=-3650)):
            before = rig.polls()
            rig.clock.set_wall(rig.clock.now() + jump)

            await rig.pass_time(hours=1)

            assert 3 <= rig.polls() - before <= 5, jump


async def test_one_account_that_hangs_does_not_hold_up_the_other(tmp_path: Path) -> None:
    other = "b.11111111-1111-4111-8111-111111111111"

    def prepare(mirror: Mirror) -> None:
        mirror.config["account"] = [
            {"name": "acme", "id": mirror.world.hub_id},
            {"name": "beta", "id": other},
        ]

    async with running(tmp_path, prepare=prepare) as rig:
        hang = rig.sandbox.faults.add(Fault(server="api", kind="hang", seconds=20, match=other[2:]))
        job = add_extract(rig.mirror, tables(2))
        rig.service.poll_now()
        # Published while beta's call hangs, in whichever order the two started.
        while not (rig.mirror.snapshots() and hang.times == 0):
            await rig.clock.advance(timedelta(0), quiet=lambda: True)

        assert rig.sandbox.active >= 1
        rig.mirror.assert_identical(job)
        rig.service.stop()
        rig.service.stop()  # the second call cancels immediately


async def test_a_refused_account_is_reported_once_and_the_other_continues(tmp_path: Path) -> None:
    """docs/project/faults.md A6."""

    def prepare(mirror: Mirror) -> None:
        mirror.config["account"] = [
            {"name": "acme", "id": mirror.world.hub_id},
            {"name": "beta", "id": "b.11111111-1111-4111-8111-111111111111"},
        ]
        hook = ["/bin/sh", "-c", f"cat >> {mirror.folder}/heard.jsonl"]
        mirror.config["hook"] = [{"on": ["alert", "recovered"], "run": hook}]

    async with running(tmp_path, prepare=prepare) as rig:
        job = add_extract(rig.mirror, tables(2))
        await rig.pass_time(hours=3)
        rig.mirror.assert_identical(job)
        assert [event["code"] for event in events(tmp_path)] == ["A-DENIED"]

        rig.clock.leap(timedelta(hours=20))
        await rig.pass_time(hours=2)

        assert [event["account"] for event in events(tmp_path)] == ["beta", "beta"]  # once a day


def with_login(mirror: Mirror) -> None:
    mirror.config["auth"] = {"method": "login", "client_id": "sandbox", "client_secret": "sandbox-secret"}
    mirror.state.mkdir(exist_ok=True)
    store_login(mirror)


def store_login(mirror: Mirror) -> None:
    token = mirror.sandbox.tokens.issue_refresh_token("anna")
    TokenStore(mirror.state).save(TokenPair(refresh_token=token, issued_at=mirror.clock.now()))


async def test_without_a_sign_in_it_stays_up_makes_no_calls_and_resumes_after_one(tmp_path: Path) -> None:
    async with running(tmp_path, prepare=with_login) as rig:
        rig.sandbox.tokens.live_refresh_tokens.clear()
        rig.sandbox.tokens.revoke_access()
        await rig.pass_time(hours=2)
        asked = rig.sandbox.count()

        await rig.pass_time(hours=3)

        assert rig.sandbox.count() == asked
        able, document = await rig.service.health()
        assert (able, document["problems"]) == (False, ["T-LOGIN", "stale: acme"])

        job = add_extract(rig.mirror, tables(2))
        store_login(rig.mirror)
        await rig.pass_time(seconds=40)

        rig.mirror.assert_identical(job)


async def test_a_dead_data_request_makes_the_daemon_unhealthy_beside_a_healthy_one(tmp_path: Path) -> None:
    """A supervisor sees that the daemon works, and a monitor that data is missing."""
    async with running(tmp_path) as rig:
        now = rig.clock.now()
        for name, hours in (("Dead", 1), ("Healthy", 999)):
            request = rig.mirror.world.add_request(name, created_at=now - timedelta(days=30))
            rig.mirror.world.requests[request].ends_at = now + timedelta(hours=hours)
            rig.mirror.world.add_job(request, completed_at=now, files=tables(1), with_archive=False)
        rig.service.poll_now()
        await rig.settle()
        assert (await rig.service.health())[0]

        rig.clock.leap(timedelta(hours=25))
        for request in list(rig.mirror.world.requests)[1:]:
            rig.mirror.world.add_job(request, completed_at=rig.clock.now(), files=tables(1), with_archive=False)
        await rig.pass_time(hours=1)

        able, document = await rig.service.health()
        assert (able, document["status"]) == (False, "not ok")
        assert document["problems"] == ["L-ENDED"]
        requests = document["requests"]
        assert isinstance(requests, list)
        assert [(request["account"], request["description"], request["state"]) for request in requests] == [
            ("acme", "Dead", "ended"),
            ("acme", "Healthy", "ok"),
        ]
        assert rig.service.is_alive()


async def test_an_idle_refresh_token_is_renewed_at_night(tmp_path: Path) -> None:
    """docs/project/faults.md T11. The interval is weeks, so that nothing else renews the token."""

    def prepare(mirror: Mirror) -> None:
        with_login(mirror)
        mirror.config["poll"] = {"interval": "20d", "jitter": "0s", "stale_after": "60d"}

    async with running(tmp_path, prepare=prepare) as rig:
        before = rig.sandbox.tokens.refresh_count

        for _ in range(9):
            rig.clock.leap(timedelta(hours=23))
            await rig.pass_time(hours=1)

        assert rig.sandbox.tokens.refresh_count - before == 1


async def test_each_night_a_part_is_verified_and_old_snapshots_are_pruned(tmp_path: Path) -> None:
    def prepare(mirror: Mirror) -> None:
        mirror.config["keep"] = {"last": 2}
        mirror.config["verify"] = {"part_days": 2}
        mirror.config["hook"] = [{"on": ["alert"], "run": ["/bin/sh", "-c", f"cat >> {mirror.folder}/heard.jsonl"]}]

    async with running(tmp_path, prepare=prepare) as rig:
        jobs = [add_extract(rig.mirror, tables(3, seed=day), days_ago=3 - day) for day in range(3)]
        rig.service.poll_now()
        await rig.settle()
        damaged = rig.mirror.snapshot_of(jobs[2]) / "admin_table_001.csv"
        damaged.chmod(0o644)
        damaged.write_bytes(b"x" * damaged.stat().st_size)

        for _ in range(2):
            rig.clock.leap(timedelta(hours=20))
            await rig.pass_time(hours=4)

        assert len(rig.mirror.snapshots()) == 2
        rig.mirror.assert_identical(jobs[1])
        told = events(tmp_path)
        # No new extract comes: Autodesk is late, with a reminder after a day. The second night reads the damaged part.
        assert [(event["event"], event["code"]) for event in told] == [
            ("alert", "L-LATE"),
            ("alert", "L-LATE"),
            ("alert", "V-DAMAGED"),
        ]
        assert "admin_table_001.csv" in str(told[2]["message"])


async def test_a_flood_of_hints_polls_once_in_half_a_minute(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        request = rig.mirror.world.add_request("Nightly")
        add_extract(rig.mirror, tables(1), request=request)
        rig.service.poll_now()
        await rig.settle()
        before = rig.polls()

        for _ in range(130):
            await rig.service.hint(rig.mirror.world.account_id, request)
            await rig.service.hint(rig.mirror.world.account_id, "an unknown request")
            await rig.service.hint("an unknown account", request)
            await rig.pass_time(seconds=1)

        assert 4 <= rig.polls() - before <= 5
