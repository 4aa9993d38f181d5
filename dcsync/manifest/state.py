"""Values that the manifest remembers under a key, such as the time of the next poll."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.manifest.schema import meta as meta_table
from dcsync.manifest.sql import SqlManifest

#: Built once, because a run reads dozens of values.
_READ = sa.select(meta_table.c.value).where(meta_table.c.key == sa.bindparam("key"))


class StoredValues:
    """Text by key, in the table `meta`. Every write is one transaction, durable when the method returns."""

    def __init__(self, manifest: SqlManifest) -> None:
        self._manifest = manifest

    async def load(self, key: str) -> str | None:
        """Return the value of a key, or None if it has none."""
        async with self._manifest.reading() as connection:
            return await read_value(connection, key)

    async def save(self, key: str, value: str | None) -> None:
        """Set the value of a key. None deletes the key."""
        async with self._manifest.writing() as connection:
            await write_value(connection, key, value)


async def read_value(connection: AsyncConnection, key: str) -> str | None:
    """Return the value of a key, within a transaction of the caller."""
    return await connection.scalar(_READ, {"key": key})


async def write_value(connection: AsyncConnection, key: str, value: str | None) -> None:
    """Set the value of a key, within a transaction of the caller. None deletes the key."""
    if value is None:
        await connection.execute(sa.delete(meta_table).where(meta_table.c.key == key))
        return
    changed = await connection.execute(sa.update(meta_table).where(meta_table.c.key == key).values(value=value))
    if changed.rowcount == 0:
        await connection.execute(sa.insert(meta_table).values(key=key, value=value))
