"""The manifest in a PostgreSQL database that several hosts write to.

A damaged database cannot be renamed as a file can. As in a file, its rows have digests, which dcsync compares when it
copies or checks the manifest. The operator repairs damage from PostgreSQL's own backups, or with a rebuild.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dcsync.cluster import queue_schema
from dcsync.cluster.database import Database
from dcsync.errors import ManifestCorrupt, ManifestMissing
from dcsync.manifest import SqlManifest
from dcsync.manifest import checksums as seal
from dcsync.manifest.migrate import migrate, refuse_newer
from dcsync.tasks import finish

#: Advisory locks are numbers that all programs on a database share. No other program is likely to use these.
_WRITER, _OPENING = 7_231_406_001, 7_231_406_002


class PostgresBackend:
    """Meets the port `Backend`."""

    def __init__(self, engine: AsyncEngine, database: Database) -> None:
        self.database = database
        self._engine = engine
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

        One host at a time has a transaction, as in a file: rows that it read are unchanged when it writes. Transactions
        are short. PostgreSQL frees the lock with the transaction, however its holder ends.
        """
        with self.database.errors():
            async with self._engine.begin() as connection:
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITER)))
                yield connection

    async def check_rows(self) -> None:
        """Compare every row with its digest. A thread does it with an event loop and a connection of its own."""
        damage = await asyncio.to_thread(lambda: asyncio.run(self._damage()))
        if damage is not None:
            raise _corrupt(self.database, damage)

    async def _damage(self) -> str | None:
        engine = self.database.engine(label="check")
        try:
            async with PostgresBackend(engine, self.database).reading() as connection:
                return await connection.run_sync(seal.broken_meta) or await broken_row(connection)
        finally:
            await finish(engine.dispose())


@asynccontextmanager
async def opening_lock(database: Database, *, label: str = "") -> AsyncIterator[Callable[[], Awaitable[bool]]]:
    """Lend a function that tries once to take the lock under which hosts open the mirror one after another.

    The lock belongs to a connection of this block: PostgreSQL frees it however its holder ends.
    """
    engine = database.engine(label=label)
    try:
        with database.errors():
            async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:

                async def try_lock() -> bool:
                    return bool(await connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_OPENING))))

                yield try_lock
    finally:
        await finish(engine.dispose())


@asynccontextmanager
async def open_shared_manifest(
    database: Database, *, read_only: bool = False, label: str = ""
) -> AsyncIterator[SqlManifest]:
    """Open the manifest in a database and migrate it to the newest schema. The end of the block closes it.

    With `read_only` nothing is changed or migrated. PostgreSQL shows the connections under `label`. Raises
    `ManifestMissing`, `ManifestNewer`, `ManifestCorrupt`, and `ManifestError`.
    """
    engine = database.engine(label=label)
    try:
        with database.errors():
            # The check reads one state of the database: another host that binds the manifest at the same time must not
            # look like damage. The check therefore runs in a reader's snapshot, or while no other host can write.
            backend = PostgresBackend(engine, database)
            async with backend.reading() if read_only else backend.writing() as connection:
                await _check(connection, database, read_only=read_only)
                if not read_only:
                    await migrate(connection)
                    await queue_schema.bring_up(connection)
        yield SqlManifest(backend)
    finally:
        # A second cancellation must not leave connections half closed.
        await finish(engine.dispose())


async def _check(connection: AsyncConnection, database: Database, *, read_only: bool) -> None:
    found = await refuse_newer(connection, f"the manifest in {database.shown}")
    if found is None and read_only:
        message = f"{database.shown} contains no manifest yet"
        raise ManifestMissing(message)
    damage = await connection.run_sync(seal.broken_meta)
    if damage is not None:
        raise _corrupt(database, damage)


def _corrupt(database: Database, damage: str) -> ManifestCorrupt:
    return ManifestCorrupt(
        f"the manifest in {database.shown} is damaged: {damage}",
        hint="restore the database from a backup, or run dcsync rebuild, which reads the mirror",
    )


async def broken_row(connection: AsyncConnection) -> str | None:
    """Return the first row that differs from its digest or cannot be read, or None."""
    return await connection.run_sync(seal.broken_row)
