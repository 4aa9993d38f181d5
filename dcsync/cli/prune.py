"""`dcsync prune`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from dcsync.cli.group import EXIT_STATUSES

if TYPE_CHECKING:
    from dcsync.config import Config
    from dcsync.ops.integrity.prune import PruneReport


@click.command("prune", epilog=EXIT_STATUSES)
@click.option("--account", "accounts", multiple=True, metavar="NAME", help="Only this account; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Show what would go and what stays, and why; remove nothing.")
@click.option("--force", is_flag=True, help="Remove also when that is more than 40 % of a request's snapshots.")
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
@click.pass_context
def prune_command(ctx: click.Context, accounts: Sequence[str], dry_run: bool, force: bool, as_json: bool) -> int:
    """Remove the snapshots that [keep] does not keep.

    Each rule keeps the newest snapshot of so many days, weeks, months or years that have one; what any rule keeps
    stays, and so do the newest, what `latest` shows, and every snapshot of a delta request, since no other repeats its
    rows. When more than 40 % of a request's snapshots would go (and more than one), nothing is removed and the exit
    status is 14; --force says that it is meant.
    """
    from dcsync.cli.output import print_json
    from dcsync.cli.startup import load_config, run_async

    report = run_async(_prune(load_config(ctx), accounts, dry_run=dry_run, force=force))
    if as_json:
        print_json(report.json())
    else:
        _print(report)
    return 0


async def _prune(config: Config, accounts: Sequence[str], *, dry_run: bool, force: bool) -> PruneReport:
    from dcsync.app.from_config import account_settings, keep_policy
    from dcsync.app.mirror import look_at_mirror, open_mirror
    from dcsync.app.renew import renewing
    from dcsync.ops.integrity.prune import prune
    from dcsync.ops.recovery import recover

    selected = account_settings(config, accounts)
    if dry_run:
        async with look_at_mirror(config) as context:
            return await prune(context, selected, keep_policy(config), dry_run=True, force=force)
    async with renewing(partial(open_mirror, config, role="prune"), config, role="prune") as context:
        await recover(context, account_settings(config))
        return await prune(context, selected, keep_policy(config), force=force)


def _print(report: PruneReport) -> None:
    from dcsync.cli.output import size_text
    from dcsync.core.names import printable

    for request in report.requests:
        for verdict in request.verdicts:
            folder = verdict.snapshot.folder
            if not verdict.keep:
                click.echo(f"{request.account}: {'would remove' if report.dry_run else 'removed'} {folder}")
            elif report.dry_run:
                click.echo(f"{request.account}: keep {folder} ({', '.join(verdict.reasons)})")
        if report.dry_run and request.is_too_much:
            name = printable(request.description)
            click.echo(f"{request.account}: that is more than 40 % of {name!r}: it needs --force", err=True)
    if report.dry_run:
        click.echo(f"{report.removed} would go, {report.kept} stay")
    else:
        click.echo(f"{report.removed} removed ({size_text(report.freed_bytes)} freed), {report.kept} kept")
