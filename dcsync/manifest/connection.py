"""A connection to SQLite that asks its thread once for what a statement needs, and not six times.

The driver works in a thread. It begins a transaction, makes a cursor, executes, fetches and closes one by one, and each
step wakes the thread and then the event loop. That took more time than SQLite itself.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Generator, Iterable
from typing import Any

import aiosqlite
from aiosqlite.context import contextmanager

from dcsync.tasks import starting_threads

#: A cursor fetches this many rows together with its statement.
_ROWS_AT_ONCE = 256


class Connection(aiosqlite.Connection):
    """A connection that can be stopped twice.

    On a cancellation SQLAlchemy closes a connection. On a second cancellation during that, it stops the connection by
    force. The close then asked a thread to stop that had ended already, waited for its answer forever, and the process
    never ended.
    """

    _stopped: asyncio.Future[Any] | None = None
    _beginning: str | None = None

    def __await__(self) -> Generator[Any, None, aiosqlite.Connection]:
        """Connect. Raises `NoThreads`."""
        with starting_threads():
            return super().__await__()

    def stop(self) -> asyncio.Future[Any] | None:
        """Stop the thread. Every call returns the same future."""
        if self._stopped is None:
            self._stopped = super().stop()
        return self._stopped

    def begin(self, statement: str) -> None:
        """Begin a transaction together with the next statement, and not before."""
        self._beginning = statement

    @contextmanager
    async def cursor(self) -> aiosqlite.Cursor:
        """Return a cursor. The thread makes it when it executes a statement."""
        return _Cursor(self)

    async def commit(self) -> None:
        """Commit the transaction."""
        self._beginning = None
        await super().commit()

    async def rollback(self) -> None:
        """Undo the transaction."""
        self._beginning = None
        await super().rollback()

    def open_cursor(self) -> sqlite3.Cursor:
        """Begin the transaction if it has not begun. Call this in the thread."""
        cursor = self._conn.cursor()
        statement, self._beginning = self._beginning, None
        if statement is not None:
            cursor.execute(statement)
        return cursor


class _Cursor(aiosqlite.Cursor):
    """A cursor that holds its first rows after `execute`, and is closed then unless there are more."""

    _conn: Connection
    _cursor: sqlite3.Cursor

    def __init__(self, connection: Connection) -> None:
        self._conn = connection
        self._rows: list[Any] = []
        self._is_at_end = False

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> aiosqlite.Cursor:
        """Execute a statement."""
        await self._in_thread(self._run, lambda cursor: cursor.execute(sql, () if parameters is None else parameters))
        return self

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> aiosqlite.Cursor:
        """Execute a statement once for each of the parameters."""
        await self._in_thread(self._run, lambda cursor: cursor.executemany(sql, parameters))
        return self

    async def fetchmany(self, size: int | None = None) -> Iterable[Any]:
        """Return the next rows, fewer than `size` only at the end."""
        size = self.arraysize if size is None else size
        if len(self._rows) < size and not self._is_at_end:
            self._rows += await super().fetchmany(size - len(self._rows))
        rows, self._rows = self._rows[:size], self._rows[size:]
        return rows

    async def fetchone(self) -> Any:  # noqa: ANN401 - a row of any columns
        """Return the next row, or None at the end."""
        return next(iter(await self.fetchmany(1)), None)

    async def fetchall(self) -> Iterable[Any]:
        """Return all remaining rows."""
        rows, self._rows = self._rows, []
        return rows if self._is_at_end else [*rows, *await super().fetchall()]

    async def close(self) -> None:
        """Close the cursor unless it is closed."""
        if not self._is_at_end:
            await self._in_thread(self._end)

    async def _in_thread(self, function: Callable[..., None], *arguments: object) -> None:
        await self._execute(function, *arguments)  # type: ignore[no-untyped-call]

    def _run(self, execute: Callable[[sqlite3.Cursor], object]) -> None:
        self._cursor = self._conn.open_cursor()
        execute(self._cursor)
        self._rows = self._cursor.fetchmany(_ROWS_AT_ONCE)
        if len(self._rows) < _ROWS_AT_ONCE:
            self._end()

    def _end(self) -> None:
        self._is_at_end = True
        self._cursor.close()
