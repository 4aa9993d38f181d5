"""What a table's rows are in the target: columns with types, and the queries that read them from a snapshot's file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime

from dcsync.core.column_types import TEXT
from dcsync.core.row_history import FIRST_SEEN, ROW_NUMBER, VALID_FROM, VALID_TO
from dcsync.core.sql import identifier, text
from dcsync.load.values import HistoryFile, TableLoad
from dcsync.rows import CsvTable, Engine
from dcsync.rows.table import descriptor_path

#: The column by which a row of the history is found again. It has a hash of the row.
ROW = "_dcsync_row"
MOMENT = "TIMESTAMP WITH TIME ZONE"
#: A new row of the history is one that begins after the target's snapshot, a changed one ends after it.
_OURS = (VALID_FROM, VALID_TO, FIRST_SEEN)


@dataclass(frozen=True, slots=True)
class Column:
    """A column in the target. `source` is its name in the file, and `kind` a type of DuckDB.

    A column that the file does not have is an `expression` over those that it has.
    """

    name: str
    source: str
    kind: str
    expression: str = ""

    @property
    def is_text(self) -> bool:
        """Whether every field fits."""
        return self.kind == TEXT

    @property
    def value(self) -> str:
        """The expression for its value. An empty field, with or without quotes, is NULL unless the column is text."""
        source = self.expression or identifier(self.source)
        return source if self.is_text or self.source in _OURS else f"CAST(nullif({source}, '') AS {self.kind})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the rows of a table are read. `table` is what SQL selects from, `csv` the CSV file, if it is one."""

    table: str
    columns: tuple[Column, ...]
    csv: CsvTable | None = None

    @property
    def names(self) -> list[str]:
        """The columns' names in the target."""
        return [column.name for column in self.columns]

    @property
    def ends(self) -> bool:
        """Whether rows of this history end. Those of a ledger do not."""
        return any(column.source == VALID_TO for column in self.columns)

    def failing(self) -> AbstractContextManager[None]:
        """Turn a failure to read a CSV file into `RowsUnreadable`."""
        return nullcontext() if self.csv is None else self.csv.reading()

    def all(self) -> str:
        """Return the query for all rows."""
        return self._query("")

    def changed(self, since: datetime) -> str:
        """Return the query for the rows of a history that began or ended after a moment."""
        moment = f"TIMESTAMPTZ {text(since.astimezone(UTC).isoformat(sep=' ', timespec='microseconds'))}"
        if not self.ends:
            return self._query(f" WHERE {FIRST_SEEN} > {moment}")
        # Each half skips the row groups whose range of times does not fit. With OR, DuckDB would read all of them.
        ended, begun = f"{VALID_TO} > {moment}", f"{VALID_FROM} > {moment} AND {VALID_TO} IS NULL"
        return f"{self._query(f' WHERE {ended}')} UNION ALL {self._query(f' WHERE {begun}')}"

    def _query(self, where: str) -> str:
        values = ", ".join(f"{column.value} AS {identifier(column.name)}" for column in self.columns)
        return f"SELECT {values} FROM {self.table}{where}"

    def refused(self, engine: Engine) -> tuple[str, int, str] | None:
        """Return the column, the row from 1, and the reason, of a value that a type refuses. None without one."""
        engine.run("SET preserve_insertion_order = true")  # for the numbers of rows
        for column in self.columns:
            if column.value.startswith("CAST("):
                value = identifier(column.source)
                found = engine.all(
                    f"SELECT n, {value} FROM (SELECT row_number() OVER () AS n, {value} FROM {self.table}) "
                    f"WHERE {value} <> '' AND TRY_{column.value} IS NULL ORDER BY n LIMIT 1"
                )
                if found:
                    return column.name, int(str(found[0][0])), f"{str(found[0][1])[:80]!r} is not a {column.kind}"
        return None


def reading_of(load: TableLoad, engine: Engine, longest: int) -> Reading:
    """Return how a table is read. `longest` is the number of bytes that a name may have in the target, 0 for any."""
    if isinstance(load.source, CsvTable):
        found = load.source
        names = _fitting(found.columns, longest)
        columns = (
            Column(name, source, _kind(load.types, source)) for name, source in zip(names, found.columns, strict=True)
        )
        return Reading(table=found.source, columns=tuple(columns), csv=found)
    return _history(load.source, load.types, engine, longest)


def _history(file: HistoryFile, types: Mapping[str, str], engine: Engine, longest: int) -> Reading:
    table = f"read_parquet({text(descriptor_path(file.descriptor))})"
    sources = [str(name) for name, *_ in engine.all(f"DESCRIBE SELECT * FROM {table}")]
    sources = [name for name in sources if name != ROW_NUMBER]
    columns = [
        Column(name, source, MOMENT if source in _OURS else _kind(types, source))
        for name, source in zip(_fitting(sources, longest), sources, strict=True)
    ]
    if VALID_TO in sources:
        columns.append(Column(ROW, ROW, TEXT, _row_hash([name for name in sources if name != VALID_TO])))
    return Reading(table=table, columns=tuple(columns))


def _row_hash(names: Sequence[str]) -> str:
    """Return the expression for a hash that a row keeps when it ends and when the table gets another column."""
    # The lengths keep fields apart. A field that is NULL counts as one that is not there.
    parts = []
    for name in names:
        value = f"{identifier(name)}::VARCHAR"
        parts.append(f"coalesce({text(name)} || ':' || length({value}) || ':' || {value}, '')")
    return f"md5(concat({', '.join(parts)}))"


def _kind(types: Mapping[str, str], name: str) -> str:
    kind = types.get(name.lower(), TEXT)
    # Autodesk's times are UTC. With a time zone, no reader has to know that.
    return MOMENT if kind == "TIMESTAMP" else kind


def _fitting(names: Sequence[str], longest: int) -> list[str]:
    """Return names that the target takes: a longer one is cut, and ends with a hash of the whole name."""
    return [fitting_name(name, longest) for name in names]


def fitting_name(name: str, longest: int) -> str:
    """Return a name of at most `longest` bytes. 0 means any length."""
    encoded = name.encode()
    if not longest or len(encoded) <= longest:
        return name
    mark = "_" + hashlib.sha256(encoded).hexdigest()[:8]
    return encoded[: longest - len(mark)].decode("utf-8", "ignore") + mark
