"""The form of the output: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from dcsync.cli.without_rich import let_rich_in
from dcsync.core.formatting import age_text, size_text
from dcsync.core.model import Json
from dcsync.core.names import printable

__all__ = ["age_text", "duration_text", "json_text", "print_json", "print_table", "size_text", "time_text"]


def print_json(value: Json) -> None:
    """Print one JSON document."""
    click.echo(json_text(value))


def json_text(value: Json) -> str:
    """Return one JSON document."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, wide: Sequence[int] = ()) -> None:
    """Print a table: aligned on a terminal, tab-separated in a pipe so that `cut` and `awk` can read it.

    `wide` holds the indexes of the columns that are never shortened.
    """
    import sys

    cells = [[printable(cell, 200) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in [list(headers), *cells]:
            click.echo("\t".join(row))
        return
    let_rich_in()
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, header in enumerate(headers):
        table.add_column(header, no_wrap=index in wide, overflow="fold" if index in wide else "ellipsis")
    for row in cells:
        # Text, not markup: a description may contain square brackets.
        table.add_row(*[Text(cell) for cell in row])
    Console().print(table)


def time_text(moment: datetime | None) -> str:
    """Return a time in UTC, to the minute."""
    return "-" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%MZ")


def duration_text(seconds: float) -> str:
    """Return a duration as text: seconds below two minutes, minutes above."""
    if seconds < 1:
        return "under a second"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
