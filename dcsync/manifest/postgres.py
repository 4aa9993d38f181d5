"""The manifest in a PostgreSQL database that several hosts write to.

A damaged database cannot be set aside as a file can: its digests are written as in a file, and compared when the
manifest is copied or checked, and a damage is for the operator to mend from PostgreSQL's own backups, or by a rebuild.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dcsync.database import Database
from dcsync.errors import ManifestCorrupt, ManifestMissing
from dcsync.manifest import checksums as seal
from dcsync.manifest import queue_schema
from dcsync.manifest.migrate import migrate, refuse_newer
from dcsync.tasks import finish

#: Advisory locks are numbers that all programs on a database share: any that nobody else is likely to take.
_WRITER, _OPENING = 7_231_406_001, 7_231_406_002


class PostgresBackend:
    """Meets the port `Backend`."""

    is_shared = True

    def __init__(self, engine: AsyncEngine, database: Database) -> None:
        self.database = database
        self._engine = engine
        self._opener = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._reader = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection to read with."""
        with self.database.errors():
            async with self._reader.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection for one transaction.

        One at a time over all hosts, as in a file: what was looked at in it is still so when it is written. They are
        short. PostgreSQL frees the lock with the transaction, however its holder ends.
        """
        with self.database.errors():
            async with self._engine.begin() as connection:
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITER)))
                yield connection

    @asynccontextmanager
    async def opening(self) -> AsyncIterator[bool]:
        """Hold, where it can be had at once, the lock under which hosts come up one after another.

        Gives whether it could. It belongs to a connection: PostgreSQL frees it however its holder ends.
        """
        with self.database.errors():
            async with self._opener.connect() as connection:
                has = bool(await connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_OPENING))))
                try:
                    yield has
                finally:
                    if has:
                        await connection.execute(sa.select(sa.func.pg_advisory_unlock(_OPENING)))


@asynccontextmanager
async def postgres_backend(database: Database, *, read_only: bool, label: str = "") -> AsyncIterator[PostgresBackend]:
    """Open a database, bringing it up to date first unless it is only read: one host at a time."""
    engine = database.engine(label=label)
    try:
        with database.errors():
            # Of one moment: another host that binds the manifest meanwhile must not look like damage. So either as a
            # reader, or with nobody else writing.
            backend = PostgresBackend(engine, database)
            async with backend.reading() if read_only else backend.writing() as connection:
                await _check(connection, database, read_only=read_only)
                if not read_only:
                    await migrate(connection)
                    await queue_schema.bring_up(connection)
        yield backend
    finally:
        # To its end, as with a file.
        await finish(engine.dispose())


async def _check(connection: AsyncConnection, database: Database, *, read_only: bool) -> None:
    found = await refuse_newer(connection, f"the manifest in {database.shown}")
    if found is None and read_only:
        message = f"{database.shown} holds no manifest yet"
        raise ManifestMissing(message)
    damage = await connection.run_sync(seal.broken_meta)
    if damage is not None:
        message = f"the manifest in {database.shown} is damaged: {damage}"
        raise ManifestCorrupt(message, hint="restore the database from a backup, or dcsync rebuild: from the tree")


async def broken_row(connection: AsyncConnection) -> str | None:
    """Say which row is not what was written, or cannot be read; None for nothing."""
    return await connection.run_sync(seal.broken_row)
