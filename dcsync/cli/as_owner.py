"""A command of root, run again as the owner of the state folder.

Root could do everything, but its files in the state folder would stop the service later. The credentials of the unit
(`credential:NAME`) exist only where systemd provides them. So `sudo dcsync login` runs as the service does.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from dcsync.config import find
from dcsync.errors import NotStateOwner
from dcsync.systemd import become, find_unit, lacks_bus, run_as_service


def run_as_owner(error: NotStateOwner, arguments: Sequence[str]) -> int:
    """Run the command as the service does, or as the owner alone if no unit runs as that user.

    Returns the exit status. Raises `ConfigError` if that is impossible.
    """
    arguments, config = _with_whole_path(arguments)
    try:
        user = pwd.getpwuid(error.uid).pw_name
    except KeyError:
        user = f"#{error.uid}"
    unit = find_unit(user, config)
    if unit is None and lacks_bus():
        click.echo(
            f"dcsync: running as the user {user} without the credentials of the service, because D-Bus is not running\n"
            "  do:   install the package dbus, and run the command again",
            err=True,
        )
    elif sys.stderr.isatty():
        how = f"as {unit.name} does, as the user {user}" if unit else f"as the user {user}, who owns the state folder"
        click.echo(f"dcsync: running {how}", err=True)
    if unit is not None:
        return run_as_service(unit, arguments, os.environ)
    become(error.uid, [sys.executable, "-m", "dcsync", *arguments])
    raise error


def _with_whole_path(arguments: Sequence[str]) -> tuple[list[str], Path]:
    """Return the arguments with the absolute path of the configuration, and that path.

    The command starts in another folder, and the user may have a configuration of its own.
    """
    given, rest = None, []
    words = iter(arguments)
    for word in words:
        if word == "--config":
            given = next(words, "")
        elif word.startswith("--config="):
            given = word.partition("=")[2]
        else:
            rest.append(word)
    place = find(None if given is None else Path(given), environ=os.environ).absolute()
    return ["--config", str(place), *rest], place
