"""Give the rows of an account another name, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.core.model import AccountName
from dcsync.manifest import checksums
from dcsync.manifest.damage import moved_damage
from dcsync.manifest.schema import account as account_table
from dcsync.manifest.schema import job as job_table
from dcsync.manifest.schema import meta as meta_table
from dcsync.manifest.schema import metadata
from dcsync.manifest.sql import SqlManifest
from dcsync.manifest.state import write_value

#: Stored values of an account that name its folders. The next run stores them again.
_NAMING_FOLDERS = frozenset({"broken", "latest"})


#: The key of the renames on the disk that are not recorded yet: `[[from, to], …]`.
RENAMING = "renaming"


async def rename_account(
    manifest: SqlManifest, old: AccountName, new: AccountName, *, folders: Mapping[str, str]
) -> None:
    """Move every row of an account to another name. Rows that the new name has already are deleted.

    `folders` has the new path of each snapshot's folder that was moved. `RENAMING` is deleted in the same transaction.
    """
    async with manifest.writing() as connection:
        await _delete_rows(connection, new)
        await _move_jobs(connection, old, new, folders)
        for table in metadata.sorted_tables:
            if "account" in table.columns and table is not job_table:
                await connection.execute(sa.update(table).where(table.c.account == old).values(account=new))
        await connection.execute(sa.update(account_table).where(account_table.c.name == old).values(name=new))
        await connection.execute(sa.delete(job_table).where(job_table.c.account == old))
        await _place_jobs(connection, new)
        await _move_values(connection, old, new, folders)
        await write_value(connection, RENAMING, None)
        await checksums.seal_all(connection)


async def _delete_rows(connection: AsyncConnection, account: AccountName) -> None:
    for table in reversed(metadata.sorted_tables):
        if "account" in table.columns:
            await connection.execute(sa.delete(table).where(table.c.account == account))
    await connection.execute(sa.delete(account_table).where(account_table.c.name == account))
    await _delete_values(connection, account)


#: Marks the folder of a moved row until the old row is gone: two rows never have the same folder.
_MOVING = "\x01"


async def _move_jobs(
    connection: AsyncConnection, old: AccountName, new: AccountName, folders: Mapping[str, str]
) -> None:
    """Copy the rows of jobs. The rows of their files refer to them, so both exist for a while."""
    names = [column.name for column in job_table.columns]
    for row in (await connection.execute(sa.select(job_table).where(job_table.c.account == old))).all():
        values = dict(zip(names, row, strict=True))
        if row.folder is not None:
            values["folder"] = f"{_MOVING}{folders.get(row.folder, row.folder)}"
        await connection.execute(sa.insert(job_table).values({**values, "account": new}))


async def _place_jobs(connection: AsyncConnection, account: AccountName) -> None:
    folder = job_table.c.folder
    await connection.execute(
        sa.update(job_table)
        .where(job_table.c.account == account, folder.is_not(None))
        .values(folder=sa.func.substr(folder, len(_MOVING) + 1))
    )


async def _move_values(
    connection: AsyncConnection, old: AccountName, new: AccountName, folders: Mapping[str, str]
) -> None:
    for key, value in (await connection.execute(sa.select(meta_table.c.key, meta_table.c.value))).all():
        kind, *rest = key.split(":", 2)
        if kind not in _NAMING_FOLDERS and rest[:1] == [old]:
            # Known damage stays known: until the next verify, nothing else would tell of it.
            moved = moved_damage(value, folders) if kind == "damage" else value
            await write_value(connection, ":".join([kind, new, *rest[1:]]), moved)
    await _delete_values(connection, old)


async def _delete_values(connection: AsyncConnection, account: AccountName) -> None:
    for key in (await connection.scalars(sa.select(meta_table.c.key))).all():
        if key.split(":", 2)[1:2] == [account]:
            await connection.execute(sa.delete(meta_table).where(meta_table.c.key == key))
