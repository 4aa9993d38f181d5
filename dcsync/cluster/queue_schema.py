"""procrastinate's tables in the manifest's database, migrated by its own scripts.

Its release notes ask for each script to run once, in the order of their names. `meta` has the name of the last one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.manifest.revisions import has_table
from dcsync.manifest.schema import meta

_KEY = "queue"


async def bring_up(connection: AsyncConnection) -> None:
    """Create or update the tables within the connection's transaction. The caller holds the migration lock."""
    from procrastinate.schema import SchemaManager

    scripts = await asyncio.to_thread(_scripts, SchemaManager.get_migrations_path())
    newest = scripts[-1][0]
    last = await connection.scalar(sa.select(meta.c.value).where(meta.c.key == _KEY))
    if last is not None and last >= newest:
        # A newer procrastinate on another host may have migrated them. It promises that they serve the older one, too.
        return
    if last is not None:
        pending = [text for name, text in scripts if name > last]
    elif await has_table(connection, "procrastinate_jobs"):
        pending = []
    else:
        pending = [SchemaManager.get_schema()]
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None  # noqa: S101 - it is open
    for statements in pending:
        # Not through SQLAlchemy: the script has several statements, with percent signs that are not parameters.
        await raw.driver_connection.execute(statements.encode())
    await connection.execute(sa.delete(meta).where(meta.c.key == _KEY))
    await connection.execute(sa.insert(meta).values(key=_KEY, value=newest))


def _scripts(folder: str) -> list[tuple[str, str]]:
    return [(path.name, path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("*.sql"))]
