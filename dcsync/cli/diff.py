"""`dcsync diff`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dcsync.cli.comparison import columns_json, columns_text, print_sides, sides_json
from dcsync.cli.completion import account_names, request_ids, table_names
from dcsync.cli.group import exit_statuses

if TYPE_CHECKING:
    from dcsync.config import Config
    from dcsync.core.diff import FileDiff
    from dcsync.core.model import Json
    from dcsync.ops.diff import Comparison


@click.command("diff", epilog=exit_statuses(3, 14))
@click.argument("before", metavar="[A]", default="previous")
@click.argument("after", metavar="[B]", default="latest")
@click.option("--account", metavar="NAME", shell_complete=account_names, help="Compare only snapshots of this account.")
@click.option(
    "--request", metavar="ID|SLUG|GLOB", shell_complete=request_ids, help="Compare only snapshots of this data request."
)
@click.option("--rows", is_flag=True, help="Show which rows were added, removed and changed.")
@click.option(
    "--table",
    "tables",
    metavar="NAME|GLOB",
    multiple=True,
    shell_complete=table_names,
    help="With --rows, compare only these tables. Can be given multiple times.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    metavar="N",
    help="With --rows, show at most N rows of each kind of a table. [default: 5; with --json all]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys.")
@click.pass_context
def diff_command(  # noqa: PLR0913 - click passes options by name
    ctx: click.Context,
    before: str,
    after: str,
    account: str | None,
    request: str | None,
    rows: bool,
    tables: tuple[str, ...],
    limit: int | None,
    as_json: bool,
) -> int:
    """Compare the snapshots A and B: tables, columns, rows and bytes.

    A and B are each a job ID, the first characters of one, a date (the newest snapshot of that day), "latest" or
    "previous" (the snapshot before the latest). The default compares previous with latest. Of a snapshot that the
    retention policy reduced, only the remaining tables are compared. "latest" and "previous" are never such a snapshot.

    With --rows, rows are paired by the key that the schema documents name, or else by columns that are unique and never
    empty in both tables. Without such columns, whole rows are compared. Exit status 3: a table cannot be compared.
    """
    from dcsync.cli.output import print_json
    from dcsync.cli.startup import load_config, run_async

    if rows:
        from dcsync.cli.row_diff import compare_rows

        return run_async(
            compare_rows(
                load_config(ctx),
                before,
                after,
                account=account,
                request=request,
                tables=tables,
                limit=limit,
                as_json=as_json,
            )
        )
    if tables or limit is not None:
        raise click.UsageError("--table and --limit need --rows.", ctx)
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
    from dcsync.cli.output import print_table

    diff = comparison.diff
    print_sides(comparison)
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
        columns_text(entry.columns),
    )


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _comparison_json(comparison: Comparison) -> dict[str, Json]:
    diff = comparison.diff
    return {
        **sides_json(comparison),
        "unchanged": diff.unchanged,
        "tables": _files_json(diff.tables),
        "other_files": _files_json(diff.others),
    }


def _files_json(files: Sequence[FileDiff]) -> list[Json]:
    return [
        {
            "name": entry.name,
            "change": entry.fate.value,
            "rows": {"a": entry.rows_before, "b": entry.rows_after},
            "bytes": {"a": entry.size_before, "b": entry.size_after},
            "columns": columns_json(entry.columns),
        }
        for entry in files
    ]
