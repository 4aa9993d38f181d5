"""Loads into a SQLite file. It has one schema, so a dataset's name is not used."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dcsync.core.sql import identifier, text
from dcsync.errors import LoadFailed, TargetUnusable
from dcsync.load import causes
from dcsync.load.clients import file_path, native_errors, sqlite_client
from dcsync.load.reading import MOMENT, Column, Reading
from dcsync.load.sql_target import STAGE, SqlTarget
from dcsync.load.target import LOADS, Options, check_folder

if TYPE_CHECKING:
    from dlt.destinations.sql_client import SqlClientBase

#: The rows that are sent at once.
_ROWS: Final = 20_000
#: The errors of the file, not of a table.
_UNUSABLE: Final = frozenset(
    {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
    }
)
_IN_USE: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_TYPES: Final = {"BIGINT": "INTEGER", "BOOLEAN": "BOOLEAN", "DOUBLE": "REAL", "DATE": "DATE", MOMENT: "TIMESTAMP"}


class SqliteTarget(SqlTarget):
    """A SQLite file."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._path = file_path(options.address)
        self._client: SqlClientBase[Any] | None = None
        self._raw: sqlite3.Connection | None = None

    def close(self) -> None:
        client, self._client, self._raw = self._client, None, None
        if client is not None:
            with suppress(Exception):  # an interrupted connection
                client.close_connection()

    def interrupt(self) -> None:
        super().interrupt()
        if self._raw is not None:
            with suppress(sqlite3.Error):  # it may have been closed just now
                self._raw.interrupt()

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection of Python's driver, which is opened here."""
        if self._raw is None:
            client = sqlite_client(self._options.address)
            with native_errors():
                client.open_connection()
            self._client = client
            self._raw = raw = client.native_connection.connection.driver_connection
            # The driver would begin a transaction too late, and not before a CREATE.
            raw.isolation_level = None
            raw.execute(f"PRAGMA busy_timeout = {round(self._options.patience_s * 1000)}")
            # Readers see the rows before while a load writes. dlt does the same.
            raw.execute("PRAGMA journal_mode = WAL")
        return self._raw

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            # After some errors, such as a full disk, SQLite has done that.
            if self._raw is not None and self._raw.in_transaction:
                self.execute("ROLLBACK")
            raise

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql).fetchall()

    def is_missing(self) -> bool:
        if os.path.lexists(self._path):
            return False
        check_folder(Path(self._path).parent)
        return True

    def has_loads(self) -> bool:
        # To connect would create the file.
        return os.path.lexists(self._path) and LOADS in self.tables()

    def create_loads(self) -> None:
        self.execute(
            f"CREATE TABLE {LOADS} (table_name TEXT PRIMARY KEY, mode TEXT, account TEXT, request TEXT, job TEXT, "
            "completed TIMESTAMP, sha256 TEXT, row_count INTEGER, loaded_at TIMESTAMP)"
        )

    def lock(self, table: str) -> None:
        """SQLite has one writer at a time, from the beginning of a transaction on."""

    def tables(self) -> set[str]:
        return {str(name) for (name,) in self.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}

    def columns_of(self, table: str) -> dict[str, str] | None:
        found = self.execute(f"SELECT name, type FROM pragma_table_info({text(table)})")
        return {str(name): str(kind) for name, kind in found} or None

    def type_of(self, column: Column) -> str:
        # Any other number would lose digits: SQLite has no decimals.
        return _TYPES.get(column.kind, "TEXT")

    def replace_table(self, table: str, reading: Reading, _: Mapping[str, str] | None) -> int:
        place = self.place(table)
        self.execute(f"DROP TABLE IF EXISTS {place}")
        self.execute(f"CREATE TABLE {place} ({self.declared(reading.columns)})")
        return self.fill(place, reading, reading.all())

    def stage(self, columns: Sequence[Column]) -> str:
        self.execute(f"CREATE TEMP TABLE {STAGE} ({self.declared(columns)})")
        return f"temp.{STAGE}"

    def fill(self, place: str, reading: Reading, query: str) -> int:
        values = ", ".join(_value(column) for column in reading.columns)
        marks = ", ".join("?" * len(reading.columns))
        insert, sent = f"INSERT INTO {place} VALUES ({marks})", 0
        with reading.failing():
            for rows in self.engine().stream(f"SELECT {values} FROM ({query})", _ROWS):
                self.connection.executemany(insert, rows)
                sent += len(rows)
        return sent

    def place(self, table: str) -> str:
        return f"main.{identifier(table)}"

    def moment(self, value: datetime) -> str:
        return text(value.astimezone(UTC).isoformat(sep=" ", timespec="microseconds"))

    def moment_text(self, name: str) -> str:
        return name

    def explained(self, error: Exception, table: str) -> LoadFailed:
        cause = getattr(error, "orig", None) or error
        reason = self.clean(str(cause) or type(cause).__name__)
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        if code in _IN_USE:
            return LoadFailed(self.name, table, reason, hint=causes.in_use(reason).hint)
        if self._raw is None or code in _UNUSABLE:
            self.close()
            path = Path(self._path)
            found = causes.full(path.parent) if code == sqlite3.SQLITE_FULL else causes.of_file(path, reason)
            return TargetUnusable(self.name, table, self.clean(found.reason), hint=found.hint)
        return self.failed(table, reason, Path(self._path).parent)


def _value(column: Column) -> str:
    """Return the expression for what SQLite stores. It has no dates and times, so they are text that sorts."""
    name = identifier(column.name)
    if column.kind == MOMENT:
        return f"strftime({name} AT TIME ZONE 'UTC', '%Y-%m-%d %H:%M:%S.%f+00:00')"
    if column.kind == "BOOLEAN":
        return f"{name}::TINYINT"
    return name if column.kind in {"BIGINT", "DOUBLE"} or column.is_text else f"{name}::VARCHAR"
