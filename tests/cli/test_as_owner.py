"""A command of root in another user's state folder is run as that user."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from dcsync.cli import as_owner
from dcsync.orders import SOCKET_NAME
from dcsync.systemd import ServiceUnit
from tests.cli.conftest import Dcsync
from tests.rigs.beside import daemon_beside
from tests.rigs.served import Served

pytestmark = pytest.mark.needs_root
UNIT = ServiceUnit(name="dcsync.service", program="/usr/bin/dcsync", properties={})


@pytest.fixture
def ran(side: Served, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The state folder belongs to nobody, and a unit runs as nobody. Record what would be run as the service."""
    side.state.mkdir()
    os.chown(side.state, 65534, 65534)
    commands: list[list[str]] = []

    def run(unit: ServiceUnit, arguments: list[str], _: object) -> int:
        assert unit is UNIT
        commands.append(arguments)
        return 12

    def find_unit(user: str, config: Path) -> ServiceUnit | None:
        return UNIT if (user, config) == ("nobody", side.config) else None

    monkeypatch.setattr(as_owner, "find_unit", find_unit)
    monkeypatch.setattr(as_owner, "run_as_service", run)
    return commands


@pytest.mark.parametrize(
    "command",
    ["accounts", "login", "logout", "doctor", "sync", "verify", "prune", "rebuild", "jobs", "notify --test"],
)
def test_it_runs_as_the_service_and_its_exit_status_is_returned(
    side: Served, dcsync: Dcsync, ran: list[list[str]], command: str
) -> None:
    result = dcsync(*command.split())

    assert result.status == 12
    assert ran == [["--config", str(side.config), *command.split()]]
    assert list(side.state.iterdir()) == []


@pytest.mark.parametrize("form", ["before", "after", "equals"])
def test_a_relative_path_of_the_configuration_stays_right(
    side: Served, dcsync: Dcsync, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """The service starts in another folder."""
    monkeypatch.chdir(side.folder)
    monkeypatch.delenv("DCSYNC_CONFIG")
    name = side.config.name
    arguments = {
        "before": ["--config", name, "sync"],
        "after": ["sync", "--config", name],
        "equals": [f"--config={name}", "sync"],
    }[form]

    assert dcsync(*arguments).status == 12
    assert ran == [["--config", str(side.config), "sync"]]


HOOK = ["[[hook]]", 'on = ["snapshot"]', 'run = ["/bin/true"]']
#: The commands that the daemon carries out.
ORDERS = ["sync", "prune", "verify --repair", "hooks rerun no-such-job", "rebuild"]


def test_an_order_to_the_daemon_needs_neither_its_user_nor_its_credentials(
    side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor D-Bus, nor systemd-run: root may use the socket."""
    monkeypatch.setattr(as_owner, "run_as_owner", lambda *_: pytest.fail("it runs as the owner"))
    side.write_config(*HOOK)
    with daemon_beside(side):
        os.chown(side.state, 65534, 65534)
        results = {command: dcsync(*command.split()) for command in ["poll", *ORDERS]}
        os.chown(side.state, 0, 0)

    assert {command: result.status for command, result in results.items()} == {
        **dict.fromkeys(["poll", *ORDERS], 0),
        "hooks rerun no-such-job": 2,
        "rebuild": 3,  # the daemon of this test is root, and may not open the folder again
    }


@pytest.mark.parametrize("command", ORDERS)
def test_beside_a_stale_socket_it_runs_as_the_service(
    side: Served, dcsync: Dcsync, ran: list[list[str]], command: str
) -> None:
    """The daemon was killed."""
    side.write_config(*HOOK)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(side.state / SOCKET_NAME))

    assert dcsync(*command.split()).status == 12
    assert ran == [["--config", str(side.config), *command.split()]]


def test_without_a_daemon_poll_says_so_at_once(side: Served, dcsync: Dcsync, ran: list[list[str]]) -> None:
    result = dcsync("poll")

    assert (result.status, ran) == (3, [])
    assert "no daemon is working in" in result.err


def test_commands_that_only_read_stay_with_root(side: Served, dcsync: Dcsync, ran: list[list[str]]) -> None:
    assert dcsync("status").status == 0
    assert dcsync("config", "check").status == 0
    # Otherwise `-o FILE` would name a file in another folder, which another user may not write.
    assert "the first run creates the manifest" in dcsync("at", "latest", "admin_users").err
    assert ran == []
    assert side.state.stat().st_uid == 65534


def test_the_daemon_is_not_started_as_someone_else(side: Served, dcsync: Dcsync, ran: list[list[str]]) -> None:
    result = dcsync("run")

    assert result.status == 2
    assert "systemctl start dcsync" in result.err
    assert ran == []
    assert side.config.is_file()


def test_without_a_unit_only_the_user_changes(
    side: Served, dcsync: Dcsync, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[object] = []
    monkeypatch.setattr(as_owner, "find_unit", lambda *_: None)
    monkeypatch.setattr(as_owner, "become", lambda *values: became.append(values))
    monkeypatch.setattr(as_owner, "lacks_bus", lambda: False)

    result = dcsync("sync")

    # The stand-in returns, which an exec does not.
    assert result.status == 2
    assert "belongs to the user nobody" in result.err
    assert "D-Bus" not in result.err
    assert became == [(65534, [sys.executable, "-m", "dcsync", "--config", str(side.config), "sync"])]
    assert ran == []
    assert list(side.state.iterdir()) == []


def test_without_d_bus_it_says_what_is_missing(
    side: Served, dcsync: Dcsync, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(as_owner, "find_unit", lambda *_: None)
    monkeypatch.setattr(as_owner, "become", lambda *_: None)
    monkeypatch.setattr(as_owner, "lacks_bus", lambda: True)

    result = dcsync("sync")

    assert "without the credentials of the service, because D-Bus is not running" in result.err
    assert "install the package dbus" in result.err
    assert ran == []
