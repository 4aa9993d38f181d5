"""What installing and uninstalling the service do, as steps that can be shown before they are done.

All files are below /usr/local/lib, where systemd looks on every distribution. /etc has only the administrator's files,
which take precedence and are never changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

from dcsync.errors import ConfigError
from dcsync.systemd.machine import Machine, run

USER = "dcsync"
#: Drop-ins here apply to the daemon, to every instance and to the service of the timer.
SHARED_SETTINGS = Path("/etc/dcsync/service.d")
_PREFIX = Path("/usr/local/lib")
_UNITS = _PREFIX / "systemd/system"
_PACKAGED = Path("/usr/lib/systemd/system")
_SERVICES = ("dcsync.service", "dcsync@.service", "dcsync-sync.service")
_PLACES = {
    **{name: _UNITS / name for name in (*_SERVICES, "dcsync-sync.timer")},
    "dcsync.sysusers": _PREFIX / "sysusers.d/dcsync.conf",
    "dcsync.tmpfiles": _PREFIX / "tmpfiles.d/dcsync.conf",
}
_LINKS = tuple(_UNITS / f"{name}.d" for name in _SERVICES)
#: The program in the files as they are shipped.
_PLACEHOLDER = "/usr/local/bin/dcsync"
_USERADD = ("--system", "--user-group", "--no-create-home", "--home-dir", "/var/lib/dcsync")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something to do, in words, and how."""

    text: str
    do: Callable[[], None]


def shipped(name: str) -> str:
    """Return a file of the package."""
    return resources.files("dcsync.systemd").joinpath("files", name).read_text(encoding="utf-8")


def install_steps(machine: Machine, program: Path) -> list[Step]:
    """Return what to do so that systemd can start this program as the service. What is in place already is left out.

    The units of a package stay, and its installation script calls this for the user and the folders.
    """
    files = [] if _is_packaged(machine) else _files(machine, program)
    return [*files, *_user(machine), *_folders(machine), *_reload(machine)]


def _is_packaged(machine: Machine) -> bool:
    """Return whether a package has installed the units. Debian's /lib is a link to /usr/lib."""
    return bool(machine.text(_PACKAGED / "dcsync.service"))


def _files(machine: Machine, program: Path) -> Iterator[Step]:
    for name, path in _PLACES.items():
        text, present = shipped(name).replace(_PLACEHOLDER, _quoted(program)), machine.text(path)
        if text != present:
            yield Step(text=f"{'update' if present else 'create'} {path}", do=partial(machine.write, path, text))
    for link in _LINKS:
        place = machine.at(link)
        if not (place.is_symlink() and place.readlink() == SHARED_SETTINGS):
            yield Step(text=f"link {link} to {SHARED_SETTINGS}", do=partial(machine.link, link, SHARED_SETTINGS))


def _quoted(program: Path) -> str:
    """Return a path as ExecStart= takes it."""
    text = str(program).replace("%", "%%")
    return f'"{text}"' if " " in text else text


def _user(machine: Machine) -> Iterator[Step]:
    if machine.user(USER) is not None:
        return
    command = machine.command("systemd-sysusers", "dcsync.conf") or machine.command(
        "useradd", *_USERADD, "--shell", "/usr/sbin/nologin", USER
    )
    if command is None:
        message = f"neither systemd-sysusers nor useradd is installed, so dcsync cannot create the user {USER}"
        raise ConfigError(message, hint=f"create a system user {USER} with a group of the same name, and try again")
    yield Step(text=f"create the user {USER} with {command[0]}", do=partial(run, command))


def _folders(machine: Machine) -> Iterator[Step]:
    """Create the folders that tmpfiles.d would create at the next start of the system."""
    rows = (line.split() for line in shipped("dcsync.tmpfiles").splitlines() if not line.startswith("#"))
    for _, path, mode, owner, group, _ in rows:
        if not machine.at(Path(path)).is_dir():
            make = partial(machine.make_folder, Path(path), int(mode, 8), (owner, group))
            yield Step(text=f"create the folder {path} ({mode} {owner}:{group})", do=make)


def _reload(machine: Machine) -> Iterator[Step]:
    if machine.is_running:
        yield Step(text="systemctl daemon-reload", do=partial(run, ["systemctl", "daemon-reload"]))


def shadowing(machine: Machine) -> list[Path]:
    """Return the files that systemd reads instead of the installed ones: yours, or those of an earlier wheel."""
    places = [Path("/etc") / path.relative_to(_PREFIX) for path in _PLACES.values()]
    if _is_packaged(machine):
        places += _PLACES.values()
    return [path for path in places if machine.at(path).exists()]


def uninstall_steps(machine: Machine) -> list[Step]:
    """Return what to do to remove the units. The user, the folders and the administrator's files stay."""
    files = [path for path in (*_PLACES.values(), *_LINKS) if os.path.lexists(machine.at(path))]
    wanted = machine.at(Path("/etc/systemd/system")).glob("*.wants/dcsync@*.service")
    starting = [path.name for path in files if path.name in {"dcsync.service", "dcsync-sync.timer"}]
    units = [*sorted({path.name for path in wanted}), *starting]
    disable = machine.command("systemctl", "disable", *(["--now"] if machine.is_running else []), *units)
    steps = [Step(text=f"disable {' '.join(units)}", do=partial(run, disable))] if disable and starting else []
    if machine.is_running and starting:
        stop = ["systemctl", "stop", "dcsync@*.service", "dcsync-sync.service"]
        steps.append(Step(text="stop all other units of dcsync", do=partial(run, stop)))
    steps += [Step(text=f"remove {path}", do=partial(machine.at(path).unlink)) for path in files]
    return [*steps, *(_reload(machine) if files else [])]
