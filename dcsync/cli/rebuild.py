"""`dcsync rebuild`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from dcsync.cli.group import exit_statuses
from dcsync.errors import ExitStatus

if TYPE_CHECKING:
    from pydantic import JsonValue

    from dcsync.config import Config
    from dcsync.daemon.open_order import OpenOrder
    from dcsync.ops.integrity.rebuild import RebuildReport
    from dcsync.orders import Answer


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
    sync. While the daemon is running, the daemon rebuilds, and mirrors nothing until then.
    """
    from dcsync.cli.orders import Shown, carry_out, print_answer
    from dcsync.cli.startup import load_config

    config = load_config(ctx, is_order=True)

    async def alone() -> Answer:
        return _answer(await _rebuild(config), as_json=as_json)

    options = RebuildOptions(as_json=as_json)
    return print_answer(carry_out(config, "rebuild", asdict(options), alone=alone, shown=Shown.READING))


@dataclass(frozen=True, kw_only=True)
class RebuildOptions:
    """The options of an order to rebuild."""

    as_json: bool


async def order_work(order: OpenOrder, options: Mapping[str, JsonValue]) -> Answer:
    """Rebuild in the daemon."""
    from dcsync.cli.orders import read_options

    chosen = read_options(RebuildOptions, options)
    return _answer(await order.rebuild(), as_json=chosen.as_json)


def _answer(report: RebuildReport, *, as_json: bool) -> Answer:
    from dcsync.cli.output import json_text
    from dcsync.orders import Answer

    answer = Answer(status=ExitStatus.DONE if report.is_whole else ExitStatus.INCOMPLETE)
    if as_json:
        answer.echo(json_text(report.json()))
    else:
        _print(answer, report)
    return answer


async def _rebuild(config: Config) -> RebuildReport:
    from dcsync.app.rebuild import rebuild_manifest
    from dcsync.cli.progress import reading
    from dcsync.clock import SystemClock
    from dcsync.cluster import stores_for

    async with reading(SystemClock()) as observer:
        return await rebuild_manifest(config, stores_for(config, os.environ), observer=observer)


def _print(out: Answer, report: RebuildReport) -> None:
    from dcsync.cli.output import size_text
    from dcsync.core.names import printable

    for rebuilt in report.snapshots:
        for damage in rebuilt.damaged:
            out.echo(f"{rebuilt.account}: damaged {printable(f'{rebuilt.folder}/{damage}', 400)}")
    for folder, reason in report.refused:
        out.echo(f"not adopted: {printable(folder, 300)}: {printable(reason, 300)}")
    adopted = sum(rebuilt.source.value == "names" for rebuilt in report.snapshots)
    by_name = f" ({adopted} of them by name and hashes only)" if adopted else ""
    pruned = f", {report.pruned} that were pruned" if report.pruned else ""
    out.echo(f"{len(report.snapshots)} snapshots{by_name}{pruned}; {size_text(report.read_bytes)} read")
    if report.set_aside is not None:
        out.echo(f"Previous manifest saved as: {report.set_aside}")
