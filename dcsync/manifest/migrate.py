"""Migrate a manifest to the newest schema, in one transaction, on SQLite and on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.errors import ManifestNewer
from dcsync.manifest import checksums as seal
from dcsync.manifest import schema
from dcsync.manifest.revisions import REVISIONS, revision


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
