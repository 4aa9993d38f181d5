"""The revisions of the schema, and which one a manifest has."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

#: The revisions that this version knows, oldest first. Any other revision was written by a newer dcsync.
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
#: The oldest revision that a command can read without migrating it. Such a command leaves out the columns that were
#: added since then, and reads files with `dcsync.manifest.older`.
OLDEST_READABLE = "0006"
#: The key in `AsyncConnection.info`.
_IS_NEWEST = "dcsync_is_newest"


async def revision(connection: AsyncConnection) -> str | None:
    """Return the revision of a manifest. None for an empty database.

    An open manifest never gets an older schema. A connection that has read the newest one does not ask again.
    """
    if _IS_NEWEST in connection.info:
        return REVISIONS[-1]
    if not await has_table(connection, "alembic_version"):
        return None
    found: str | None = await connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    if found == REVISIONS[-1]:
        connection.info[_IS_NEWEST] = True
    return found


async def has_table(connection: AsyncConnection, name: str) -> bool:
    """Say whether a table exists."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name"
    if connection.dialect.name == "postgresql":
        query = "SELECT 1 WHERE to_regclass(:name) IS NOT NULL"
    return await connection.scalar(sa.text(query), {"name": name}) is not None
