"""The order of the steps, and how the guide ends."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from dcsync.cli.guide.account_step import account_names, choose_account
from dcsync.cli.guide.app_step import Start
from dcsync.cli.guide.asking import LaterError, agree, heading, say, show, show_failure
from dcsync.cli.guide.commands import Commands, StoppedError
from dcsync.cli.guide.kind_step import Kind
from dcsync.cli.guide.request_step import choose_request
from dcsync.cli.guide.sign_in_step import Guided, sign_in
from dcsync.cli.guide.sync_step import first_sync, has_snapshot
from dcsync.cli.guide.write_step import pass_credentials, write_configuration
from dcsync.cli.new_config import is_found, service_group
from dcsync.errors import ConfigError, DcsyncError, ExitStatus


def lead(start: Start, accounts: Sequence[tuple[str, str]]) -> int:
    """Do every step that is missing, and return the exit status."""
    again = f"{_dcsync(start.place)} init"
    try:
        _all_steps(start, accounts)
    except LaterError:
        say(f"To continue later: {again}")
        return int(ExitStatus.DONE)
    except (click.Abort, KeyboardInterrupt):
        say()
        say(f"dcsync: stopped. To continue: {again}")
        return int(ExitStatus.INTERRUPTED)
    except StoppedError as stopped:
        if start.place.exists():
            say(_done(start.place))
        say(f"To continue: {again}")
        return stopped.status
    except DcsyncError as error:
        show_failure(error, safe=_done(start.place) if start.place.exists() else None)
        say(f"To continue: {again}")
        return int(error.exit_status)
    _show_next(start.place)
    return int(ExitStatus.DONE)


def _done(place: Path) -> str:
    """Say what the steps before an error did. The error itself knows only that its own step did nothing."""
    return f"The configuration {place} is written, and the steps before this one are done."


def _all_steps(start: Start, accounts: Sequence[tuple[str, str]]) -> None:
    from dcsync.config import load

    place = start.place
    is_new = not place.exists()
    say(
        f"dcsync init leads you to the first snapshot. It {'writes' if is_new else 'continues with'} {place}. Enter "
        "accepts the value in brackets. Ctrl-C or the answer later stops here: dcsync init then continues."
    )
    if is_new:
        _offer_service(place)
    kind: Kind | None = write_configuration(start, accounts) if is_new else None
    config = load(place, environ=os.environ, accounts_needed=False)
    pass_credentials(place, config)
    guided = Guided(commands=Commands(place), config=config, kind=kind)
    seen = sign_in(guided)
    names = account_names(guided)
    if names:
        heading(f"3. Account: {', '.join(names)}")
    else:
        choose_account(guided, seen)
    if has_snapshot(guided):
        say("The mirror has snapshots.")
        return
    choose_request(guided)
    try:
        first_sync(guided)
    except LaterError:
        # The daemon mirrors as well, so the next steps need no snapshot.
        _show_next(place)
        raise


def _offer_service(place: Path) -> None:
    """Install the service before root writes its configuration, so that the service can read it."""
    from dcsync.config import SYSTEM
    from dcsync.systemd import Machine

    if os.geteuid() != 0 or place != SYSTEM or service_group(place) is not None or not Machine().is_running:
        return
    say("The service of dcsync is not installed on this machine. It has a user of its own, who owns the mirror.")
    if agree("Install the service first?"):
        status = Commands(place).run("service", "install")
        if status:
            raise StoppedError(status)


def _show_next(place: Path) -> None:
    heading("Next:")
    for command, why in _next(place):
        show(command)
        say(why, indent="      ")


def _next(place: Path) -> Iterator[tuple[str, str]]:
    from dcsync.config import SYSTEM, load

    dcsync = _dcsync(place)
    yield f"{dcsync} status", "is everything here?"
    if service_group(place) is not None:
        root = load(place, environ=os.environ).mirror.root
        unit = "dcsync" if place == SYSTEM else f"dcsync@{place.stem}"
        if not root.is_relative_to("/srv/dcsync"):
            yield "dcsync explain systemd", f"let the service write to {root}, which is not below /srv/dcsync"
        yield f"systemctl enable --now {unit}", "start the daemon, now and at each start of the system"
    else:
        yield f"{dcsync} run", "mirror new extracts as they appear, until you stop it"
        yield "sudo dcsync service install", "or run it as a service of this machine, with a configuration of its own"
    yield f"{dcsync} notify --test", "after you have added [notify] urls: alerts by e-mail, Teams and others"
    yield f"{dcsync} doctor", "check the whole setup at any time"


def _dcsync(place: Path) -> str:
    is_usual = is_found(place) if place.exists() else _is_new_place(place)
    return "dcsync" if is_usual else f"dcsync --config {shlex.quote(str(place))}"


def _is_new_place(place: Path) -> bool:
    """Return whether init writes there without --config."""
    from dcsync.config import new_place

    try:
        return place == new_place(None, environ=os.environ, is_root=os.geteuid() == 0)
    except ConfigError:
        return False
