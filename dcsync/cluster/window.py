"""The calls of the last minute, shared by all hosts on one database: one row per client ID, locked while it is read.

Times are the database's, in microseconds, because the clocks of the hosts may differ.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dcsync.cluster.database import Database
from dcsync.core.quota import MAX_PAUSE_S, wait_before_next, within_window

_US = 1_000_000
_MAKE = sa.text("INSERT INTO quota (client, paused_until, calls) VALUES (:client, 0, '[]') ON CONFLICT DO NOTHING")
_LOCK = sa.text("SELECT paused_until, calls FROM quota WHERE client = :client FOR UPDATE")
_READ = sa.text("SELECT paused_until, calls FROM quota WHERE client = :client")
_WRITE = sa.text("UPDATE quota SET paused_until = :paused_until, calls = :calls WHERE client = :client")
#: Read after the lock is held. `clock_timestamp()` is the current time, `now()` would be the transaction's start.
_NOW = sa.text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)")


class DatabaseWindow:
    """Implements `CallWindow`. With `own_clock` it uses the caller's times, for a single host and for tests."""

    def __init__(self, engine: AsyncEngine, database: Database, client: str, *, own_clock: bool = False) -> None:
        self._engine = engine
        self._database = database
        self._client = {"client": client}
        self._own_clock = own_clock

    async def reserve(self, *, limit: int, now: float) -> float:
        """Record a call and return 0.0, or return the seconds to wait. The database's time replaces `now`."""
        async with self._locked(now) as window:
            wait = wait_before_next(window.calls, limit=limit, now=window.now, paused_until=window.paused_until)
            if wait <= 0:
                window.calls = [*within_window(window.calls, window.now), window.now]
            return wait

    async def pause(self, *, until: float, now: float) -> None:
        """Block new calls on all hosts for the time between `now` and `until`."""
        async with self._locked(now) as window:
            window.paused_until = max(window.paused_until, window.now + (until - now))

    async def used(self, *, now: float) -> int:
        """Return the number of calls of all hosts in the last minute."""
        with self._database.errors():
            async with self._engine.connect() as connection:
                window = await self._read(connection, _READ, now)
                return 0 if window is None else len(within_window(window.calls, window.now))

    @asynccontextmanager
    async def _locked(self, now: float) -> AsyncIterator[_Window]:
        with self._database.errors():
            async with self._engine.begin() as connection:
                window = await self._read(connection, _LOCK, now)
                if window is None:
                    await connection.execute(_MAKE, self._client)
                    window = await self._read(connection, _LOCK, now)
                assert window is not None  # noqa: S101 - just made, by us or another host
                before = window.state()
                yield window
                if window.state() != before:
                    await connection.execute(_WRITE, {**self._client, **window.state()})

    async def _read(self, connection: AsyncConnection, query: sa.TextClause, now: float) -> _Window | None:
        row = (await connection.execute(query, self._client)).one_or_none()
        if row is None:
            return None
        here = now if self._own_clock else (await connection.scalar(_NOW) or 0) / _US
        # A call in the future was recorded before the clock was set back, and counts as made now. A pause longer than
        # any real pause has the same cause and is ignored.
        calls = [min(call / _US, here) for call in json.loads(row.calls)]
        paused_until = row.paused_until / _US
        return _Window(here, calls, paused_until if paused_until - here <= 2 * MAX_PAUSE_S else 0.0)


class _Window:
    """The content of the row, in seconds."""

    def __init__(self, now: float, calls: list[float], paused_until: float) -> None:
        self.now = now
        self.calls = calls
        self.paused_until = paused_until

    def state(self) -> dict[str, object]:
        return {
            "paused_until": round(self.paused_until * _US),
            "calls": json.dumps([round(call * _US) for call in self.calls]),
        }
