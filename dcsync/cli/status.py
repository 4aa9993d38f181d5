"""`dcsync status`."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING

import click

from dcsync.cli.group import exit_statuses, show_bug
from dcsync.errors import DcsyncError, ExitStatus

if TYPE_CHECKING:
    from dcsync.core.backfill import Backfill
    from dcsync.core.freshness import RequestFreshness
    from dcsync.ops.status import AccountStatus, Status


@click.command(
    "status",
    epilog=exit_statuses(3, 12, 13, 14, incomplete="incomplete, or with --check: an account is stale or has an alert"),
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys.")
@click.option(
    "--check",
    is_flag=True,
    help="For monitoring: exit with a status other than 0 if an account is stale or has an alert that counts.",
)
@click.option(
    "--nagios", is_flag=True, help="For Nagios, Icinga and Checkmk: print one line, and exit with 0, 1, 2 or 3."
)
@click.pass_context
def status_command(ctx: click.Context, as_json: bool, check: bool, nagios: bool) -> int:
    """Show the state of the mirror. Reads only the manifest, so it needs neither the network nor a daemon.

    With --check the exit status is 3 if an account is stale (poll.stale_after) or has an alert. Some alerts set another
    status: 12 if you have to sign in, 13 if a permission is missing, 14 if the disk or the mirror needs attention.
    Alerts that only inform you leave it at 0. `dcsync explain CODE` shows the status of an alert.

    With --nagios the exit status is 0 (OK) exactly when --check gives 0. Otherwise it is 1 (WARNING), 2 (CRITICAL: an
    account is stale, or data is missing or damaged), or 3 (UNKNOWN: the status cannot be read).
    """
    if nagios:
        if as_json:
            message = "choose one of --json and --nagios"
            raise click.UsageError(message)
        return _nagios(ctx)
    from dcsync.app.status import read_status
    from dcsync.cli.ending import time_limit
    from dcsync.cli.output import print_json
    from dcsync.cli.startup import load_stores, run_async

    with time_limit(_LIMIT_S, ExitStatus.UNSAFE, _print_hung):
        status = run_async(read_status(*load_stores(ctx)))
    if as_json:
        print_json(status.json())
    else:
        _print(status)
    return int(status.check) if check else 0


def _nagios(ctx: click.Context) -> int:
    from dcsync.app.status import read_status
    from dcsync.cli.ending import time_limit
    from dcsync.cli.nagios import NagiosState, print_nagios, print_unknown
    from dcsync.cli.startup import load_stores, run_async

    try:
        with time_limit(_LIMIT_S, NagiosState.UNKNOWN, lambda: print_unknown(_HUNG)):
            return print_nagios(run_async(read_status(*load_stores(ctx))))
    except DcsyncError as error:
        return print_unknown(f"{error.message} [{error.code}]")
    except Exception as error:  # noqa: BLE001 - 1, the exit status of a bug, would be a warning
        show_bug(error)
        return print_unknown("a bug in dcsync; run dcsync status to see it")


#: Longer than a locked manifest may take.
_LIMIT_S = 60.0


_HUNG = f"no status after {_LIMIT_S:.0f} s: the disk of state.dir does not answer"


def _print_hung() -> None:
    click.secho(f"dcsync: {_HUNG}", fg="red", err=True)


def _print(status: Status) -> None:
    from dcsync.cli.output import age_text, size_text, time_text

    now = datetime.now(UTC)
    for account in status.accounts:
        _print_account(account, now)
        for backfill in status.backfills:
            if backfill.account == account.name:
                click.echo(f"  backfill      {backfill_text(backfill)}")
    for left in status.not_configured:
        when = f" ({time_text(left.newest_completed_at)})" if left.newest_completed_at else ""
        click.secho(f"{left.name}: not in the configuration", bold=True)
        click.echo(f"  snapshots     {left.snapshots}, newest {left.newest_snapshot}{when}")
        click.echo(f"  do            {left.hint}")
    free = "unknown (is it mounted?)" if status.free_bytes is None else size_text(status.free_bytes)
    click.echo(f"disk:  {free} free")
    if status.disk_alert is not None:
        click.secho(f"       [{status.disk_alert.code}] {status.disk_alert.message}", fg="red")
        click.echo(f"       do: {status.disk_alert.hint}")
    click.echo(f"quota: {status.quota_used} of {status.quota_limit} API calls used in the last minute")
    valid = "" if status.token_refresh_by is None else f", valid until {time_text(status.token_refresh_by)} if unused"
    click.echo(f"token: {status.token_method}{valid}")
    for name, load in status.loads.items():
        failed = f", {load.attempts} failed since (dcsync load status)" if load.attempts else ""
        done = f"{load.target or 'not loaded yet'}, last load {age_text(load.done_at, now)}{failed}"
        click.secho(f"load:  {name}: {done}", fg="yellow" if load.attempts else None)
    for host in status.hosts:
        words = f"{host.doing or 'waiting'}" if host.is_alive else f"last seen {age_text(host.seen_at, now)}"
        click.secho(f"host:  {host.name}, pid {host.pid}: {words}", fg=None if host.is_alive else "yellow")
    if status.holder is not None:
        what = "daemon" if status.holder.is_daemon else "sync"
        due = f", next poll {time_text(status.next_poll)}" if status.holder.is_daemon and status.next_poll else ""
        click.echo(f"now:   a {what} is running, pid {status.holder.pid}{due}")


def _print_account(account: AccountStatus, now: datetime) -> None:
    from dcsync.cli.output import age_text, time_text

    click.secho(account.name, bold=True)
    click.echo(f"  last poll     {age_text(account.last_poll, now)}")
    stale = click.style("  STALE", fg="red") if account.is_stale else ""
    click.echo(f"  last success  {age_text(account.last_success, now)}{stale}")
    newest = account.newest_snapshot or "none yet"
    when = f" ({time_text(account.newest_completed_at)})" if account.newest_completed_at else ""
    click.echo(f"  newest        {newest}{when}")
    for request in account.requests:
        click.secho(f"  request       {freshness_text(request)}", fg=_COLORS.get(request.state.value))
    counts = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in account.jobs.items() if count)
    click.echo(f"  jobs          {counts or 'none known'}")
    for hint, items in groupby(account.alerts, key=lambda item: item.alert.hint):
        for item in items:
            click.secho(f"  alert         [{item.alert.code}] {item.alert.message}", fg="yellow")
        click.echo(f"  do            {hint}")


#: The colors of states that need attention.
_COLORS = {"late": "red", "ended": "red", "inactive": "yellow", "gone": "red", "unknown": "yellow"}


def backfill_text(backfill: Backfill) -> str:
    """Return the progress of a backfill as one line."""
    from dcsync.core.backfill import PartState

    days, of = backfill.days, len(backfill.parts)
    words = [f"{backfill.count(PartState.MIRRORED)} of {of} parts mirrored"]
    labels = {PartState.REQUESTED: "requested", PartState.WAITING: "to request", PartState.FAILED: "failed"}
    words += [f"{count} {label}" for state, label in labels.items() if (count := backfill.count(state))]
    return f"activities of {days.first} to {days.last}: {', '.join(words)}"


def freshness_text(request: RequestFreshness) -> str:
    """Return the freshness of a data request as one line."""
    from dcsync.cli.output import time_text

    words = [request.state.value]
    if request.oldest_missed_at is not None:
        extracts = "1 extract" if request.slots_missed == 1 else f"{request.slots_missed} extracts"
        words.append(f"{extracts} missing since {time_text(request.oldest_missed_at)}")
    newest = request.newest_completed_at
    words.append("no snapshot yet" if request.newest_folder is None else f"newest {time_text(newest)}")
    if request.next_expected_at is not None:
        words.append(f"next expected {time_text(request.next_expected_at)}")
    if request.ends_at is not None:
        ends = "ended" if request.state.value == "ended" else "ends"
        words.append(f"schedule {ends} {time_text(request.ends_at)}")
    return f"{request.name}: {', '.join(words)}"
