"""A command of root runs with what the unit gives its service. A stand-in for busctl answers as systemd does."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcsync.errors import ConfigError
from dcsync.systemd import ServiceUnit, as_service, become, find_unit, lacks_bus
from dcsync.systemd.as_service import command_as_service, run_as_service
from tests.rigs.ended import LIMIT_S, join

PROGRAM = [["/usr/bin/dcsync", ["/usr/bin/dcsync", "run"], False, 0, 0, 0, 0, 0, 0, 0]]
DEFAULTS = {
    "User": "dcsync",
    "ExecStart": PROGRAM,
    "LoadCredential": [],
    "LoadCredentialEncrypted": [],
    "EnvironmentFiles": [],
    "Environment": [],
    "Group": "",
}
_BUSCTL = """#!/usr/bin/env python3
import json, sys
units = json.loads({units!r})
words = sys.argv[1:]
assert words[:2] == ["--system", "--json=short"], words
if words[2] == "call":
    print(json.dumps({{"type": "o", "data": ["/unit/" + words[-1]]}}))
else:
    unit = units.get(words[4].removeprefix("/unit/"))
    if unit is None:
        unit = {{name: [] for name in {defaults!r}}} | {{"User": ""}}
    for name in words[6:]:
        print(json.dumps({{"type": "x", "data": unit[name]}}))
"""

Units = Callable[..., None]


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Units:
    """Let systemd have these units."""

    def have(**found: dict[str, Any]) -> None:
        program = tmp_path / "busctl"
        known = {name.replace("_at_", "@") + ".service": {**DEFAULTS, **unit} for name, unit in found.items()}
        program.write_text(_BUSCTL.format(units=json.dumps(known), defaults=sorted(DEFAULTS)))
        program.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(as_service, "RUNNING", tmp_path)
    monkeypatch.setattr(as_service, "BUS", tmp_path)
    return have


def test_the_unit_with_this_user_and_configuration_is_found(units: Units) -> None:
    units(dcsync={}, dcsync_at_other={"User": "else"})

    daemon = find_unit("dcsync", Path("/etc/dcsync/config.toml"))
    instance = find_unit("else", Path("/etc/dcsync/other.toml"))

    assert daemon is not None
    assert (daemon.name, daemon.program) == ("dcsync.service", "/usr/bin/dcsync")
    assert instance is not None
    assert instance.name == "dcsync@other.service"
    assert find_unit("dcsync", Path("/etc/dcsync/other.toml")) == daemon
    assert find_unit("nobody", Path("/etc/dcsync/config.toml")) is None


_SYSTEMCTL = """#!/bin/sh
[ "$*" = "start dbus.socket" ] && touch {bus}
"""


def test_d_bus_is_started_because_its_package_leaves_that_to_the_next_boot(
    units: Units, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units(dcsync={})
    bus, systemctl = tmp_path / "bus", tmp_path / "systemctl"
    systemctl.write_text(_SYSTEMCTL.format(bus=bus))
    systemctl.chmod(0o755)
    monkeypatch.setattr(as_service, "BUS", bus)

    assert find_unit("dcsync", Path("/etc/dcsync/config.toml")) is not None
    assert bus.exists()


def test_without_d_bus_there_is_no_unit_and_the_reason_is_known(
    units: Units, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units(dcsync={})
    (tmp_path / "systemctl").symlink_to("/bin/false")
    assert not lacks_bus()

    monkeypatch.setattr(as_service, "BUS", tmp_path / "absent")
    assert find_unit("dcsync", Path("/etc/dcsync/config.toml")) is None
    assert lacks_bus()

    # Without systemd, D-Bus would not help.
    monkeypatch.setattr(as_service, "RUNNING", tmp_path / "absent")
    assert not lacks_bus()


def test_without_units_or_without_systemd_there_is_none(units: Units, monkeypatch: pytest.MonkeyPatch) -> None:
    units()
    assert find_unit("dcsync", Path("/etc/dcsync/config.toml")) is None

    units(dcsync={})
    monkeypatch.setattr(as_service, "RUNNING", Path("/nonexistent"))
    assert find_unit("dcsync", Path("/etc/dcsync/config.toml")) is None


def test_the_command_gets_the_user_the_credentials_and_the_environment() -> None:
    properties = {
        **DEFAULTS,
        "Group": "files",
        "LoadCredential": [["secret", "/etc/dcsync/secret"], ["key", "/etc/dcsync/key"]],
        "LoadCredentialEncrypted": [["sealed", "/etc/dcsync/sealed"]],
        "EnvironmentFiles": [["/etc/default/dcsync", True], ["/etc/env", False]],
        "Environment": ["HTTPS_PROXY=http://user:hunter2@proxy:3128", "LANG=C"],
    }
    unit = ServiceUnit(name="dcsync.service", program="/usr/bin/dcsync", properties=properties)

    given = {"TERM": "xterm", "LANG": "de_DE.UTF-8", "HOME": "/root"}
    command, environ = command_as_service(unit, "by-root", ["login"], given)

    assert command[0] == "systemd-run"
    assert command[-3:] == ["--", "/usr/bin/dcsync", "login"]
    options = command[1:-3]
    assert {"--pty", "--pipe", "--wait", "--collect", "--quiet", "--unit=by-root"} <= set(options)
    assert [option for option in options if option.startswith(("--uid", "--gid", "--property", "--setenv"))] == [
        "--uid=dcsync",
        "--gid=files",
        "--property=LoadCredential=secret:/etc/dcsync/secret",
        "--property=LoadCredential=key:/etc/dcsync/key",
        "--property=LoadCredentialEncrypted=sealed:/etc/dcsync/sealed",
        "--property=EnvironmentFile=-/etc/default/dcsync",
        "--property=EnvironmentFile=/etc/env",
        "--setenv=HTTPS_PROXY",
        "--setenv=LANG",
        "--setenv=TERM",
    ]
    # Everyone can read a command line.
    assert "hunter2" not in " ".join(command)
    assert environ == {**given, "HTTPS_PROXY": "http://user:hunter2@proxy:3128"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_and_not_only_systemd_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """The stand-in for systemd-run ends when the stand-in for systemctl tells it, as it does when its unit ends."""
    started, ended = tmp_path / "started", tmp_path / "ended"
    (tmp_path / "systemd-run").write_text(
        f"#!/bin/sh\necho $$ > {started}\nuntil test -s {ended}; do sleep 0.05; done\nexit 7\n"
    )
    (tmp_path / "systemctl").write_text(f'#!/bin/sh\necho "$@" > {ended}\n')
    for name in ("systemd-run", "systemctl"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    unit = ServiceUnit(name="dcsync.service", program="/usr/bin/dcsync", properties=DEFAULTS)

    def interrupt() -> None:
        until = time.monotonic() + LIMIT_S
        while not started.exists() or not started.read_text():
            assert time.monotonic() < until
            threading.Event().wait(0.05)
        # Ctrl-C reaches both. The program would have ended without its command.
        os.kill(int(started.read_text()), signal.SIGINT)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt, daemon=True)
    handler = signal.getsignal(signal.SIGINT)
    thread.start()
    status = run_as_service(unit, ["sync"], os.environ)
    join(thread)

    # 130 would be the end of systemd-run itself.
    assert status == 7
    assert ended.read_text() == f"kill --signal={int(number)} dcsync-by-root-{os.getpid()}\n"
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_credential_whose_file_is_missing_is_named(tmp_path: Path) -> None:
    """Only the journal would have the reason of systemd."""
    missing = tmp_path / "client-secret"
    properties = {**DEFAULTS, "LoadCredential": [["encrypted", "relative"], ["client-secret", str(missing)]]}
    unit = ServiceUnit(name="dcsync.service", program="/usr/bin/dcsync", properties=properties)

    with pytest.raises(ConfigError, match=f"{missing} does not exist") as raised:
        run_as_service(unit, ["sync"], os.environ)

    assert raised.value.advice.startswith(f"run install -m 0600 /dev/stdin {missing}, paste the secret")


def test_what_systemd_cannot_start_does_not_end_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "systemd-run").write_text("#!/bin/sh\nexit 226\n")
    (tmp_path / "systemd-run").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    unit = ServiceUnit(name="dcsync.service", program="/usr/bin/dcsync", properties=DEFAULTS)

    with pytest.raises(ConfigError, match=r"as dcsync\.service does \(status 226") as raised:
        run_as_service(unit, ["sync"], os.environ)

    assert raised.value.advice == f"journalctl -u dcsync-by-root-{os.getpid()} shows the reason"


def test_without_a_unit_only_the_user_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[object, ...]] = []
    for name in ("setgroups", "setgid", "setuid", "execv"):
        monkeypatch.setattr(os, name, lambda *values, name=name: done.append((name, *values)))

    become(65534, ["/usr/bin/dcsync", "sync"])
    become(54321, ["/usr/bin/dcsync", "sync"])

    assert [step[0] for step in done] == ["setgroups", "setgid", "setuid", "execv"] * 2
    assert done[2] == ("setuid", 65534)
    # A user of a container that has no name here.
    assert done[4:7] == [("setgroups", []), ("setgid", 54321), ("setuid", 54321)]
    assert done[7] == ("execv", "/usr/bin/dcsync", ["/usr/bin/dcsync", "sync"])


def test_a_program_that_the_user_cannot_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    for name in ("setgroups", "setgid", "setuid"):
        monkeypatch.setattr(os, name, lambda *_: None)
    monkeypatch.setattr(os, "execv", refuse)

    with pytest.raises(ConfigError, match="cannot run dcsync as the user nobody: Permission denied") as raised:
        become(65534, ["/root/dcsync", "sync"])
    assert "runuser -u nobody" in raised.value.advice
