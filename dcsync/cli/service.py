"""`dcsync service`: the systemd service of an installation that no package manages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from dcsync.cli.group import exit_statuses
from dcsync.errors import ConfigError, ServiceSetupFailed
from dcsync.systemd import (
    SHARED_SETTINGS,
    Machine,
    Step,
    install_steps,
    refuse_unusable,
    shadowing,
    this_program,
    uninstall_steps,
)

_KEPT = "the user dcsync, /etc/dcsync, /var/lib/dcsync (tokens and manifest) and /srv/dcsync (the mirror)"


@click.group("service", epilog=exit_statuses())
def service_command() -> None:
    """Install or uninstall the systemd service, if you installed dcsync from a wheel or a checkout.

    The packages for Debian and Fedora contain the units. There, install only creates the user and the folders.
    """


_dry_run = click.option("--dry-run", is_flag=True, help="Show the steps without doing them.")
_root = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("/"),
    metavar="FOLDER",
    help="Another system's root folder, for example of an image that you are building [/].",
)


@service_command.command("install", short_help="Install the units, user and folders.", epilog=exit_statuses())
@_dry_run
@_root
@click.option(
    "--program",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The dcsync that the units start [the one that you are running].",
)
def install_command(*, dry_run: bool, root: Path, program: Path | None) -> int:
    """Write the units, and create the user and the folders of the service.

    The units are written to /usr/local/lib/systemd/system. Your own files in /etc/systemd/system take precedence and
    stay as they are. Run the command again after an upgrade. It does not enable or start the service.
    """
    if program is None:
        program, needed = this_program()
        refuse_unusable([program, *needed])
    elif root == Path("/"):
        refuse_unusable([program.absolute()])
    machine = Machine(root=root.absolute())
    steps = install_steps(machine, program.absolute())
    _carry_out(steps, machine, dry_run=dry_run, again="install")
    for path in shadowing(machine):
        click.echo(
            f"note: systemd uses {path} instead of the installed file. Delete it, or keep only your changes, in "
            f"{SHARED_SETTINGS}/NAME.conf",
            err=True,
        )
    if not dry_run:
        click.echo("Next: write /etc/dcsync/config.toml (dcsync init), then run: systemctl enable --now dcsync")
    return 0


@service_command.command("uninstall", short_help="Stop and remove the units.", epilog=exit_statuses())
@_dry_run
@_root
def uninstall_command(*, dry_run: bool, root: Path) -> int:
    """Stop and remove the units. The configuration, the tokens, the mirror and the user stay."""
    machine = Machine(root=root.absolute())
    _carry_out(uninstall_steps(machine), machine, dry_run=dry_run, again="uninstall")
    click.echo(f"Not removed: {_KEPT}")
    return 0


def _carry_out(steps: list[Step], machine: Machine, *, dry_run: bool, again: str) -> None:
    if not dry_run and machine.root == Path("/") and os.geteuid() != 0:
        message = f"only root may {again} the service"
        raise ConfigError(message, hint=f"sudo {sys.argv[0]} service {again}, or add --dry-run to see the steps")
    if not steps:
        click.echo("Nothing to do")
    for step in steps:
        click.echo(f"would {step.text}" if dry_run else step.text)
        if dry_run:
            continue
        try:
            step.do()
        except OSError as error:
            message = f"{step.text}: {error.strerror}"
            raise ServiceSetupFailed(message) from None
