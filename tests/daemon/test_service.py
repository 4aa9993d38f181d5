"""The daemon over hours and days of simulated time."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from dcsync.auth.token_store import TokenPair, TokenStore
from dcsync.cluster import make_session, stores_for
from dcsync.daemon.service import Service
from dcsync.errors import ExitStatus
from dcsync.sandbox import Fault
from tests.rigs.daemon import Rig, running, started
from tests.rigs.mirror import Mirror, add_extract, status_of, tables
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


async def test_half_a_day_with_everything_going_wrong_ends_with_the_mirror_whole(tmp_path: Path) -> None:
    """Many faults in twelve hours, with the real rate limit of the sandbox."""
    async with running(tmp_path, quota_per_minute=60) as rig:
        mirror, faults = rig.mirror, rig.sandbox.faults
        start = rig.clock.now()
        full, narrow = mirror.world.add_request("Full"), mirror.world.add_request("Narrow")
        jobs: list[str] = []

        def at(hours: float, what: object) -> None:
            assert callable(what)
            rig.plan.append((start + timedelta(hours=hours), what))

        def job(request: str, **options: object) -> None:
            jobs.append(add_extract(mirror, tables(8, seed=len(jobs)), request=request, **options))  # type: ignore[arg-type]

        for hour in range(1, 11, 3):
            at(hour, lambda: job(full, with_archive=True))
            at(hour + 0.2, lambda: job(narrow))
        at(1, lambda: faults.add(Fault(server="api", kind="status", status=500, times=40)))
        at(2, lambda: faults.add(Fault(server="storage", kind="cut", amount=500, times=20)))
        at(
            3,
            lambda: faults.add(Fault(server="api", kind="status", status=429, headers={"Retry-After": "90"}, times=5)),
        )
        at(4, lambda: faults.add(Fault(server="storage", kind="status", status=503, times=30)))
        at(5, lambda: faults.add(Fault(server="api", kind="reset", times=15)))
        at(6, lambda: faults.add(Fault(server="storage", kind="expired", times=10)))
        at(7, lambda: faults.add(Fault(server="api", kind="json", body=b"<html>login</html>", times=10)))
        at(8, lambda: faults.add(Fault(server="storage", kind="short", amount=10, times=4)))
        at(9, lambda: faults.add(Fault(server="api", kind="status", status=503, match="data-listing", times=10)))
        await rig.pass_time(hours=18)

        assert len(jobs) == 8
        for identifier in jobs:
            mirror.assert_identical(identifier)
        assert rig.sandbox.count("api", status=429) == 5  # only the injected ones: the rate limit was never reached
        for _ in range(20):
            # The day can end during a poll.
            if json.loads((mirror.state / "daemon.json").read_text())["status"].startswith("waiting"):
                break
            await rig.pass_time(minutes=1)
        else:
            pytest.fail("it never waits")


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


def events(folder: Path) -> list[dict[str, object]]:
    path = folder / "heard.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


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


async def test_the_daemon_waits_for_a_lost_mirror(tmp_path: Path) -> None:
    """docs/project/faults.md F15 and F7: reported once, nothing is written elsewhere, and no restart is needed."""
    async with running(tmp_path) as rig:
        first = add_extract(rig.mirror, tables(2))
        await rig.pass_time(minutes=20)
        rig.mirror.root.rename(tmp_path / "elsewhere")
        second = add_extract(rig.mirror, tables(2, seed=1))
        await rig.pass_time(minutes=18)

        able, document = await rig.service.health()
        assert (able, document["problems"]) == (False, ["M-MISSING"])
        assert rig.heard.last_status.startswith("STATUS=waiting: the mirror's root")
        assert not rig.mirror.root.exists()

        (tmp_path / "elsewhere").rename(rig.mirror.root)
        await rig.pass_time(minutes=3)

        rig.mirror.assert_identical(first)
        rig.mirror.assert_identical(second)


@pytest.mark.parametrize("how", ["gone", "unmounted", "another"])
async def test_health_is_red_as_soon_as_the_disk_is_away(tmp_path: Path, how: str) -> None:
    """Not only after the next poll."""
    async with running(tmp_path) as rig:
        add_extract(rig.mirror, tables(2))
        await rig.pass_time(minutes=20)
        assert (await rig.service.health())[0]
        polls = rig.polls()
        rig.mirror.root.rename(tmp_path / "elsewhere")
        if how != "gone":
            rig.mirror.root.mkdir()
        if how == "another":
            (rig.mirror.root / ".dcsync").mkdir()
            (rig.mirror.root / ".dcsync" / "instance").write_text('{"id": "another"}')
        rig.clock.leap(timedelta(seconds=6))

        able, document = await rig.service.health()

        code = {"gone": "M-MISSING", "unmounted": "M-UNMOUNTED", "another": "M-FOREIGN"}[how]
        assert (able, document["problems"]) == (False, [code])
        assert b"dcsync_disk_free_bytes" not in await rig.service.figures()
        assert rig.polls() == polls
        shutil.rmtree(rig.mirror.root, ignore_errors=True)
        (tmp_path / "elsewhere").rename(rig.mirror.root)
        rig.clock.leap(timedelta(seconds=6))
        assert (await rig.service.health())[0]


async def test_health_names_a_disk_that_hangs_without_reading_anything(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        session = rig.service._session
        assert session is not None
        session.hung_disk = "the disk of /mnt has not answered for more than 30 s"

        able, document = await rig.service.health()

        assert (able, document["problems"], document["message"]) == (False, ["F-HUNG"], session.hung_disk)
        session.hung_disk = None


async def _pass_time_until(rig: Rig, is_so: Callable[[], object]) -> None:
    """Let time pass until something is so. A socket of the system does not know the virtual time."""
    for _ in range(20):
        await rig.pass_time(minutes=20)
        if is_so():
            return


async def test_a_report_that_is_no_file_is_no_page(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        (rig.mirror.root / "index.html").unlink()
        os.mkfifo(rig.mirror.root / "index.html")

        assert await rig.service.report() is None


async def test_an_address_that_is_taken_is_an_alert_until_it_is_free_and_the_mirror_works(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def prepare(mirror: Mirror) -> None:
            mirror.config["http"] = {"listen": f"127.0.0.1:{port}"}
            mirror.config["hook"] = [
                {"on": ["alert", "recovered"], "run": ["/bin/sh", "-c", f"cat >> {tmp_path}/heard.jsonl"]}
            ]

        async with running(tmp_path, prepare=prepare) as rig:
            job = add_extract(rig.mirror, tables(2))
            await _pass_time_until(rig, lambda: events(tmp_path) and rig.mirror.snapshots())

            rig.mirror.assert_identical(job)
            assert [(event["event"], event["code"]) for event in events(tmp_path)] == [("alert", "P-LISTEN")]
            (alert,) = [item.alert for item in (await status_of(rig.mirror)).accounts[0].alerts]
            assert f"127.0.0.1:{port}" in alert.message

            other.close()
            await _pass_time_until(rig, lambda: events(tmp_path)[1:])

            assert (await status_of(rig.mirror)).codes == []
            assert [(event["event"], event["code"]) for event in events(tmp_path)][1:] == [("recovered", "P-LISTEN")]
    assert rig.task.result() is ExitStatus.DONE


async def test_sighup_loads_a_valid_configuration(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        add_extract(rig.mirror, tables(1), request=rig.mirror.world.add_request("Other"))
        rig.mirror.config["account"] = [{"name": "renamed", "id": rig.mirror.world.hub_id}]

        rig.service.reload()
        await rig.settle()

        assert "RELOADING=1" in rig.heard.messages
        assert [path.parts[-6] for path in rig.mirror.snapshots()] == ["renamed"]


async def test_a_configuration_that_opens_no_mirror_is_replaced_by_the_previous_one(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        rig.mirror.config["mirror"] = {"root": str(tmp_path / "nowhere")}

        rig.service.reload()
        await rig.settle()
        rig.mirror.config.clear()

        assert any(text.startswith("STATUS=running with the previous configuration") for text in rig.heard.messages)
        job = add_extract(rig.mirror, tables(1))
        await rig.pass_time(minutes=17)
        rig.mirror.assert_identical(job)


async def test_a_disk_that_is_mounted_over_is_noticed_with_nothing_new(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        add_extract(rig.mirror, tables(1))
        await rig.pass_time(minutes=17)
        rig.mirror.root.rename(tmp_path / "elsewhere")
        rig.mirror.root.mkdir()

        await rig.pass_time(minutes=18)

        _, document = await rig.service.health()
        assert document["problems"] == ["M-UNMOUNTED"]
        assert list(rig.mirror.root.iterdir()) == []


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


async def test_an_invalid_configuration_keeps_the_previous_one(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        rig.mirror.config["transfer"] = {"concurrency": 0}

        rig.service.reload()

        assert rig.heard.last_status == "STATUS=running with the previous configuration: config.toml:1: is bad"
        job = add_extract(rig.mirror, tables(1))
        await rig.pass_time(minutes=17)

        rig.mirror.assert_identical(job)
        assert "running with the previous configuration: config.toml:1: is bad; waiting" in rig.heard.last_status

        rig.mirror.config.clear()
        rig.service.reload()
        await rig.settle()
        assert "previous configuration" not in rig.heard.last_status


async def test_a_damaged_manifest_is_rebuilt_at_the_start_while_systemd_waits(tmp_path: Path) -> None:
    """docs/project/faults.md M3: no crash loop, and systemd does not mistake the long start for a hang."""
    async with running(tmp_path) as first:
        mirror = first.mirror
        job = add_extract(mirror, tables(3))
        await first.pass_time(minutes=17)
        first.service.stop()
        await first.task
        (mirror.state / "manifest.sqlite").write_bytes(b"no database" * 1000)

        async with started(mirror, first.clock) as rig:
            extended = rig.heard.messages.index("EXTEND_TIMEOUT_USEC=120000000")
            assert extended < rig.heard.messages.index("READY=1")
            mirror.assert_identical(job)
            able, _ = await rig.service.health()
            assert able
        assert list(mirror.state.glob("manifest.sqlite.damaged-*"))


async def test_a_stop_while_the_mirror_is_being_opened_ends_it(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        service = Service(
            rig.mirror.configuration,
            stores_for,
            environ=rig.mirror.environ,
            clock=rig.clock,
            make_session=make_session,
        )

        async def open_for_ever() -> None:
            async with service._opening():
                await asyncio.Event().wait()

        async with asyncio.TaskGroup() as group:
            opening = group.create_task(open_for_ever())
            await rig.settle()
            service.stop()
            # A second time, during the clean-up: only one cancellation is undone at the end.
            service.stop()
            assert opening.cancelling() == 1

        assert opening.cancelled()
