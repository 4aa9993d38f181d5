"""The checks of hooks, notifications, the heartbeat, the metrics file and the HTTP pages."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcsync.errors import SecretUnavailable
from dcsync.ops.doctor.checks import Level
from dcsync.ops.doctor.machine import Secret
from dcsync.ops.doctor.outlets import heartbeat, hooks, http_pages, metrics_file, notifications, row_history
from tests.rigs.examined import examine, levels
from tests.rigs.mirror import Mirror

#: The e-mail plugin of apprise imports it on Python versions that still have it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

CANARY = "hunter2canary"


def secret(value: str | None) -> Secret:
    def resolve() -> str:
        if value is None:
            message = "the environment variable X is not set"
            raise SecretUnavailable(message, hint="set it")
        return value

    return Secret(key="notify.urls, address 1", where="env:X", resolve=resolve)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


async def test_doctor_makes_the_checks_and_they_are_warnings(mirror: Mirror, taken: int) -> None:
    mirror.config |= {
        "hook": [{"on": ["alert"], "run": ["/nonexistent/hook"]}],
        "notify": {"urls": [f"nosuchservice://{CANARY}", f"json://127.0.0.1:1/{CANARY}", "env:MISSING"]},
        "heartbeat": {"url": "env:MISSING"},
        "metrics": {"textfile": "/nonexistent/dcsync.prom"},
        "http": {"listen": f"127.0.0.1:{taken}"},
    }

    checks = await examine(mirror)

    assert {
        name: levels(checks).get(name) for name in ("hooks", "notify", "heartbeat", "metrics", "http")
    } == dict.fromkeys(("hooks", "notify", "heartbeat", "metrics", "http"), "warn")
    assert checks["hooks"].message == "/nonexistent/hook does not exist"
    assert "address 1 (nosuchservice) is not an address that apprise knows" in checks["notify"].message
    assert "address 3: the environment variable MISSING is not set" in checks["notify"].message
    assert "MISSING is not set" in checks["heartbeat"].message
    assert checks["metrics"].message == "/nonexistent does not exist"
    assert f"cannot listen on 127.0.0.1:{taken}: address already in use" in checks["http"].message
    assert "ss -ltnp" in checks["http"].advice
    assert CANARY not in str(list(checks.values()))


async def test_nothing_configured_is_ok(mirror: Mirror) -> None:
    checks = await examine(mirror)

    for name in ("hooks", "notify", "heartbeat", "metrics", "http"):
        assert checks[name].level is Level.OK
        assert "configured" in checks[name].message


def test_hooks_are_searched_as_the_daemon_searches_them(tmp_path: Path) -> None:
    program = tmp_path / "load"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)

    assert hooks([["load", "x"], [str(program)]], str(tmp_path)).level is Level.OK
    lost = hooks([["load"]], "/nonexistent")
    assert (lost.level, lost.message) == (Level.WARN, "load is not on PATH (/nonexistent)")
    program.chmod(0o644)
    forbidden = hooks([[str(program)]], "")
    assert forbidden.message == f"{program} cannot be run (as uid {os.geteuid()})"
    assert forbidden.advice == f"chmod +x {program}"


def test_valid_addresses_name_only_their_services() -> None:
    check = notifications([secret(f"json://127.0.0.1:1/{CANARY}")])

    assert check.level is Level.OK
    assert check.message.startswith("json: valid")
    assert CANARY not in check.message


def test_a_missing_apprise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "apprise", None)

    check = notifications([secret("json://127.0.0.1/")])

    assert check.level is Level.WARN
    assert "apprise, which is not installed" in check.message


@pytest.mark.parametrize("address", ["ping.example.com/1", "ftp://ping.example.com", "http://[bad", "https://"])
def test_a_heartbeat_needs_an_address_of_the_web(address: str) -> None:
    check = heartbeat(secret(address))

    assert check.level is Level.WARN
    assert "ping" not in check.message


def test_a_heartbeat_s_address_is_not_shown() -> None:
    check = heartbeat(secret(f"https://hc.example.com/{CANARY}"))

    assert check.level is Level.OK
    assert CANARY not in check.message
    assert "hc.example.com" not in check.message


def test_the_metrics_folder_must_exist_and_be_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "dcsync.prom"

    assert metrics_file(place).level is Level.OK
    assert not place.exists()
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert f"cannot be written (as uid {os.geteuid()})" in metrics_file(place).message


def test_the_address_of_the_pages(taken: int) -> None:
    assert http_pages(("127.0.0.1", free_port()), is_daemon_running=False).level is Level.OK
    assert http_pages(("127.0.0.1", taken), is_daemon_running=False).level is Level.WARN
    assert "by the running daemon" in http_pages(("127.0.0.1", taken), is_daemon_running=True).message
    silent = http_pages(("127.0.0.1", free_port()), is_daemon_running=True)
    assert (silent.level, "does not listen" in silent.message) == (Level.WARN, True)
    elsewhere = http_pages(("192.0.2.1", 9321), is_daemon_running=False)
    assert "ip address shows them" in elsewhere.advice


def test_row_histories_need_duckdb(monkeypatch: pytest.MonkeyPatch) -> None:
    assert row_history([]).level == "ok"
    assert row_history(["admin_*"]).message == "DuckDB is installed; tables: admin_*"
    monkeypatch.setitem(sys.modules, "duckdb", None)  # as if it were not installed
    check = row_history(["*"])
    assert (check.level, "[history]" in (check.advice or "")) == ("warn", True)
