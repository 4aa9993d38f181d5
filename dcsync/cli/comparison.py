"""The parts of the output that every comparison of two snapshots has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dcsync.core.model import Json
    from dcsync.core.table import ColumnChange
    from dcsync.ops.diff import Candidate, Comparison


def print_sides(comparison: Comparison) -> None:
    """Print the two snapshots."""
    from dcsync.cli.output import size_text

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


def _reduced_sides(comparison: Comparison) -> str:
    sides = (("A", comparison.before), ("B", comparison.after))
    return " and ".join(mark for mark, side in sides if side.is_reduced)


def sides_json(comparison: Comparison) -> dict[str, Json]:
    """Return the keys of the two snapshots."""
    diff = comparison.diff
    return {
        "a": _side_json(comparison.before, comparison.files_before, diff.rows_before, diff.size_before),
        "b": _side_json(comparison.after, comparison.files_after, diff.rows_after, diff.size_after),
        "not_compared": list(comparison.not_compared),
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


def columns_text(change: ColumnChange | None) -> str:
    """Return how the columns of a table differ, as text."""
    if change is None:
        return ""
    words = [f"+{column}" for column in change.added] + [f"-{column}" for column in change.removed]
    return " ".join([*words, *(["reordered"] if change.reordered else [])])


def columns_json(change: ColumnChange | None) -> Json:
    """Return how the columns of a table differ."""
    if change is None:
        return None
    return {"added": list(change.added), "removed": list(change.removed), "reordered": change.reordered}
