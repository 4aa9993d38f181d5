"""`dcsync status`."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dcsync.cli.status import freshness_text
from dcsync.core.freshness import Cause, FreshnessState, MissedSlot, RequestFreshness
from dcsync.core.model import RequestId
from tests.cli.conftest import Dcsync
from tests.rigs.mirror import tables
from tests.rigs.served import TOKEN, Served


def test_it_works_before_the_first_run(side: Served, dcsync: Dcsync) -> None:
    result = dcsync("status")

    assert result.status == 0
    assert "last poll     never" in result.out
    assert "newest        none yet" in result.out


def test_it_shows_the_newest_snapshot_and_the_counts(side: Served, dcsync: Dcsync) -> None:
    request = side.sandbox.world.add_request("Nightly")
    side.sandbox.world.add_job(request, completed_at=datetime.now(UTC), files=tables(1), with_archive=False)
    dcsync("sync")

    result = dcsync("status")

    assert "1 published" in result.out
    assert "newest        acme/nightly-" in result.out
    assert "quota: 4 of 60 API calls used in the last minute" in result.out


def test_an_include_that_leaves_no_table_is_red_until_it_is_corrected(side: Served, dcsync: Dcsync) -> None:
    request = side.sandbox.world.add_request("Nightly")
    for days in range(2):
        completed = datetime.now(UTC) - timedelta(days=days)
        side.sandbox.world.add_job(request, completed_at=completed, files=tables(1), with_archive=False)
    good = side.config.read_text()
    side.config.write_text(good + 'include = ["adm_*"]\n')

    failed, result = dcsync("sync"), dcsync("status", "--check")

    assert failed.status == 3
    assert (failed.err.count(" [C-NOTABLES]; next attempt"), failed.err.count("  do:   correct include")) == (2, 1)
    assert result.status == 2
    assert "C-NOTABLES" in result.out + result.err
    assert list(side.root.glob("acme/*")) == []
    side.config.write_text(good)
    assert dcsync("sync").status == 0
    assert dcsync("status", "--check").status == 0
    assert len(list(side.root.glob("acme/*/20*/*/*/*/_dcsync.json"))) == 2


def test_json_has_the_documented_keys(side: Served, dcsync: Dcsync) -> None:
    dcsync("sync")

    document = dcsync("status", "--json").json

    assert document.keys() == {
        *("accounts", "backfills", "quota", "token", "disk", "daemon", "hosts", "loads", "not_configured")
    }
    assert document["accounts"][0].keys() >= {
        "name",
        "last_poll",
        "last_success",
        "newest_snapshot",
        "jobs",
        "alerts",
        "attention",
    }
    assert document["quota"].keys() == {"limit", "used_last_minute"}
    assert document["token"].keys() == {"method", "expires_at", "refresh_by"}
    assert document["disk"].keys() == {"free_bytes", "alert"}
    assert document["daemon"].keys() == {"running", "pid", "next_poll"}


def test_each_data_request_is_shown_with_its_state(side: Served, dcsync: Dcsync) -> None:
    now = datetime.now(UTC)
    request = side.sandbox.world.add_request("Nightly", created_at=now - timedelta(days=30))
    side.sandbox.world.requests[request].ends_at = now - timedelta(minutes=1)
    completed = now - timedelta(minutes=30)
    side.sandbox.world.add_job(request, completed_at=completed, files=tables(1), with_archive=False)
    dcsync("sync")

    text, document = dcsync("status", "--check"), dcsync("status", "--json").json

    assert text.status == 3
    assert f"request       Nightly: ended, newest {completed:%Y-%m-%d %H:%MZ}, schedule ended" in text.out
    assert "[L-ENDED] the schedule of Nightly ended on" in text.out
    assert f"\n  do            run dcsync requests extend {request}. dcsync notices" in text.out
    (entry,) = document["accounts"][0]["requests"]
    assert (entry["id"], entry["state"], entry["slots_missed"]) == (request, "ended", 0)
    assert entry["newest_snapshot"].startswith("acme/nightly-")


def test_missing_extracts_are_counted_in_words() -> None:
    moment = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
    slots = [
        MissedSlot(queued_at=moment + timedelta(days=day), due_at=moment, cause=Cause.NOT_STARTED, phase=None)
        for day in range(2)
    ]
    found = RequestFreshness(
        request=RequestId("r"), description="", state=FreshnessState.LATE, missed=tuple(slots), next_expected_at=moment
    )

    since = "missing since 2026-11-22 02:00Z, no snapshot yet, next expected 2026-11-22 02:00Z"
    assert freshness_text(found) == f"r: late, 2 extracts {since}"
    assert freshness_text(replace(found, missed=tuple(slots[:1]))) == f"r: late, 1 extract {since}"


def test_an_old_name_in_the_configuration_is_a_warning_once_and_not_in_the_answer(side: Served, dcsync: Dcsync) -> None:
    side.config.write_text(side.config.read_text().replace("[mirror]\n", '[mirror]\nstrategy = "archive"\n'))

    result = dcsync("status", "--json")

    assert result.status == 0
    assert result.json.keys() >= {"accounts"}
    assert result.err.count("warning: ") == 1
    assert 'mirror.strategy: "archive" is now called "zip".' in result.err


def test_a_root_that_is_gone_does_not_stop_it(side: Served, dcsync: Dcsync) -> None:
    side.root.rmdir()

    result = dcsync("status")

    assert result.status == 0
    assert "unknown (is it mounted?)" in result.out


def test_check_is_fine_after_a_run_that_left_nothing_to_do(side: Served, dcsync: Dcsync) -> None:
    dcsync("sync")

    result = dcsync("status", "--check")

    assert result.status == 0
    assert "STALE" not in result.out


def test_check_fails_for_an_account_that_was_never_mirrored(side: Served, dcsync: Dcsync) -> None:
    result = dcsync("status", "--check")

    assert result.status == 3
    assert "never  STALE" in result.out
    # Without --check, status only shows the state.
    assert dcsync("status").status == 0


def test_check_fails_for_an_account_that_is_stale_and_json_says_so(side: Served, dcsync: Dcsync) -> None:
    dcsync("sync")
    with closing(sqlite3.connect(side.state / "manifest.sqlite")) as manifest, manifest:
        manifest.execute("UPDATE account SET last_success_at = last_success_at - 3 * 3600 * 1000000 - 1000000")

    result = dcsync("status", "--check", "--json")

    assert result.status == 3
    assert result.json["accounts"][0]["stale"] is True
    # poll.stale_after decides.
    side.write_config("[poll]", 'stale_after = "4h"')
    assert dcsync("status", "--check").status == 0


def test_check_exits_with_12_when_a_sign_in_is_required(
    side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    dcsync("sync")
    monkeypatch.setenv(TOKEN, "wrong")
    dcsync("sync")

    assert dcsync("status", "--check").status == 12


def test_check_exits_with_14_when_the_disk_is_missing(side: Served, dcsync: Dcsync) -> None:
    dcsync("sync")
    side.root.rename(side.folder / "elsewhere")

    assert dcsync("status", "--check").status == 14


@pytest.mark.needs_root
@pytest.mark.parametrize(("option", "said"), [("--check", "1 published"), ("--json", '"published": 1')])
def test_status_imports_no_unneeded_module(side: Served, dcsync: Dcsync, option: str, said: str) -> None:
    """The imports take most of the time, and monitoring runs the command often."""
    request = side.sandbox.world.add_request("Nightly")
    side.sandbox.world.add_job(request, completed_at=datetime.now(UTC), files=tables(1), with_archive=False)
    dcsync("sync")
    code = (
        "import sys; from dcsync.cli.group import run; status = run(sys.argv[1:]); "
        "print(*sorted(sys.modules)); sys.exit(status)"
    )

    done = subprocess.run([sys.executable, "-c", code, "status", option], capture_output=True, text=True, check=True)

    assert said in done.stdout
    modules = set(done.stdout.splitlines()[-1].split())
    assert "dcsync.app.status" in modules
    unneeded = {"aiohttp", "alembic", "apscheduler", "procrastinate", "psycopg", "psycopg_pool", "rich", "structlog"}
    assert modules & {*unneeded, "sqlalchemy.dialects.postgresql"} == set()


def test_an_account_that_is_not_in_the_configuration_is_shown_with_what_to_do(side: Served, dcsync: Dcsync) -> None:
    world = side.sandbox.world
    request = world.add_request("My Company Data Extract")
    world.add_job(request, completed_at=datetime.now(UTC) - timedelta(hours=2), files=tables(2))
    assert dcsync("sync").status == 0
    text = side.config.read_text()
    text = text.replace('name = "acme"', 'name = "other"').replace(world.hub_id, "11111111-1111-4111-8111-111111111111")
    side.config.write_text(text)

    shown = dcsync("status")
    (left,) = dcsync("status", "--json").json["not_configured"]

    assert "acme: not in the configuration" in shown.out
    assert "  snapshots     1, newest acme/" in shown.out
    assert left["name"] == "acme"
    assert left.keys() == {"name", "snapshots", "newest_snapshot", "newest_completed_at", "hint"}
    assert left["hint"] in shown.out
    verified = dcsync("verify")
    assert verified.out.startswith("1 snapshot checked")
    assert "acme is not in the configuration: its snapshots were checked" in verified.out
    assert dcsync("verify", "--json").json["not_configured"] == ["acme"]
