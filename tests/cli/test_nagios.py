"""`dcsync status --nagios`: one line, and the four statuses of the Monitoring Plugins guidelines."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from dcsync.cli.nagios import print_nagios
from dcsync.core.alerts import ALERT_KINDS, Alert, AlertCode
from dcsync.core.model import AccountName
from dcsync.core.standing import StandingAlert
from dcsync.errors import ExitStatus
from dcsync.ops.status import AccountStatus, Status
from tests.cli.conftest import Dcsync
from tests.rigs.mirror import tables
from tests.rigs.served import Served

NOW = datetime.now(UTC)
#: The state, the message, and the performance data.
LINE = re.compile(r"DCSYNC (OK|WARNING|CRITICAL|UNKNOWN) - ([^|\n]+)(?: \| ((?:'?[\w.-]+'?=\d+[sB]? ?)+))?\n")


def status(*codes: AlertCode, is_stale: bool = False, free_bytes: int | None = 5, disk: Alert | None = None) -> Status:
    alerts = [Alert.of(code, account="acme", message=f"{code} a|b\nc") for code in codes]
    account = AccountStatus(
        name=AccountName("acme"),
        last_poll=NOW,
        last_success=datetime.now(UTC) - timedelta(hours=1),
        newest_snapshot="acme/x",
        newest_completed_at=datetime.now(UTC) - timedelta(hours=3),
        jobs={},
        alerts=tuple(StandingAlert(alert=alert, since=NOW, notified_at=None) for alert in alerts),
        is_stale=is_stale,
    )
    return Status(
        accounts=(account,),
        quota_limit=60,
        quota_used=0,
        token_method="login",
        token_expires_at=None,
        token_refresh_by=None,
        free_bytes=free_bytes,
        holder=None,
        disk_alert=disk,
    )


def shown(of: Status, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str, str]:
    number = print_nagios(of)
    line = LINE.fullmatch(capsys.readouterr().out)
    assert line is not None
    return number, line[1], line[2], line[3]


def test_a_mirror_in_order_is_ok(capsys: pytest.CaptureFixture[str]) -> None:
    number, state, message, data = shown(status(), capsys)

    assert (number, state, message) == (0, "OK", "acme newest 3 h ago")
    assert re.fullmatch(r"alerts=0 'acme_newest_age'=108\d\ds 'acme_success_age'=36\d\ds free=5B", data)


def test_an_alert_that_only_informs_is_counted_and_ok(capsys: pytest.CaptureFixture[str]) -> None:
    number, state, _, data = shown(status(AlertCode.L_ENDS), capsys)

    assert (number, state) == (0, "OK")
    assert data.startswith("alerts=1 ")


def test_a_warning_is_a_warning_and_a_critical_alert_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(status(AlertCode.P_METRICS), capsys)[:3] == (1, "WARNING", "acme: P-METRICS a/b c [P-METRICS]")
    number, state, message, _ = shown(status(AlertCode.P_METRICS, AlertCode.V_DAMAGED), capsys)
    assert (number, state, message) == (2, "CRITICAL", "acme: V-DAMAGED a/b c [V-DAMAGED] (and 1 more)")


def test_a_stale_account_and_a_disk_that_is_away_are_critical(capsys: pytest.CaptureFixture[str]) -> None:
    disk = Alert.of(AlertCode.F_HUNG, account="", message="the disk does not answer")

    assert shown(status(is_stale=True), capsys)[:3] == (2, "CRITICAL", "acme is stale")
    assert shown(status(free_bytes=None), capsys)[:3] == (2, "CRITICAL", "the mirror's disk cannot be used")
    assert shown(status(disk=disk), capsys)[:3] == (2, "CRITICAL", "mirror: the disk does not answer [F-HUNG]")


@pytest.mark.parametrize("code", ALERT_KINDS)
def test_it_is_ok_exactly_when_check_is_0(capsys: pytest.CaptureFixture[str], code: AlertCode) -> None:
    of = status(code)

    assert (print_nagios(of) == 0) == (of.check == ExitStatus.DONE)
    capsys.readouterr()


def test_the_command_prints_one_line(side: Served, dcsync: Dcsync) -> None:
    request = side.sandbox.world.add_request("Nightly")
    side.sandbox.world.add_job(request, completed_at=datetime.now(UTC), files=tables(1), with_archive=False)
    dcsync("sync")

    result = dcsync("status", "--nagios")

    line = LINE.fullmatch(result.out)
    assert line is not None
    assert (result.status, line[1], result.err) == (0, "OK", "")


def test_what_cannot_be_read_is_unknown(side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dcsync("--config", "/nonexistent", "status", "--nagios").out.startswith("DCSYNC UNKNOWN - the configuration")
    side.config.write_text("[mirror]\nroot = 1\n[auth]\n")
    mistaken = dcsync("status", "--nagios")
    assert (mistaken.status, mistaken.out.count("\n")) == (3, 1)

    side.write_config()
    dcsync("sync")
    with closing(sqlite3.connect(side.state / "manifest.sqlite")) as database:
        database.execute("drop table job")
        database.commit()
    broken = dcsync("status", "--nagios")
    assert broken.status == 3
    assert broken.out.startswith("DCSYNC UNKNOWN - ")


def test_a_bug_is_unknown(side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("dcsync.cli.nagios.print_nagios", fail)

    result = dcsync("status", "--nagios")

    assert (result.status, result.out) == (3, "DCSYNC UNKNOWN - a bug in dcsync; run dcsync status to see it\n")
    assert "ZeroDivisionError" in result.err
    assert side.config.is_file()


def test_it_excludes_json(side: Served, dcsync: Dcsync) -> None:
    assert side.config.is_file()
    assert dcsync("status", "--nagios", "--json").status == 2
