"""`dcsync prune`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from dcsync.cli.completion import account_names
from dcsync.cli.group import exit_statuses

if TYPE_CHECKING:
    from pydantic import JsonValue

    from dcsync.config import Config
    from dcsync.core.retention import Verdict
    from dcsync.daemon.open_order import OpenOrder
    from dcsync.ops.integrity.prune import PruneReport
    from dcsync.ops.integrity.verdicts import RequestVerdicts
    from dcsync.orders import Answer


@click.command("prune", epilog=exit_statuses(3, 11, 14))
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="NAME",
    shell_complete=account_names,
    help="Only this account. Can be given multiple times.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed or kept, and why. Removes nothing.")
@click.option("--force", is_flag=True, help="Allow removing more than 40 % of a data request's snapshots.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def prune_command(ctx: click.Context, accounts: Sequence[str], dry_run: bool, force: bool, as_json: bool) -> int:
    """Remove the snapshots that the retention policy ([keep]) does not keep.

    daily = 7 keeps the newest snapshot of each of the last 7 days that have one. weekly, monthly and yearly work the
    same way, and last = N keeps the N newest. A snapshot stays if any rule keeps it. The newest snapshot and the one
    that `latest` points to always stay.

    Rows of window tables (activities) and delta tables (cdc) are never removed from the mirror. A snapshot with such
    tables is reduced to these, and only its full tables are removed. With [keep] proved_windows, window tables go that
    the row history is proved to have. A full table that no newer snapshot has stays, too. If more than one snapshot and
    more than 40 % of a data request's snapshots would be removed or reduced, prune changes nothing and exits with
    status 14. Use --force if you mean it. While the daemon is running, the daemon prunes.
    """
    from dcsync.app.from_config import keep_policy
    from dcsync.cli.orders import Shown, carry_out, print_answer
    from dcsync.cli.startup import load_config, run_async

    config = load_config(ctx, is_order=not dry_run)
    options = PruneOptions(accounts=list(accounts), force=force, as_json=as_json)

    async def alone() -> Answer:
        return _answer(await _prune(config, accounts, dry_run=dry_run, force=force), as_json=as_json)

    if keep_policy(config).keeps_everything:
        click.echo(
            "note: [keep] has no rule, so every snapshot stays. Set last, daily, weekly, monthly or yearly", err=True
        )
    if dry_run:
        return print_answer(run_async(alone()))
    return print_answer(carry_out(config, "prune", asdict(options), alone=alone, shown=Shown.NOTHING))


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """The options of an order to prune."""

    accounts: list[str]
    force: bool
    as_json: bool


async def order_work(order: OpenOrder, options: Mapping[str, JsonValue]) -> Answer:
    """Prune in the daemon."""
    from dcsync.cli.orders import read_options

    chosen = read_options(PruneOptions, options)
    return _answer(await order.prune(chosen.accounts, force=chosen.force), as_json=chosen.as_json)


def _answer(report: PruneReport, *, as_json: bool) -> Answer:
    from dcsync.cli.output import json_text
    from dcsync.orders import Answer

    answer = Answer(status=report.exit_status)
    if as_json:
        answer.echo(json_text(report.json()))
    else:
        _print(answer, report)
    return answer


async def _prune(config: Config, accounts: Sequence[str], *, dry_run: bool, force: bool) -> PruneReport:
    from dcsync.app.from_config import account_settings, keep_policy
    from dcsync.app.history import proving_windows
    from dcsync.app.mirror import open_mirror, open_mirror_unlocked
    from dcsync.app.renew import renewing
    from dcsync.cluster import stores_for
    from dcsync.ops.integrity.prune import prune
    from dcsync.ops.recovery import recover

    selected = account_settings(config, accounts)
    stores = stores_for(config, os.environ)
    if dry_run:
        async with open_mirror_unlocked(config, stores) as context:
            return await prune(
                context, selected, keep_policy(config), dry_run=True, force=force, windows=proving_windows(config)
            )
    async with renewing(open_mirror, config, stores, role="prune") as context:
        await recover(context, account_settings(config))
        return await prune(context, selected, keep_policy(config), force=force, windows=proving_windows(config))


def _print(out: Answer, report: PruneReport) -> None:
    from dcsync.cli.output import size_text
    from dcsync.core.names import printable

    for request in report.requests:
        for verdict in request.every:
            if report.dry_run or not verdict.keep:
                out.echo(f"{request.account}: {_line(report, request, verdict)}")
        if report.dry_run and request.is_too_much:
            name = printable(request.description)
            out.echo(
                f"{request.account}: more than 40 % of the snapshots of {name!r}: --force allows it",
                err=True,
            )
    reduced = report.reduced
    if report.dry_run:
        words = f"{report.removed} would be removed" + (f", {reduced} reduced" if reduced else "")
        out.echo(f"{words}, {report.kept} kept")
    else:
        words = f"{report.removed} removed" + (f", {reduced} reduced" if reduced else "")
        out.echo(f"{words} ({size_text(report.freed_bytes)} freed), {report.kept} kept")


def _line(report: PruneReport, request: RequestVerdicts, verdict: Verdict) -> str:
    """Return the line of a snapshot, without its account."""
    from dcsync.cli.output import size_text
    from dcsync.core.reduction import describe_tables
    from dcsync.core.retention import Action

    folder, is_dry = verdict.snapshot.folder, report.dry_run
    error = report.failed.get(verdict.snapshot.job)
    if error is not None:
        return f"kept {folder} whole: {error.message}\n  do:   {error.advice}"
    if verdict.action is Action.KEEP:
        return f"keep {folder} ({', '.join(verdict.reasons)})"
    if verdict.division is None:
        return f"{'would remove' if is_dry else 'removed'} {folder}"
    tables = describe_tables(verdict.division.tables, request.document)
    freed = size_text(report.freed.get(verdict.snapshot.job, 0))
    if is_dry:
        return f"would reduce {folder}: keep {tables}, free {freed}"
    return f"reduced {folder}: kept {tables}, freed {freed}"
