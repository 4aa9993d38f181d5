"""Figures for Prometheus: in its form, the same for a scrape and a file, and not moved by a failure."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dcsync import __version__
from dcsync.app.status import read_status
from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName
from dcsync.core.standing import StandingAlert
from dcsync.errors import DiskDenied, DiskError
from dcsync.manifest import Sums
from dcsync.ops.metrics import CONTENT_TYPE, render, write_textfile
from dcsync.ops.peers import Host
from dcsync.ops.status import AccountStatus, Status
from dcsync.sandbox import Fault
from dcsync.tasks import DiskThreads
from tests.fakes import NOON
from tests.rigs.mirror import Mirror, add_extract, status_of, tables

Figures = dict[tuple[str, ...], float]
NOON_S = NOON.timestamp()


def figures(text: bytes) -> Figures:
    """Return each value by its name and its labels' values, as Prometheus would read them."""
    found: Figures = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation.endswith("."), family.name
        for sample in family.samples:
            key = (sample.name.removeprefix("dcsync_"), *[value for _, value in sorted(sample.labels.items())])
            assert key not in found
            found[key] = sample.value
    return found


def make_account(**changes: Any) -> AccountStatus:
    values: dict[str, Any] = {
        "name": AccountName("acme"),
        "last_poll": NOON + timedelta(hours=1),
        "last_success": NOON,
        "newest_snapshot": "acme/x",
        "newest_completed_at": NOON - timedelta(hours=1),
        "jobs": {"published": 2, "failed": 0},
        "alerts": (),
        "sums": Sums(snapshots=2, calls=9, fetched_bytes=100, linked_bytes=7),
    }
    return AccountStatus(**{**values, **changes})


def make_status(*accounts: AccountStatus, **changes: Any) -> Status:
    values: dict[str, Any] = {
        "accounts": accounts,
        "quota_limit": 60,
        "quota_used": 5,
        "token_method": "login",
        "token_expires_at": None,
        "token_refresh_by": NOON + timedelta(days=15),
        "free_bytes": 1 << 40,
        "holder": None,
    }
    return Status(**{**values, **changes})


# --- the figures ------------------------------------------------------------------------------------------------------


def test_a_status_is_figures_with_names_that_stay() -> None:
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")
    assert figures(render(make_status(make_account()))) == {
        ("build_info", socket.gethostname(), __version__): 1,
        ("last_success_timestamp_seconds", "acme"): NOON_S,
        ("last_poll_timestamp_seconds", "acme"): NOON_S + 3600,
        ("newest_snapshot_timestamp_seconds", "acme"): NOON_S - 3600,
        ("stale", "acme"): 0,
        ("jobs", "acme", "published"): 2,
        ("jobs", "acme", "failed"): 0,
        ("snapshots_total", "acme"): 2,
        ("fetched_bytes_total", "acme"): 100,
        ("linked_bytes_total", "acme"): 7,
        ("api_calls_total", "acme"): 9,
        ("quota_limit",): 60,
        ("quota_used",): 5,
        ("disk_free_bytes",): 1 << 40,
        ("token_refresh_by_timestamp_seconds",): NOON_S + 15 * 86400,
    }


def test_what_is_not_known_has_no_figure() -> None:
    nothing = make_account(last_poll=None, last_success=None, newest_completed_at=None, jobs={}, is_stale=True)
    names = {key[0] for key in figures(render(make_status(nothing, free_bytes=None, token_refresh_by=None)))}

    assert not any("timestamp" in name for name in names)
    assert "disk_free_bytes" not in names
    assert figures(render(make_status(nothing)))["stale", "acme"] == 1


def test_what_needs_a_person_is_counted_by_code() -> None:
    codes = ("L-MISSING", "T-LOGIN", "L-MISSING")
    alerts = [Alert.of(AlertCode(code), account="acme", message="secret words") for code in codes]
    account = make_account(alerts=tuple(StandingAlert(alert=alert, since=NOON, notified_at=None) for alert in alerts))
    text = render(make_status(account))

    found = {key: value for key, value in figures(text).items() if key[0] == "attention"}
    assert found == {("attention", "acme", "L-MISSING"): 2, ("attention", "acme", "T-LOGIN"): 1}
    assert b"secret words" not in text


def test_accounts_stand_beside_each_other() -> None:
    found = figures(render(make_status(make_account(), make_account(name=AccountName("beta"), is_stale=True))))

    assert (found["stale", "acme"], found["stale", "beta"]) == (0, 1)


async def scrape(mirror: Mirror) -> Figures:
    return figures(render(await read_status(mirror.configuration(), mirror.stores(), clock=mirror.clock)))


async def test_the_last_success_is_never_moved_by_a_failure(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    await mirror.run()
    name = ("last_success_timestamp_seconds", "acme")
    assert (await scrape(mirror))[name] == NOON_S

    # A job that fails, one that waits for its next try, a login that is needed, a server that is down.
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", times=None))
    add_extract(mirror, tables(1, seed=1))
    token = mirror.environ["TOKEN"]
    for step in ("failed", "waits", "login", "down"):
        mirror.clock.advance(10)
        mirror.environ["TOKEN"] = "wrong" if step == "login" else token
        if step == "down":
            mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, times=None))
        await mirror.run()
        assert (await scrape(mirror))[name] == NOON_S, step

    mirror.sandbox.faults.clear()
    mirror.clock.advance(7200)
    await mirror.run()
    assert (await scrape(mirror))[name] == mirror.clock.now().timestamp()


async def test_an_account_that_was_never_mirrored_has_no_last_success(mirror: Mirror) -> None:
    mirror.environ["TOKEN"] = "wrong"
    await mirror.run()

    found = await scrape(mirror)

    assert ("last_success_timestamp_seconds", "acme") not in found
    assert found["stale", "acme"] == 1
    assert found["attention", "acme", "T-LOGIN"] == 1


async def test_every_state_of_a_job_has_a_figure(mirror: Mirror) -> None:
    await mirror.run()

    assert {key[2] for key in await scrape(mirror) if key[0] == "jobs"} == {state.value for state in JobState}


# --- the file ---------------------------------------------------------------------------------------------------------


def listing(path: Path) -> list[Path]:
    return list(path.iterdir())


async def test_the_file_is_replaced_in_one_step_and_may_be_read_by_others(tmp_path: Path) -> None:
    place = tmp_path / "dcsync.prom"
    umask = os.umask(0o077)
    try:
        with DiskThreads(1) as disk:
            await write_textfile(disk, place, make_status(make_account()))
            with place.open("rb") as reader:
                await write_textfile(disk, place, make_status(make_account(), quota_used=9))
                # Whoever reads the old one reads it to its end.
                assert figures(reader.read())["quota_used",] == 5
    finally:
        os.umask(umask)

    assert figures(place.read_bytes())["quota_used",] == 9
    assert stat.S_IMODE(place.stat().st_mode) == 0o644
    assert listing(tmp_path) == [place]


async def test_accounts_whose_polls_end_together_write_it_side_by_side(tmp_path: Path) -> None:
    """The first took the temporary file of the others away, which was an alert."""
    place = tmp_path / "dcsync.prom"
    with DiskThreads(4) as disk:
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(write_textfile(disk, place, make_status(make_account())))

    assert listing(tmp_path) == [place]


async def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(tmp_path: Path) -> None:
    place = tmp_path / "dcsync.prom"
    (place / "in the way").mkdir(parents=True)

    with pytest.raises(DiskError, match="Is a directory"), DiskThreads(1) as disk:
        await write_textfile(disk, place, make_status())

    assert listing(tmp_path) == [place]


async def test_after_a_run_the_file_says_what_a_scrape_would(mirror: Mirror, tmp_path: Path) -> None:
    place = tmp_path / "dcsync.prom"
    mirror.config["metrics"] = {"textfile": str(place)}
    add_extract(mirror, tables(1))

    await mirror.run()

    written, scraped = figures(place.read_bytes()), await scrape(mirror)
    assert written.pop(("disk_free_bytes",)) > 0
    scraped.pop(("disk_free_bytes",))
    assert written == scraped
    assert written["snapshots_total", "acme"] == 1


async def test_a_file_that_cannot_be_written_is_an_alert_until_it_can(mirror: Mirror) -> None:
    place = mirror.folder / "gone" / "dcsync.prom"
    mirror.config["metrics"] = {"textfile": str(place)}
    add_extract(mirror, tables(1))

    await mirror.run()

    assert len(mirror.snapshots()) == 1
    (alert,) = [item.alert for item in (await status_of(mirror)).accounts[0].alerts]
    assert alert.code == "P-METRICS"
    assert alert.message == f"writing the metrics file failed: {place.parent} does not exist"
    assert alert.hint == "create that folder, or correct metrics.textfile. The next poll writes it again"
    place.parent.mkdir()
    await mirror.run()
    assert (await status_of(mirror)).codes == []


async def test_a_folder_of_the_file_that_may_not_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **_more: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    place = tmp_path / "dcsync.prom"
    with DiskThreads(1) as disk, monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with pytest.raises(DiskDenied) as caught:
            await write_textfile(disk, place, make_status())

    assert f"writing {place}: Permission denied: {tmp_path} (as uid" in caught.value.message
    assert f"permission for {tmp_path}" in caught.value.advice


async def test_without_a_metrics_file_no_failure_is_left(mirror: Mirror) -> None:
    mirror.config["metrics"] = {"textfile": str(mirror.folder / "gone" / "dcsync.prom")}
    await mirror.run()
    del mirror.config["metrics"]

    await mirror.run()

    assert "P-METRICS" not in (await status_of(mirror)).codes


def test_a_status_of_no_account_is_figures_too() -> None:
    assert figures(render(replace(make_status(), accounts=())))["quota_limit",] == 60


def test_hosts_that_share_a_manifest_are_figures_by_their_names() -> None:
    host = Host(
        id=1,
        name="alpha",
        pid=7,
        version="1",
        role="run",
        started_at=NOON,
        seen_at=NOON + timedelta(minutes=1),
        is_alive=True,
        doing="mirroring",
    )
    silent = replace(host, id=2, name="beta", pid=8, is_alive=False)

    found = figures(render(make_status(hosts=(host, silent))))

    assert {key: value for key, value in found.items() if key[0].startswith("host_")} == {
        ("host_up", "alpha", "7"): 1,
        ("host_up", "beta", "8"): 0,
        ("host_busy", "alpha", "7"): 1,
        ("host_busy", "beta", "8"): 0,
        ("host_seen_timestamp_seconds", "alpha", "7"): NOON_S + 60,
        ("host_seen_timestamp_seconds", "beta", "8"): NOON_S + 60,
    }
