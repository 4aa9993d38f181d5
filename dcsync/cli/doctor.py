"""`dcsync doctor`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dcsync.cli.group import EXIT_STATUSES, Globals
from dcsync.errors import ConfigError

if TYPE_CHECKING:
    from dcsync.ops.doctor.examine import Check

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "bright_black"}


@click.command("doctor", epilog=EXIT_STATUSES)
@click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys.")
@click.pass_context
def doctor_command(ctx: click.Context, as_json: bool) -> int:
    """Check the configuration, the disk, the sign-in and the API, and say how to fix each problem.

    Each check is ok, warn, fail, or skip (a check that it depends on failed). doctor removes its test files and does
    not disturb a running dcsync. It uses one API call for the hubs and two for each account. The exit status is 0 if
    nothing failed, otherwise that of the first failure.
    """
    from dcsync.app.doctor import diagnose
    from dcsync.app.state_dir import refuse_to_be_root
    from dcsync.cli.output import print_json
    from dcsync.cli.startup import run_async, set_up_log
    from dcsync.cluster import stores_for
    from dcsync.config import load
    from dcsync.ops.doctor.examine import exit_status, worst

    options = ctx.obj
    assert isinstance(options, Globals)  # noqa: S101 - the group sets it
    try:
        config = load(options.config, environ=os.environ, accounts_needed=False)
    except ConfigError:
        pass  # the first check reports it
    else:
        refuse_to_be_root(Path(config.state.dir))
    # The checks report everything that the log would.
    set_up_log(ctx, level="error", form="auto")
    report = (lambda _: None) if as_json else _print
    checks = run_async(diagnose(options.config, stores_for, environ=os.environ, report=report))
    if as_json:
        print_json({"checks": [check.json() for check in checks], "worst": worst(checks).value})
    return int(exit_status(checks))


def _print(check: Check) -> None:
    level = check.level.value
    first, *rest = check.message.split("\n")
    click.echo(f"{click.style(f'{level:<4}', fg=_COLOURS[level], bold=level == 'fail')}  {check.name}: {first}")
    for line in rest:
        click.echo(f"      {line}")
    if check.advice:
        click.echo(f"      do: {check.advice}")
