"""`dcsync rebuild`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dcsync.cli.group import EXIT_STATUSES
from dcsync.errors import ExitStatus

if TYPE_CHECKING:
    from dcsync.config import Config
    from dcsync.ops.integrity.rebuild import RebuildReport


@click.command("rebuild", epilog=EXIT_STATUSES)
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
@click.pass_context
def rebuild_command(ctx: click.Context, as_json: bool) -> int:
    """Make the manifest anew from the tree alone; the present one is set aside, not deleted.

    Every file is read. A snapshot's row comes from its _dcsync.json, else from its folder's name and the hashes of its
    files. Nothing is asked of the network: jobs that are not mirrored come back with the next sync. A lost or damaged
    manifest needs no rebuild by hand: every command that writes does it. The exit status is 3 when a snapshot is
    damaged or could not be taken in.
    """
    from dcsync.cli.output import print_json
    from dcsync.cli.startup import load_config, run_async

    report = run_async(_rebuild(load_config(ctx)))
    if as_json:
        print_json(report.json())
    else:
        _print(report)
    return int(ExitStatus.DONE if report.is_whole else ExitStatus.INCOMPLETE)


async def _rebuild(config: Config) -> RebuildReport:
    from dcsync.app.rebuild import rebuild_manifest
    from dcsync.cli.progress import reading
    from dcsync.clock import SystemClock

    async with reading(SystemClock()) as observer:
        return await rebuild_manifest(config, observer=observer)


def _print(report: RebuildReport) -> None:
    from dcsync.cli.output import size_text
    from dcsync.core.names import printable

    for rebuilt in report.snapshots:
        for damage in rebuilt.damaged:
            click.echo(f"{rebuilt.account}: damaged {printable(f'{rebuilt.folder}/{damage}', 400)}")
    for folder, reason in report.refused:
        click.echo(f"not taken in: {printable(folder, 300)}: {printable(reason, 300)}")
    adopted = sum(rebuilt.source.value == "names" for rebuilt in report.snapshots)
    by_name = f" ({adopted} of them by name and hashes only)" if adopted else ""
    pruned = f", {report.pruned} that were pruned" if report.pruned else ""
    click.echo(f"{len(report.snapshots)} snapshots{by_name}{pruned}; {size_text(report.read_bytes)} read")
    if report.set_aside is not None:
        click.echo(f"the manifest before it is kept: {report.set_aside}")
