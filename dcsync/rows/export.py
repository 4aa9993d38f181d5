"""The rows of a query as CSV, JSON or Parquet. Blocks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum

from dcsync.core.csv_text import csv_line
from dcsync.core.sql import text
from dcsync.rows.engine import Engine
from dcsync.rows.table import descriptor_path

#: The values that are fetched at once.
_VALUES = 50_000


class Form(StrEnum):
    """How rows are written. All values are text."""

    CSV = "csv"
    #: One array, with an object for each row on a line of its own.
    JSON = "json"
    PARQUET = "parquet"


def write_csv(engine: Engine, query: str, columns: Sequence[str], write: Callable[[bytes], object]) -> None:
    """Write a header and the rows. Raises the errors of `Engine.run` and of `write`."""
    write(csv_line(columns).encode())
    for rows in text_rows(engine, query, len(columns)):
        write("".join(map(csv_line, rows)).encode())


def write_json(engine: Engine, query: str, columns: Sequence[str], write: Callable[[bytes], object]) -> None:
    """Write an array with an object for each row. Raises the errors of `Engine.run` and of `write`."""
    comma = "[\n"
    for rows in text_rows(engine, query, len(columns)):
        objects = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows)
        write((comma + ",\n".join(objects)).encode())
        comma = ",\n"
    write(b"[]\n" if comma == "[\n" else b"\n]\n")


def write_parquet(engine: Engine, query: str, descriptor: int) -> None:
    """Write an open, empty file. Raises the errors of `Engine.run`."""
    options = "FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false"
    engine.run(f"COPY ({query}) TO {text(descriptor_path(descriptor))} ({options})")


def text_rows(engine: Engine, query: str, columns: int) -> Iterator[list[list[str | None]]]:
    """Yield the rows of a query whose columns are text, some at once."""
    for rows in engine.stream(query, max(1, _VALUES // max(1, columns))):
        yield [[None if value is None else str(value) for value in row] for row in rows]
