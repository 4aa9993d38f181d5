"""`dcsync diff --rows`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from dcsync.cli.comparison import columns_json, columns_text, print_sides, sides_json
from dcsync.core.names import printable
from dcsync.core.row_keys import KeySource
from dcsync.core.table import TableKind
from dcsync.core.table_names import stem
from dcsync.errors import DcsyncError, ExitStatus, RowsInterrupted, RowsUnreadable

if TYPE_CHECKING:
    from dcsync.config import Config
    from dcsync.core.diff import FileDiff
    from dcsync.core.model import Json
    from dcsync.mirror.root import MirrorRoot
    from dcsync.ops.diff import Comparison
    from dcsync.ops.row_diff import TableDiff
    from dcsync.rows import Engine, RowChange, TableChanges

#: The memory of DuckDB, which does not count all of it: dcsync needs about 1 GiB. What does not fit goes into a file in
#: the folder for temporary files.
MEMORY = 768 << 20
_SHOWN = 5
_MOST_COLUMNS = 8
_LEAST_WIDTH = 40
_PARTIAL = {
    TableKind.WINDOW: "each extract has only the rows of a period, so a row that only one has was not added or removed",
    TableKind.DELTA: "each extract has only rows that changed in a period: compare their newest versions instead",
}


async def compare_rows(
    config: Config,
    before: str,
    after: str,
    *,
    account: str | None,
    request: str | None,
    tables: Sequence[str],
    limit: int | None,
    as_json: bool,
) -> int:
    """Print the rows that differ between two snapshots, and return the exit status."""
    from dcsync.app.from_config import account_settings
    from dcsync.app.mirror import read_mirror
    from dcsync.cluster import stores_for
    from dcsync.ops.diff import compare
    from dcsync.ops.row_diff import differing_tables
    from dcsync.rows import in_thread, opened

    accounts = [settings.name for settings in account_settings(config, [] if account is None else [account])]
    async with read_mirror(config, stores_for(config, os.environ)) as context:
        comparison = await compare(context, accounts, before, after, request=request)
        differing = differing_tables(comparison, tables)
        with (
            TemporaryDirectory(prefix="dcsync-") as spill,
            opened(memory=MEMORY, spill=Path(spill)) as engine,
        ):
            show = _print_json if as_json else _print
            work = partial(show, context.root, engine, comparison, differing, limit)
            is_complete = await in_thread(context.disk, engine, work)
    return int(ExitStatus.DONE if is_complete else ExitStatus.INCOMPLETE)


def _print(
    root: MirrorRoot, engine: Engine, comparison: Comparison, tables: Sequence[FileDiff], limit: int | None
) -> bool:
    from dcsync.ops.row_diff import table_diffs

    print_sides(comparison)
    click.echo(
        "no differences" if not tables else "1 table differs" if len(tables) == 1 else f"{len(tables)} tables differ"
    )
    is_complete = True
    for table in table_diffs(root, engine, comparison, tables):
        is_complete = is_complete and table.error is None
        with _contained() as failed:
            for line in _table_lines(table, _SHOWN if limit is None else limit):
                click.echo(line)
        for error in failed:
            is_complete = False
            click.echo(f"  the other rows cannot be read: {error.message}")
    return is_complete


@contextmanager
def _contained() -> Iterator[list[DcsyncError]]:
    """Yield a list for the error that ends the rows of a table. Other tables follow."""
    failed: list[DcsyncError] = []
    try:
        yield failed
    except RowsInterrupted:
        raise
    except DcsyncError as error:
        failed.append(error)


def _table_lines(table: TableDiff, limit: int) -> Iterator[str]:
    width = max(_LEAST_WIDTH, shutil.get_terminal_size((80, 24)).columns)
    name = printable(stem(table.file.name))
    yield ""
    if table.changes is None:
        yield f"{name}: cannot be compared: {'' if table.error is None else table.error.message}"
        return
    changes = table.changes
    is_partial = table.kind is not None and not table.kind.has_all_rows
    words = ("only in B", "only in A") if is_partial else ("added", "removed")
    counts = f"{changes.added:,} {words[0]}, {changes.removed:,} {words[1]}, {changes.changed:,} changed"
    yield f"{name}: {counts} ({_key_text(changes)})"
    if table.kind in _PARTIAL:
        yield from _wrapped(f"{table.kind.value} table: {_PARTIAL[table.kind]}", width)
    if table.file.columns is not None:
        yield from _wrapped(f"columns: {printable(columns_text(table.file.columns), 400)}", width)
    if len(changes.columns) > 1:
        counted = sorted(changes.columns.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{printable(column, 40)} {count:,}" for column, count in counted[:_MOST_COLUMNS])
        more = f" and {len(counted) - _MOST_COLUMNS} more" if len(counted) > _MOST_COLUMNS else ""
        yield from _wrapped(f"changed: {shown}{more}", width)
    left = sum(max(0, count - limit) for count in (changes.added, changes.removed, changes.changed))
    if limit:
        for row in changes.rows(limit):
            yield from _row_lines(row, width)
    if left:
        yield f"  … {left:,} more row{'' if left == 1 else 's'}: --limit N shows more, --json all"


def _key_text(changes: TableChanges) -> str:
    if changes.key.source is KeySource.ROWS:
        return "whole rows: no column is unique"
    return f"key: {', '.join(printable(column, 40) for column in changes.key.columns)}"


def _wrapped(text: str, width: int) -> Iterator[str]:
    import textwrap

    yield from textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _row_lines(row: RowChange, width: int) -> Iterator[str]:
    if row.before is not None and row.after is not None:
        yield _cut(f"  ~ {_pairs(row.key)}", width)
        columns = list(row.after)
        for column in columns[:_MOST_COLUMNS]:
            head = f"      {printable(column, 40)}: "
            room = max(10, (width - len(head) - 3) // 2)
            before, after = (_cut(_plain(values[column]), room) for values in (row.before, row.after))
            yield _cut(f"{head}{before} → {after}", width)
        if len(columns) > _MOST_COLUMNS:
            yield f"      … {len(columns) - _MOST_COLUMNS} more columns"
        return
    values = row.after if row.before is None else row.before
    rest = {name: value for name, value in (values or {}).items() if name not in row.key and value}
    mark = "+" if row.before is None else "-"
    yield _cut(f"  {mark} {_pairs({**row.key, **rest})}", width)


def _pairs(values: Mapping[str, str | None]) -> str:
    return " ".join(f"{printable(name, 40)}={_value(value)}" for name, value in list(values.items())[:40])


def _value(value: str | None) -> str:
    shown = _plain(value)
    return f'"{shown}"' if value and " " in shown else shown


def _plain(value: str | None) -> str:
    return "(empty)" if value is None else printable(value, 200) or '""'


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _print_json(
    root: MirrorRoot, engine: Engine, comparison: Comparison, tables: Sequence[FileDiff], limit: int | None
) -> bool:
    """Print one JSON document piece by piece, each row on a line of its own."""
    from dcsync.ops.row_diff import table_diffs

    head = _text({**sides_json(comparison), "unchanged": comparison.diff.unchanged})
    click.echo(f'{head[:-1]}, "tables": [', nl=False)
    is_complete, comma = True, ""
    for table in table_diffs(root, engine, comparison, tables):
        is_complete = is_complete and table.error is None
        click.echo(f'{comma}\n{_text(_table_json(table))[:-1]}, "rows": [', nl=False)
        comma, row_comma = ",", ""
        with _contained() as failed:
            for row in () if table.changes is None or limit == 0 else table.changes.rows(limit):
                click.echo(f"{row_comma}\n{_text(_row_json(row))}", nl=False)
                row_comma = ","
        is_complete = is_complete and not failed
        click.echo(f'], "rows_error": {_text(failed[0].message if failed else None)}}}', nl=False)
    click.echo("]}")
    return is_complete


def _text(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)


def _table_json(table: TableDiff) -> dict[str, Json]:
    changes, error = table.changes, table.error
    unreadable = error if isinstance(error, RowsUnreadable) else None
    return {
        "name": table.file.name,
        "change": table.file.fate.value,
        "kind": None if table.kind is None else table.kind.value,
        "columns": columns_json(table.file.columns),
        "error": None
        if error is None
        else {
            "code": error.code,
            "message": error.message,
            "path": None if unreadable is None else unreadable.path,
            "line": None if unreadable is None else unreadable.line,
        },
        "key": None if changes is None else list(changes.key.columns),
        "key_source": None if changes is None else changes.key.source.value,
        "added": None if changes is None else changes.added,
        "removed": None if changes is None else changes.removed,
        "changed": None if changes is None else changes.changed,
        "unchanged": None if changes is None else changes.unchanged,
        "changed_columns": None if changes is None else dict(changes.columns),
    }


def _row_json(row: RowChange) -> dict[str, Json]:
    return {
        "change": row.fate.value,
        "key": dict(row.key),
        "before": None if row.before is None else dict(row.before),
        "after": None if row.after is None else dict(row.after),
    }
