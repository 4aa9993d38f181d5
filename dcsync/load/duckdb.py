"""Loads into a DuckDB file. DuckDB reads the snapshot's file itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcsync.core.sql import identifier, text
from dcsync.errors import LoadFailed, LoadRefused, TargetUnusable
from dcsync.load import causes
from dcsync.load.clients import duckdb_client, file_path, native_errors
from dcsync.load.reading import Column, Reading
from dcsync.load.sql_target import STAGE, SqlTarget
from dcsync.load.target import LOADS, Options, check_folder
from dcsync.rows.engine import LEAST_MEMORY, THREADS, rows_errors

if TYPE_CHECKING:
    from dlt.destinations.sql_client import SqlClientBase


class DuckDbTarget(SqlTarget):
    """A DuckDB file."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._path = file_path(options.address)
        self._client: SqlClientBase[Any] | None = None
        self._schema = ""

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):  # an interrupted connection
                client.close_connection()

    def interrupt(self) -> None:
        super().interrupt()
        client = self._client
        if client is not None:
            with suppress(Exception):  # it may have been closed just now
                client.native_connection.interrupt()

    @property
    def connection(self) -> Any:  # noqa: ANN401 - dlt's clients have connections of any driver
        """The connection of DuckDB, which is opened here."""
        if self._client is None:
            client = duckdb_client(self._options.address, "main")
            with native_errors():
                client.open_connection()
            self._client = client
            memory = max(self._options.memory, LEAST_MEMORY) >> 10
            for setting in (
                f"memory_limit = '{memory}KiB'",
                f"threads = {THREADS}",
                f"temp_directory = {text(os.fspath(self._options.work))}",
                "TimeZone = 'UTC'",
                "autoinstall_known_extensions = false",
                "autoload_known_extensions = false",
                "enable_external_file_cache = false",
                "preserve_insertion_order = false",
            ):
                self._client.native_connection.execute(f"SET {setting}")
            # Without the name of the database, a schema of the same name is ambiguous.
            ((catalog,),) = self.execute("SELECT current_database()")
            self._schema = f"{identifier(str(catalog))}.{identifier(self._options.dataset)}"
        return self._client.native_connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        _ = self.connection
        assert self._client is not None  # noqa: S101 - opened by the line before
        with native_errors(), self._client.begin_transaction():
            yield

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.connection.execute(sql).fetchall()]

    def is_missing(self) -> bool:
        if os.path.lexists(self._path):
            return False
        check_folder(Path(self._path).parent)
        return True

    def has_loads(self) -> bool:
        # To connect would create the file.
        return os.path.lexists(self._path) and LOADS in self.tables()

    def create_loads(self) -> None:
        self.execute(f"CREATE SCHEMA IF NOT EXISTS {self._schema}")
        self.execute(
            f"CREATE TABLE {self.place(LOADS)} (table_name VARCHAR PRIMARY KEY, mode VARCHAR, account VARCHAR, "
            "request VARCHAR, job VARCHAR, completed TIMESTAMPTZ, sha256 VARCHAR, row_count BIGINT, "
            "loaded_at TIMESTAMPTZ)"
        )

    def place(self, table: str) -> str:
        return f"{self._schema}.{identifier(table)}"

    def lock(self, table: str) -> None:
        """DuckDB locks the whole file for the process that has it open."""

    def tables(self) -> set[str]:
        found = self.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_catalog = current_database() "
            f"AND table_schema = {text(self._options.dataset)}"
        )
        return {str(name) for (name,) in found}

    def columns_of(self, table: str) -> dict[str, str] | None:
        found = self.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database() "
            f"AND schema_name = {text(self._options.dataset)} AND lower(table_name) = lower({text(table)}) "
            "ORDER BY column_index"
        )
        return {str(name): str(kind) for name, kind in found} or None

    def type_of(self, column: Column) -> str:
        return column.kind.replace(", ", ",")

    def replace_table(self, table: str, reading: Reading, _: Mapping[str, str] | None) -> int:
        place = self.place(table)
        with _reading(reading):
            self.execute(f"CREATE OR REPLACE TABLE {place} AS {reading.all()}")
        return int(self.execute(f"SELECT count(*) FROM {place}")[0][0])

    def stage(self, columns: Sequence[Column]) -> str:
        self.execute(f"CREATE TEMP TABLE {STAGE} ({self.declared(columns)})")
        return f"temp.{STAGE}"

    def fill(self, place: str, reading: Reading, query: str) -> int:
        with _reading(reading):
            return int(self.execute(f"INSERT INTO {place} {query}")[0][0])

    def moment(self, value: datetime) -> str:
        return f"TIMESTAMPTZ {text(value.astimezone(UTC).isoformat(sep=' '))}"

    def moment_text(self, name: str) -> str:
        return f"strftime({name} AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')"

    def explained(self, error: Exception, table: str) -> LoadFailed:
        import duckdb

        reason = self.clean(str(error) or type(error).__name__)
        if self._client is None:
            # DuckDB lets one process at a time write a file, and none while others read it.
            is_locked = "Could not set lock" in reason
            cause = causes.in_use(reason) if is_locked else causes.of_file(Path(self._path), reason)
            return TargetUnusable(self.name, table, self.clean(cause.reason), hint=cause.hint)
        if isinstance(error, duckdb.DependencyException | duckdb.CatalogException):
            return LoadRefused(self.name, table, reason)
        if isinstance(error, duckdb.FatalException | duckdb.IOException):
            # After a fatal error, DuckDB answers nothing until the file is opened again.
            self.close()
        return self.failed(table, reason, Path(self._path).parent)


@contextmanager
def _reading(reading: Reading) -> Iterator[None]:
    """Tell the errors of the snapshot's file from those of the target."""
    import duckdb

    with reading.failing():
        try:
            yield
        except (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.InterruptException):
            with rows_errors():
                raise
