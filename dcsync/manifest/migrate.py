"""Migrate a manifest to the newest schema, in one transaction, on SQLite and on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.errors import ManifestNewer
from dcsync.manifest import checksums as seal
from dcsync.manifest import schema

#: The revisions that this version knows, oldest first. Any other revision was written by a newer dcsync.
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
#: The oldest revision that a command can read without migrating it. Such a command leaves out the columns that were
#: added since then, and reads files with `dcsync.manifest.older`.
OLDEST_READABLE = "0006"


async def revision(connection: AsyncConnection) -> str | None:
    """Return the revision of a manifest. None for an empty database."""
    if not await has_table(connection, "alembic_version"):
        return None
    found: str | None = await connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return found


async def has_table(connection: AsyncConnection, name: str) -> bool:
    """Say whether a table exists."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name"
    if connection.dialect.name == "postgresql":
        query = "SELECT 1 WHERE to_regclass(:name) IS NOT NULL"
    return await connection.scalar(sa.text(query), {"name": name}) is not None


async def refuse_newer(connection: AsyncConnection, shown: str) -> str | None:
    """Return the revision. Raise `ManifestNewer` if this version does not know it."""
    found = await revision(connection)
    if found is not None and found not in REVISIONS:
        message = f"{shown} has schema {found}; this dcsync supports schemas up to {REVISIONS[-1]}"
        raise ManifestNewer(message)
    return found


async def migrate(connection: AsyncConnection) -> bool:
    """Migrate and seal a manifest in the connection's transaction. Return whether it was out of date."""
    if await revision(connection) == REVISIONS[-1]:
        return False
    # Only imported if there is something to migrate, because the import takes 60 ms.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations").replace("%", "%%"))

    def upgrade(sync_connection: sa.Connection) -> None:
        config.attributes["connection"] = sync_connection
        command.upgrade(config, "head")

    await connection.run_sync(upgrade)
    await seal.seal_all(connection)
    return True
