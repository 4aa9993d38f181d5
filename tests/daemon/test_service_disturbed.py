"""The daemon without its disk, its address or a valid configuration."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from dcsync.cluster import make_session, stores_for
from dcsync.daemon.service import Service
from dcsync.errors import ExitStatus
from tests.rigs.daemon import Rig, events, running, started
from tests.rigs.mirror import Mirror, add_extract, status_of, tables

#: Hours of a daemon take seconds, and on a busy machine a minute.
pytestmark = pytest.mark.timeout(240)


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
            async with service._opening("opening the mirror"):
                await asyncio.Event().wait()

        async with asyncio.TaskGroup() as group:
            opening = group.create_task(open_for_ever())
            await rig.settle()
            service.stop()
            # A second time, during the clean-up: only one cancellation is undone at the end.
            service.stop()
            assert opening.cancelling() == 1

        assert opening.cancelled()
