"""`dcsync diff`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dcsync.cli.completion import account_names, request_ids
from dcsync.cli.group import exit_statuses

if TYPE_CHECKING:
    from dcsync.config import Config
    from dcsync.core.diff import FileDiff
    from dcsync.core.model import Json
    from dcsync.core.table import ColumnChange
    from dcsync.ops.diff import Candidate, Comparison


@click.command("diff", epilog=exit_statuses(3, 14))
@click.argument("before", metavar="[A]", default="previous")
@click.argument("after", metavar="[B]", default="latest")
@click.option("--account", metavar="NAME", shell_complete=account_names, help="Compare only snapshots of this account.")
@click.option(
    "--request", metavar="ID|SLUG|GLOB", shell_complete=request_ids, help="Compare only snapshots of this data request."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys.")
@click.pass_context
def diff_command(
    ctx: click.Context, before: str, after: str, account: str | None, request: str | None, as_json: bool
) -> int:
    """Compare the snapshots A and B: tables, columns, rows and bytes.

    A and B are each a job ID, the first characters of one, a date (the newest snapshot of that day), "latest" or
    "previous" (the snapshot before the latest). The default compares previous with latest. Of a snapshot that the
    retention policy reduced, only the remaining tables are compared. "latest" and "previous" are never such a snapshot.
    """
    from dcsync.cli.output import print_json
    from dcsync.cli.startup import load_config, run_async

    comparison = run_async(_compare(load_config(ctx), before, after, account=account, request=request))
    if as_json:
        print_json(_comparison_json(comparison))
    else:
        _print(comparison)
    return 0


async def _compare(config: Config, before: str, after: str, *, account: str | None, request: str | None) -> Comparison:
    from dcsync.app.from_config import account_settings
    from dcsync.app.mirror import read_mirror
    from dcsync.cluster import stores_for
    from dcsync.ops.diff import compare

    accounts = account_settings(config, [] if account is None else [account])
    async with read_mirror(config, stores_for(config, os.environ)) as context:
        return await compare(context, [settings.name for settings in accounts], before, after, request=request)


def _print(comparison: Comparison) -> None:
    from dcsync.cli.output import print_table, size_text

    diff = comparison.diff
    for mark, side, files, rows, size in (
        ("A", comparison.before, comparison.files_before, diff.rows_before, diff.size_before),
        ("B", comparison.after, comparison.files_after, diff.rows_after, diff.size_after),
    ):
        click.echo(f"{mark}: {side.folder}  {files} files, {rows:,} rows, {size_text(size)}")
    if comparison.not_compared:
        count = len(comparison.not_compared)
        lost = f"{count} file{'' if count == 1 else 's'} not compared"
        click.echo(f"{_reduced_sides(comparison)} lost its full tables to the retention policy: {lost}")
    differing = [*diff.tables, *diff.others]
    if not differing:
        click.echo("no differences")
        return
    click.echo(f"{len(diff.tables)} tables and {len(diff.others)} other files differ, {diff.unchanged} are unchanged\n")
    print_table(
        ("file", "change", "rows A", "rows B", "row change", "bytes A", "bytes B", "columns"),
        [_row(entry) for entry in differing],
        wide=(0,),
    )


def _reduced_sides(comparison: Comparison) -> str:
    sides = (("A", comparison.before), ("B", comparison.after))
    return " and ".join(mark for mark, side in sides if side.is_reduced)


def _row(entry: FileDiff) -> tuple[str, ...]:
    row_change = entry.rows_more
    return (
        entry.name,
        entry.fate.value,
        _count(entry.rows_before),
        _count(entry.rows_after),
        "-" if row_change is None else f"{row_change:+,}",
        _count(entry.size_before),
        _count(entry.size_after),
        _columns(entry.columns),
    )


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _columns(change: ColumnChange | None) -> str:
    if change is None:
        return ""
    words = [f"+{column}" for column in change.added] + [f"-{column}" for column in change.removed]
    return " ".join([*words, *(["reordered"] if change.reordered else [])])


def _comparison_json(comparison: Comparison) -> dict[str, Json]:
    diff = comparison.diff
    return {
        "a": _side_json(comparison.before, comparison.files_before, diff.rows_before, diff.size_before),
        "b": _side_json(comparison.after, comparison.files_after, diff.rows_after, diff.size_after),
        "not_compared": list(comparison.not_compared),
        "unchanged": diff.unchanged,
        "tables": _files_json(diff.tables),
        "other_files": _files_json(diff.others),
    }


def _side_json(side: Candidate, files: int, rows: int, size: int) -> dict[str, Json]:
    from dcsync.core.wire import time_json

    return {
        "account": side.account,
        "request": side.request,
        "job": side.job,
        "folder": side.folder,
        "completed_at": time_json(side.completed_at),
        "reduced": side.is_reduced,
        "files": files,
        "rows": rows,
        "bytes": size,
    }


def _files_json(files: Sequence[FileDiff]) -> list[Json]:
    return [
        {
            "name": entry.name,
            "change": entry.fate.value,
            "rows": {"a": entry.rows_before, "b": entry.rows_after},
            "bytes": {"a": entry.size_before, "b": entry.size_after},
            "columns": None
            if entry.columns is None
            else {
                "added": list(entry.columns.added),
                "removed": list(entry.columns.removed),
                "reordered": entry.columns.reordered,
            },
        }
        for entry in files
    ]
