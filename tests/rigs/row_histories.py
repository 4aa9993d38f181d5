"""Tables that change from day to day, their histories, and what the histories say about each day."""

from __future__ import annotations

import base64
import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

from hypothesis import strategies as st

from dcsync.core.model import JobId
from dcsync.core.row_history import Extract, Step, TableHistory, merged_columns
from dcsync.core.sql import identifier
from dcsync.core.table import TableKind, count
from dcsync.ops.history.statements import valid_at
from dcsync.ops.history.steps import Files, parquet, read_metadata, take_step
from dcsync.rows import Engine, open_table

BEGIN = datetime(2026, 11, 1, 4, 30, tzinfo=UTC)
TABLE = "admin_users.csv"

Row: TypeAlias = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Day:
    """A table on one day. None is an empty field."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def body(self) -> bytes:
        """The CSV file."""
        lines = [",".join(self.columns), *(",".join(map(_field, row)) for row in self.rows)]
        return "".join(f"{line}\r\n" for line in lines).encode()

    @property
    def sorted(self) -> list[Row]:
        """The rows in an order that does not depend on the file."""
        return sorted(self.rows, key=repr)


def _field(value: str | None) -> str:
    return "" if value is None else '"' + value.replace('"', '""') + '"'


_VALUES = st.sampled_from([None, "", "0", "a", "A", "é", 'say "x"', "1\r\n2", "NULL", " "])
_COLUMNS = ("id", "name", "status", "city")


@st.composite
def histories(draw: st.DrawFn) -> list[Day]:
    """Days of a table: rows come, go, change and repeat, and columns come, go and move."""
    days = []
    columns = tuple(draw(st.permutations(_COLUMNS[: draw(st.integers(1, 3))])))
    rows: list[dict[str, str | None]] = []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.integers(0, 3)) == 0:
            columns = tuple(draw(st.permutations(_COLUMNS)))[: draw(st.integers(1, 4))]
        rows = [row for row in rows if draw(st.integers(0, 4))]
        for row in rows:
            if not draw(st.integers(0, 4)):
                row[draw(st.sampled_from(columns))] = draw(_VALUES)
        rows += [dict.fromkeys(columns, draw(_VALUES)) for _ in range(draw(st.integers(0, 2)))]
        rows += [dict(row) for row in rows if not draw(st.integers(0, 4))]
        order = draw(st.permutations(rows)) if len(rows) < 6 else rows
        # A table with one column cannot tell an empty line from no line at its end.
        days.append(Day(columns, tuple(tuple(row.get(name) for name in columns) for row in order)))
    return days


def incompressible() -> bytes:
    """Return a table of 2.4 MB that takes 1.8 MB however it is compressed."""
    chance = random.Random(18)
    return b"id\n" + b"".join(base64.b64encode(chance.randbytes(600)) + b"\n" for _ in range(3000))


@dataclass(slots=True)
class Track:
    """The history of one table in a folder of its own, without a mirror."""

    folder: Path
    engine: Engine
    kind: TableKind = TableKind.FULL
    history: TableHistory = field(init=False)
    file: int | None = None

    def __post_init__(self) -> None:
        self.history = TableHistory(kind=self.kind)

    def add(self, body: bytes, counted: int | None = None) -> Step:
        """Take the step to the next day, of which dcsync counted other rows with `counted`."""
        (self.folder / TABLE).write_bytes(body)
        number = len(self.history.steps)
        facts = count([body])
        extract = Extract(
            job=JobId(f"job-{number}"),
            time=BEGIN + timedelta(days=number),
            folder="day",
            name=TABLE,
            size=len(body),
            sha256=hashlib.sha256(body).hexdigest(),
            rows=counted if facts is None or counted is not None else facts.rows,
            kind=self.kind,
        )
        after = os.open(self.folder / f"{number}.parquet", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        with _folder(self.folder) as folder, open_table(TABLE, below=folder) as table:
            taken = take_step(self.engine, self.history, extract, table, Files(before=self.file, after=after))
        if taken.is_written:
            self.close()
            self.file = after
        else:
            os.close(after)
        self.history = taken.history
        return taken.history.steps[-1]

    def at(self, step: Step) -> list[Row]:
        """Return the rows that the file has at the time of a step, sorted."""
        _, columns = merged_columns(self.history.columns, step.columns)
        names = ", ".join(map(identifier, columns))
        return self.sorted(f"SELECT {names} FROM {self.parquet} WHERE {valid_at(self.kind, step.time)}")

    def sorted(self, sql: str) -> list[Row]:
        """Return the rows of a query, sorted."""
        found = [tuple(None if value is None else str(value) for value in row) for row in self.engine.all(sql)]
        return sorted(found, key=repr)

    @property
    def parquet(self) -> str:
        """The file, as an SQL expression."""
        assert self.file is not None
        return parquet(self.file)

    @property
    def metadata(self) -> TableHistory:
        """What the file says about its steps."""
        assert self.file is not None
        return read_metadata(self.engine, self.file)

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            os.close(self.file)
            self.file = None


def check_history(folder: Path, engine: Engine, days: Sequence[Day]) -> None:
    """Build a history, and compare every day with its CSV file."""
    track = Track(folder, engine)
    try:
        steps = [track.add(day.body) for day in days]
        for day, step in zip(days, steps, strict=True):
            assert track.at(step) == day.sorted
            assert step.rows == len(day.rows)
    finally:
        track.close()


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
