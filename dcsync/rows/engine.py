"""One DuckDB in memory, with limits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dcsync.core.extras import install_hint
from dcsync.errors import ConfigError, RowsFailed, RowsInterrupted

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

#: The threads of one engine. More would take the processor from downloads.
THREADS = 2
#: The least memory with which DuckDB reads a table of several million rows, in bytes.
LEAST_MEMORY = 128 << 20
#: The rows that are fetched at first, and the characters at once later. A field may have several megabytes.
_FIRST_ROWS = 16
_MOST_LENGTH = 4 << 20


def check_installed() -> None:
    """Raise `ConfigError` if DuckDB is not installed."""
    try:
        import duckdb  # noqa: F401
    except ImportError:
        message = "rows of tables need the package duckdb, which is not installed"
        raise ConfigError(message, hint=install_hint("history")) from None


class Engine:
    """A DuckDB connection. Its methods block, and belong into a thread. Only `interrupt` is for another thread."""

    def __init__(self, connection: DuckDBPyConnection) -> None:
        self.connection = connection
        self._is_interrupted = False

    def run(self, sql: str) -> None:
        """Run statements. Raises `RowsFailed`, or `RowsInterrupted` after `interrupt`."""
        with self._running():
            self.connection.execute(sql)

    def one(self, sql: str) -> tuple[object, ...]:
        """Return the only row of a query. Raises the errors of `run`."""
        with self._running():
            row = self.connection.execute(sql).fetchone()
        if row is None:
            raise RowsFailed("a query for one row has none")
        return tuple(row)

    def all(self, sql: str) -> list[tuple[object, ...]]:
        """Return all rows of a query that has few. Raises the errors of `run`."""
        with self._running():
            return [tuple(row) for row in self.connection.execute(sql).fetchall()]

    def stream(self, sql: str, size: int) -> Iterator[Sequence[tuple[object, ...]]]:
        """Yield the rows of a query, at most `size` at once, and fewer if they are long. Raises the errors of `run`.

        Until the last rows, nothing else may run.
        """
        with self._running():
            result = self.connection.execute(sql)
            count = min(size, _FIRST_ROWS)
            while rows := result.fetchmany(count):
                yield rows
                length = sum(len(value) for row in rows for value in row if isinstance(value, str))
                count = max(1, min(size, 2 * count, count * _MOST_LENGTH // max(1, length)))

    def relation(self, sql: str) -> DuckDBPyRelation:
        """Return a query as a relation, which runs when its rows are fetched. Raises the errors of `run`."""
        with self._running():
            return self.connection.sql(sql)

    def interrupt(self) -> None:
        """End the statement that runs now, and any later one, with `RowsInterrupted`. For another thread."""
        import duckdb

        self._is_interrupted = True
        with suppress(duckdb.ConnectionException):  # it is closed, so nothing runs
            self.connection.interrupt()

    @contextmanager
    def _running(self) -> Iterator[None]:
        if self._is_interrupted:
            raise RowsInterrupted("reading rows was interrupted")
        with rows_errors():
            yield


@contextmanager
def opened(*, memory: int, spill: Path | None) -> Iterator[Engine]:
    """Open an engine that uses about `memory` bytes, and a file in the folder `spill` for what does not fit.

    Without `spill`, what does not fit fails. Raises `ConfigError` if DuckDB is not installed.
    """
    check_installed()
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        # A server may have no internet, and an extension is a program.
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        # Files are named by their descriptors, and a descriptor's number is used again for another file.
        "enable_external_file_cache": False,
        "memory_limit": f"{max(memory, LEAST_MEMORY) >> 10}KiB",
        "threads": THREADS,
        "temp_directory": "" if spill is None else os.fsdecode(spill),
    }
    with rows_errors():
        connection = duckdb.connect(config=settings)
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield Engine(connection)
    finally:
        connection.close()


@contextmanager
def rows_errors() -> Iterator[None]:
    """Turn DuckDB's errors into ours."""
    import duckdb

    try:
        yield
    except duckdb.InterruptException:
        raise RowsInterrupted("reading rows was interrupted") from None
    except duckdb.Error as error:
        raise RowsFailed(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
