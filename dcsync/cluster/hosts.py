"""The hosts that share a manifest: their names, the time of their start, and their work.

Each start of a daemon has a row. A host is alive if its row or one of its workers in the queue has a heartbeat within
the last half minute. All times come from the database's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.manifest.schema import Moment
from dcsync.manifest.schema import host as host_table
from dcsync.manifest.schema import host_worker as worker_table
from dcsync.manifest.sql import SqlManifest
from dcsync.ops.peers import Host

#: A host without a heartbeat for this long counts as gone. The time covers three heartbeats of the queue.
SILENCE = timedelta(seconds=30)
#: Its row is deleted after this time.
_FORGET = timedelta(days=1)
_NOW = sa.text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint) AS now").columns(now=Moment)
_BEATS = sa.text(
    "SELECT host_worker.host, CAST(extract(epoch FROM max(last_heartbeat)) * 1000000 AS bigint) AS beat "
    "FROM host_worker JOIN procrastinate_workers ON procrastinate_workers.id = host_worker.worker "
    "GROUP BY host_worker.host"
).columns(host=sa.Integer, beat=Moment)


class Hosts:
    """The tables `host` and `host_worker` of a shared manifest."""

    def __init__(self, manifest: SqlManifest) -> None:
        self._manifest = manifest

    async def arrive(self, *, state: str, name: str, pid: int, version: str, role: str) -> int:
        """Insert a row for a start and return its number. `state` is the id of the state folder, which is locked.

        Earlier starts on that folder have ended, however fresh their heartbeats are. Their workers in the queue are
        deleted, so that other hosts take up their jobs at once.
        """
        async with self._manifest.writing() as connection:
            now = await _now(connection)
            over = sa.select(host_table.c.id).where(
                sa.or_(host_table.c.state == state, host_table.c.seen_at < now - _FORGET)
            )
            workers = (
                await connection.scalars(sa.select(worker_table.c.worker).where(worker_table.c.host.in_(over)))
            ).all()
            if workers:
                # The `worker_id` of its jobs becomes NULL, which procrastinate calls stalled.
                await connection.execute(
                    sa.text("DELETE FROM procrastinate_workers WHERE id IN :ids").bindparams(
                        sa.bindparam("ids", list(workers), expanding=True)
                    )
                )
            await connection.execute(sa.delete(worker_table).where(worker_table.c.host.in_(over)))
            await connection.execute(
                sa.delete(host_table).where(sa.or_(host_table.c.state == state, host_table.c.seen_at < now - _FORGET))
            )
            number: int = (
                await connection.execute(
                    sa.insert(host_table)
                    .values(
                        state=state,
                        name=name,
                        pid=pid,
                        version=version,
                        role=role,
                        started_at=now,
                        seen_at=now,
                        doing="",
                    )
                    .returning(host_table.c.id)
                )
            ).scalar_one()
            return number

    async def works_as(self, number: int, worker: int) -> None:
        """Record that a host has this worker in the queue."""
        async with self._manifest.writing() as connection:
            await connection.execute(sa.insert(worker_table).values(worker=worker, host=number))

    async def beat(self, number: int, doing: str) -> None:
        """Record a heartbeat of a host, and its current work."""
        async with self._manifest.writing() as connection:
            now = await _now(connection)
            await connection.execute(
                sa.update(host_table).where(host_table.c.id == number).values(seen_at=now, doing=doing)
            )

    async def leave(self, number: int) -> None:
        """Remove a host that stops."""
        async with self._manifest.writing() as connection:
            await connection.execute(sa.delete(worker_table).where(worker_table.c.host == number))
            await connection.execute(sa.delete(host_table).where(host_table.c.id == number))

    async def known(self) -> Sequence[Host]:
        """Return all hosts by name. A host that is gone stays for a day."""
        async with self._manifest.reading() as connection:
            now = await _now(connection)
            beats = {row.host: row.beat for row in await connection.execute(_BEATS)}
            rows = (await connection.execute(sa.select(host_table))).all()
        hosts = []
        for row in rows:
            seen_at = max(row.seen_at, beats.get(row.id, row.seen_at))
            hosts.append(
                Host(
                    id=row.id,
                    name=row.name,
                    pid=row.pid,
                    version=row.version,
                    role=row.role,
                    started_at=row.started_at,
                    seen_at=seen_at,
                    is_alive=now - seen_at < SILENCE,
                    doing=row.doing,
                )
            )
        return sorted(hosts, key=lambda host: (host.name, host.id))


async def _now(connection: AsyncConnection) -> datetime:
    now: datetime = (await connection.execute(_NOW)).scalar_one()
    return now
