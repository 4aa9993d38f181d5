"""Running a command as the service does: as its user, with its credentials and its environment. For root only.

The unit that systemd would start decides. Without such a unit, or without D-Bus, only the user changes.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from dcsync.errors import ConfigError

#: Exists while systemd manages this machine.
RUNNING: Final = Path("/run/systemd/system")
#: Exists while D-Bus runs.
BUS: Final = Path("/run/dbus/system_bus_socket")
_ETC: Final = Path("/etc/dcsync")
_BUS: Final = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
_PROPERTIES: Final = ("LoadCredential", "LoadCredentialEncrypted", "EnvironmentFiles", "Environment", "Group")
#: What systemd-run returns for a command that systemd could not start (systemd.exec(5), Process Exit Codes).
_SYSTEMD_STATUSES: Final = range(200, 244)
#: The variables of the caller that the command keeps. The unit sets the others.
_KEPT: Final = ("TERM", "COLUMNS", "LINES", "LANG", "LC_ALL", "NO_COLOR", "FORCE_COLOR", "DCSYNC_CONFIG")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceUnit:
    """A unit of dcsync: the program that it starts, and the properties that a command by hand needs as well."""

    name: str
    program: str
    properties: Mapping[str, Any]


def find_unit(user: str, config: Path) -> ServiceUnit | None:
    """Return the unit that runs dcsync as this user with this configuration, if systemd has one."""
    if not RUNNING.is_dir() or shutil.which("busctl") is None:
        return None
    if not BUS.exists():
        # Installing the package dbus does not start it before the next start of the system.
        start = ["systemctl", "start", "dbus.socket"]
        subprocess.run(start, check=False, capture_output=True, stdin=subprocess.DEVNULL)  # noqa: S603
        if lacks_bus():
            return None
    instances = [f"dcsync@{config.stem}.service"] if config.parent == _ETC and config.stem != "config" else []
    for name in (*instances, "dcsync.service", "dcsync-sync.service"):
        unit = _read_unit(name)
        if unit is not None and unit.properties["User"] == user:
            return unit
    return None


def lacks_bus() -> bool:
    """Return whether systemd is there and D-Bus is not, so that systemd cannot be asked to run a command."""
    return RUNNING.is_dir() and not BUS.exists()


def _read_unit(name: str) -> ServiceUnit | None:
    loaded = _bus("call", *_BUS, f"{_BUS[0]}.Manager", "LoadUnit", "s", name)
    if not loaded:
        return None
    (path,) = loaded[0]
    wanted = ("User", "ExecStart", *_PROPERTIES)
    values = _bus("get-property", _BUS[0], path, f"{_BUS[0]}.Service", *wanted)
    if len(values) != len(wanted):
        return None
    found = dict(zip(wanted, values, strict=True))
    if not found["ExecStart"]:
        # systemd loads a unit that does not exist as an empty one.
        return None
    return ServiceUnit(name=name, program=found["ExecStart"][0][0], properties=found)


def _bus(*arguments: str) -> list[Any]:
    """Return what systemd answers, one value for each property. Empty if it does not answer."""
    command = ["busctl", "--system", "--json=short", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)  # noqa: S603
    if done.returncode:
        return []
    return [json.loads(line)["data"] for line in done.stdout.splitlines()]


def command_as_service(
    unit: ServiceUnit, run_as: str, arguments: Sequence[str], environ: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs dcsync with these arguments as a transient unit, and its environment.

    The values of variables are in the environment only, because everyone can read a command line.
    """
    properties = unit.properties
    options = [f"--uid={properties['User']}"]
    if properties["Group"]:
        options.append(f"--gid={properties['Group']}")
    options += [f"--property={option}" for option in _options(properties)]
    variables = dict(item.split("=", 1) for item in properties["Environment"])
    variables |= {name: environ[name] for name in _KEPT if name in environ}
    options += [f"--setenv={name}" for name in variables]
    # With both, systemd-run uses a terminal only if all three streams are one.
    form = ("--pty", "--pipe", "--wait", "--collect", "--quiet", "--service-type=exec")
    command = ["systemd-run", *form, f"--unit={run_as}", *options, "--", unit.program, *arguments]
    return command, {**environ, **variables}


def _options(properties: Mapping[str, Any]) -> Iterator[str]:
    for name in ("LoadCredential", "LoadCredentialEncrypted"):
        yield from (f"{name}={identifier}:{path}" for identifier, path in properties[name])
    for path, ignores_missing in properties["EnvironmentFiles"]:
        yield f"EnvironmentFile={'-' if ignores_missing else ''}{path}"


def run_as_service(unit: ServiceUnit, arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run dcsync as the service, and return its exit status. Signals that ask this process to end are passed on."""
    _refuse_missing(unit)
    run_as = f"dcsync-by-root-{os.getpid()}"
    command, environ = command_as_service(unit, run_as, arguments, environ)

    def pass_on(number: int, _: FrameType | None) -> None:
        stop = ["systemctl", "kill", f"--signal={number}", run_as]
        subprocess.run(stop, check=False, capture_output=True)  # noqa: S603

    # systemd-run would end at Ctrl-C and leave the command running. It keeps ignoring what is ignored at its start.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    others = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with subprocess.Popen(command, env=environ) as process:  # noqa: S603
            signal.signal(signal.SIGINT, pass_on)
            status = process.wait()
    finally:
        for number, handler in {signal.SIGINT: before, **others}.items():
            signal.signal(number, handler)
    if status in _SYSTEMD_STATUSES:
        message = f"systemd could not run the command as {unit.name} does (status {status}, systemd.exec(5))"
        raise ConfigError(message, hint=f"journalctl -u {run_as} shows the reason")
    return status if status >= 0 else 128 - status


def _refuse_missing(unit: ServiceUnit) -> None:
    """Raise `ConfigError` for a credential whose file is missing: systemd says so only in the journal."""
    for identifier, path in unit.properties["LoadCredential"]:
        if Path(path).is_absolute() and not Path(path).exists():
            message = f"{path} does not exist, and {unit.name} has LoadCredential={identifier}:{path}"
            hint = f"run install -m 0600 /dev/stdin {path}, paste the secret, press Enter, then Ctrl-D"
            raise ConfigError(message, hint=hint)


def become(uid: int, program: Sequence[str]) -> None:
    """Replace this process by a program that runs as another user. Raises `ConfigError` if that is impossible."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        name, gid, groups = f"#{uid}", uid, []
    else:
        name, gid = entry.pw_name, entry.pw_gid
        groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    try:
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
        os.execv(program[0], list(program))  # noqa: S606
    except OSError as error:
        message = f"cannot run dcsync as the user {name}: {error.strerror}"
        raise ConfigError(message, hint=f"run dcsync as that user: runuser -u {name} -- dcsync …") from None
