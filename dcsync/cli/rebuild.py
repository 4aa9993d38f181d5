"""`dcsync rebuild`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from dcsync.cli.group import exit_statuses
from dcsync.errors import ExitStatus

if TYPE_CHECKING:
    from dcsync.config import Config
    from dcsync.ops.integrity.rebuild import RebuildReport


@click.command(
    "rebuild",
    epilog=exit_statuses(
        3, 11, 14, incomplete="a snapshot is damaged or could not be adopted, or the rebuild is incomplete"
    ),
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def rebuild_command(ctx: click.Context, as_json: bool) -> int:
    """Rebuild the manifest from the mirror. The old manifest is renamed, not deleted.

    You rarely need this command: every command that writes rebuilds a lost or damaged manifest automatically.

    rebuild reads and hashes every file. Each snapshot is restored from its _dcsync.json, or from its folder name and
    hashes if that file is missing. rebuild makes no API calls. Jobs that are not mirrored yet return with the next
    sync.
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
    from dcsync.cluster import stores_for

    async with reading(SystemClock()) as observer:
        return await rebuild_manifest(config, stores_for(config, os.environ), observer=observer)


def _print(report: RebuildReport) -> None:
    from dcsync.cli.output import size_text
    from dcsync.core.names import printable

    for rebuilt in report.snapshots:
        for damage in rebuilt.damaged:
            click.echo(f"{rebuilt.account}: damaged {printable(f'{rebuilt.folder}/{damage}', 400)}")
    for folder, reason in report.refused:
        click.echo(f"not adopted: {printable(folder, 300)}: {printable(reason, 300)}")
    adopted = sum(rebuilt.source.value == "names" for rebuilt in report.snapshots)
    by_name = f" ({adopted} of them by name and hashes only)" if adopted else ""
    pruned = f", {report.pruned} that were pruned" if report.pruned else ""
    click.echo(f"{len(report.snapshots)} snapshots{by_name}{pruned}; {size_text(report.read_bytes)} read")
    if report.set_aside is not None:
        click.echo(f"Previous manifest saved as: {report.set_aside}")
