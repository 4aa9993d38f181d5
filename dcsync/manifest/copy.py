"""Copy a whole manifest from one database to another: from a file to PostgreSQL, and back."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.errors import ManifestCorrupt, ManifestError
from dcsync.manifest import checksums as seal
from dcsync.manifest.schema import OF_HOSTS, metadata
from dcsync.manifest.schema import job as job_table
from dcsync.manifest.schema import meta as meta_table
from dcsync.manifest.sql import SqlManifest, open_manifest

_ROWS_AT_ONCE = 500
#: The keys of `meta` that each database has for itself.
_OWN = frozenset({"seal", "queue", "instance"})
_TABLES = tuple(table for table in metadata.sorted_tables if table.name not in OF_HOSTS)


async def copy_rows(source: SqlManifest, target: SqlManifest, *, instance: str) -> int:
    """Replace the content of `target` by that of `source`, with another instance ID, in one transaction.

    Returns the number of jobs. Every row of the source is compared with its digest before the copy, and the digests of
    both are compared after it. Raises `ManifestCorrupt`, having changed nothing, if the source is damaged.
    """
    async with source.reading() as reading, target.writing() as writing:
        damage = await reading.run_sync(seal.broken_row)
        if damage is not None:
            message = f"the manifest to copy is damaged: {damage}"
            raise ManifestCorrupt(message)
        await _clear(writing)
        for table in _TABLES:
            await _copy_table(reading, writing, table)
        await writing.execute(sa.delete(meta_table).where(meta_table.c.key == "instance"))
        await writing.execute(sa.insert(meta_table).values(key="instance", value=instance))
        await seal.seal_all(writing)
        before, after = await _digests(reading), await _digests(writing)
        if before != after:
            message = "the copy of the manifest differs from the original; nothing was changed"
            raise ManifestError(message, hint="this is a bug in dcsync: please report it")
        return len(after)


async def move_out(manifest: SqlManifest, file: Path) -> None:
    """Copy a manifest to a new file, and remove its rows so that it can be rebuilt from the mirror."""
    instance = await manifest.instance() or ""
    async with open_manifest(file) as copy:
        await copy_rows(manifest, copy, instance=instance)
    async with manifest.writing() as connection:
        await _clear(connection)
        await seal.seal_meta(connection)


async def _clear(connection: AsyncConnection) -> None:
    for table in reversed(_TABLES):
        keeps = table is meta_table
        await connection.execute(sa.delete(table).where(table.c.key.not_in(_OWN)) if keeps else sa.delete(table))


async def _copy_table(reading: AsyncConnection, writing: AsyncConnection, table: sa.Table) -> None:
    query = sa.select(table)
    if table is meta_table:
        query = query.where(table.c.key.not_in(_OWN))
    async with reading.stream(query.execution_options(yield_per=_ROWS_AT_ONCE)) as result:
        async for rows in result.mappings().partitions():
            await writing.execute(sa.insert(table), [dict(row) for row in rows])
    if writing.dialect.name == "postgresql" and table.autoincrement_column is not None:
        # The sequence continues after the copied rows.
        column = table.autoincrement_column
        newest = sa.select(sa.func.coalesce(sa.func.max(column), 0) + 1).scalar_subquery()
        sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
        await writing.execute(sa.select(sa.func.setval(sequence, newest, sa.false())))


async def _digests(connection: AsyncConnection) -> set[tuple[str, str, str]]:
    rows = await connection.execute(sa.select(job_table.c.account, job_table.c.id, job_table.c.digest))
    return {(row.account, row.id, row.digest) for row in rows}
