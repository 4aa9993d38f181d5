"""Published snapshots that hold no table. Versions before 0.3 published such snapshots."""

from __future__ import annotations

import sqlalchemy as sa

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.manifest.schema import job as job_table
from dcsync.manifest.sql import SqlManifest, holds_table


async def hollow_snapshots(manifest: SqlManifest, account: AccountName) -> frozenset[JobId]:
    """Return the published snapshots of an account without a table and without the ZIP."""
    published = sa.and_(job_table.c.account == account, job_table.c.state == JobState.PUBLISHED.value)
    async with manifest.reading() as connection:
        query = sa.select(job_table.c.id).where(published, sa.not_(await holds_table(connection)))
        return frozenset(JobId(job) for job in await connection.scalars(query))
