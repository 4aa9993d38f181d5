"""A load into a database with transactions: the part that all of them have."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from dcsync.core.loads import LoadMode, Shown
from dcsync.core.row_history import VALID_TO
from dcsync.core.sql import identifier, text
from dcsync.errors import LoadRefused, RowsUnreadable
from dcsync.load.reading import ROW, Column, Reading, fitting_name, reading_of
from dcsync.load.target import FIELDS, LOADS, TIMES, Options, Target, now, parse_record, record
from dcsync.load.values import Loaded, TableLoad, Way

#: The temporary table with the rows of a history that changed.
STAGE = "_dcsync_changed"
#: The table that is created to check that a load could write.
_CHECK = "_dcsync_check"


class _TakenBackError(Exception):
    """Ends a transaction that leaves nothing."""


class SqlTarget(Target):
    """A database. Everything that a load changes is in one transaction."""

    #: The bytes that the name of a table or a column may have. 0 means any number.
    longest_name = 0
    #: The pseudo-column by which a row is found while a statement runs.
    row_id = "rowid"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._is_ready = False

    def shown(self) -> dict[str, Shown]:
        with self.failing(""):
            if not self.has_loads():
                return {}
            there = self.tables()
            return {row.table: row for row in self._rows("") if row.table in there}

    def check_writable(self) -> None:
        with self.failing(""), suppress(_TakenBackError):
            if self.is_missing():
                return
            with self.transaction():
                if not self.has_loads():
                    self.create_loads()
                self.execute(f"CREATE TABLE {self.place(_CHECK)} (checked INTEGER)")
                raise _TakenBackError

    def mark(self, shown: Sequence[Shown]) -> None:
        with self.failing(""), self.transaction():
            for row in shown:
                table = fitting_name(row.table, self.longest_name)
                fields: dict[str, str | datetime] = {"job": row.job, "completed": row.completed, "loaded_at": now()}
                values = ", ".join(f"{name} = {self._literal(value)}" for name, value in fields.items())
                self.execute(
                    f"UPDATE {self.place(LOADS)} SET {values} "
                    f"WHERE table_name = {text(table)} AND sha256 = {text(row.sha256)} AND mode = {text(row.mode)}"
                )

    def load(self, load: TableLoad) -> Loaded:
        name = load.shown.table
        with self.failing(name):
            reading = reading_of(load, self.engine(), self.longest_name)
        if not any(column.source for column in reading.columns):
            raise RowsUnreadable(f"{load.source.path}: it has no header", path=load.source.path)
        with self.failing(name):
            self._prepare()
        with self.failing(name, reading), self.transaction():
            return self._load(
                replace(load, shown=replace(load.shown, table=fitting_name(name, self.longest_name))), reading
            )

    def _load(self, load: TableLoad, reading: Reading) -> Loaded:
        shown = load.shown
        self.lock(shown.table)
        found = self._rows(f" WHERE table_name = {text(shown.table)}")
        known = found[0] if found else None
        there = self.columns_of(shown.table)
        if there is not None and known is None:
            hint = "rename or drop that table, or choose another schema, and run dcsync load"
            raise LoadRefused(self.name, shown.table, "dcsync did not create the table that has this name", hint=hint)
        if known is not None and there is not None:
            if load.is_outrun_by(known):
                return Loaded(shown=known, way=Way.ALREADY, sent=0)
            self.check_columns(load, there, reading.names)
        if known is not None and self._can_change(load, known, there, reading):
            total = int(str(self.engine().one(f"SELECT count(*) FROM {reading.table}")[0]))
            sent = self._change(known, total, reading)
            if sent is not None:
                return Loaded(shown=self._write(shown, total), way=Way.CHANGES, sent=sent)
            there = self.columns_of(shown.table)
        sent = self.replace_table(shown.table, reading, there)
        if shown.mode is LoadMode.LATEST:
            self.check_rows(load, sent)
        return Loaded(shown=self._write(shown, sent), way=Way.WHOLE, sent=sent)

    def _can_change(
        self, load: TableLoad, known: Shown | None, there: Mapping[str, str] | None, reading: Reading
    ) -> bool:
        """Say whether the table has the history of an earlier step. Adds columns that it lacks."""
        shown = load.shown
        if shown.mode is not LoadMode.HISTORY or load.whole or known is None or there is None:
            return False
        if (known.mode, known.account, known.request) != (shown.mode, shown.account, shown.request):
            return False
        wanted = {column.name: self.type_of(column) for column in reading.columns}
        if known.completed > shown.completed or any(wanted.get(name) != kind for name, kind in there.items()):
            return False
        for name in wanted.keys() - there.keys():
            self.execute(f"ALTER TABLE {self.place(shown.table)} ADD COLUMN {identifier(name)} {wanted[name]}")
        return True

    def _change(self, known: Shown, total: int, reading: Reading) -> int | None:
        """Apply what changed since a step. Returns the number of rows sent, or None if that does not give all rows."""
        place, stage = self.place(known.table), self.stage(reading.columns)
        sent = self.fill(stage, reading, reading.changed(known.completed))
        # If a user changed the table, or the history was built again, the numbers do not fit.
        fits = (known.rows or 0) + self._begun(stage, known.completed, reading) == total
        if fits:
            if reading.ends:
                self.end_rows(self._end_rows(place, stage))
            names = ", ".join(identifier(name) for name in reading.names)
            self.execute(f"INSERT INTO {place} ({names}) SELECT {names} FROM {stage}")
        self.drop_stage(stage)
        return sent if fits and self._count(known.table) == total else None

    def _begun(self, stage: str, since: datetime, reading: Reading) -> int:
        if not reading.ends:
            return int(self.execute(f"SELECT count(*) FROM {stage}")[0][0])
        moment = self.moment(since)
        return int(self.execute(f"SELECT count(*) FROM {stage} WHERE _valid_from > {moment}")[0][0])

    def _end_rows(self, place: str, stage: str) -> str:
        """Return the statement that deletes the rows that ended. They are then inserted with their end.

        Several rows can be equal, and only some of them end.
        """
        ended = f"SELECT {ROW} AS ended, count(*) AS ends FROM {stage} WHERE {VALID_TO} IS NOT NULL GROUP BY {ROW}"
        numbered = (
            f"SELECT t.{self.row_id} AS place, row_number() OVER (PARTITION BY t.{ROW}) AS n, ends "
            f"FROM {place} t JOIN ({ended}) e ON e.ended = t.{ROW} WHERE t.{VALID_TO} IS NULL"
        )
        return f"DELETE FROM {place} WHERE {self.row_id} IN (SELECT place FROM ({numbered}) q WHERE n <= ends)"

    def _count(self, table: str) -> int:
        return int(self.execute(f"SELECT count(*) FROM {self.place(table)}")[0][0])

    def _write(self, shown: Shown, rows: int) -> Shown:
        row = replace(shown, rows=rows, loaded_at=now())
        found = zip(FIELDS, record(row), strict=True)
        times = {"completed": row.completed, "loaded_at": row.loaded_at}
        values = ", ".join(self._literal(times.get(name, value)) for name, value in found)
        changed = ", ".join(f"{name} = excluded.{name}" for name in FIELDS[1:])
        self.execute(
            f"INSERT INTO {self.place(LOADS)} ({', '.join(FIELDS)}) VALUES ({values}) "
            f"ON CONFLICT (table_name) DO UPDATE SET {changed}"
        )
        return row

    def _rows(self, where: str) -> list[Shown]:
        fields = ", ".join(self.moment_text(name) if name in TIMES else name for name in FIELDS)
        return [parse_record(row) for row in self.execute(f"SELECT {fields} FROM {self.place(LOADS)}{where}")]

    def _literal(self, value: str | int | datetime | None) -> str:
        if isinstance(value, datetime):
            return self.moment(value)
        return "NULL" if value is None else str(value) if isinstance(value, int) else text(value)

    def _prepare(self) -> None:
        """Create the schema and `_dcsync_loads`, once."""
        if not self._is_ready:
            with self.transaction():
                if not self.has_loads():
                    self.create_loads()
            self._is_ready = True

    # --- what a database has of its own ---------------------------------------------------------------------------

    def is_missing(self) -> bool:
        """Return whether the database is a file that the first load creates, which is possible. Raises `OSError`."""
        return False

    @contextmanager
    @abstractmethod
    def transaction(self) -> Iterator[None]:
        """Begin a transaction. Commits at the end of the block, and takes back everything if the block fails."""

    @abstractmethod
    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Execute a statement and return its rows."""

    @abstractmethod
    def has_loads(self) -> bool:
        """Return whether `_dcsync_loads` exists."""

    @abstractmethod
    def create_loads(self) -> None:
        """Create `_dcsync_loads`, and the schema if it is missing."""

    @abstractmethod
    def lock(self, table: str) -> None:
        """Wait until no other loader loads this table, and keep it so until the end of the transaction."""

    @abstractmethod
    def tables(self) -> set[str]:
        """Return the names of the tables that exist."""

    @abstractmethod
    def columns_of(self, table: str) -> dict[str, str] | None:
        """Return the columns of a table and their types. None without the table."""

    @abstractmethod
    def type_of(self, column: Column) -> str:
        """Return the type that a column has in this database."""

    @abstractmethod
    def replace_table(self, table: str, reading: Reading, there: Mapping[str, str] | None, /) -> int:
        """Give a table these rows and columns in place of its own. Returns the number of rows."""

    @abstractmethod
    def stage(self, columns: Sequence[Column]) -> str:
        """Create an empty temporary table with these columns. Returns its name for statements."""

    @abstractmethod
    def fill(self, place: str, reading: Reading, query: str) -> int:
        """Insert the rows of a query of the reading engine. Returns their number."""

    def end_rows(self, sql: str) -> None:
        """Execute the statement that deletes the rows that ended."""
        self.execute(sql)

    def drop_stage(self, stage: str) -> None:
        """Drop a temporary table."""
        self.execute(f"DROP TABLE {stage}")

    def place(self, table: str) -> str:
        """Return a table's name for statements."""
        return f"{identifier(self._options.dataset)}.{identifier(table)}"

    def declared(self, columns: Sequence[Column]) -> str:
        """Return the columns of a CREATE TABLE."""
        return ", ".join(f"{identifier(column.name)} {self.type_of(column)}" for column in columns)

    @abstractmethod
    def moment(self, value: datetime) -> str:
        """Return a time as a literal."""

    @abstractmethod
    def moment_text(self, name: str) -> str:
        """Return the expression for a time's text in RFC 3339."""
