"""The files of snapshots in a manifest that no run has migrated yet. Commands that only read use it as it is.

Before schema 0008, the table `file` had a row for each file of each snapshot.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.core.model import ARCHIVE_NAME, AccountName, JobId, RequestId, StoredFile
from dcsync.manifest.revisions import revision
from dcsync.manifest.rows import CONTENT_COLUMNS, stored_file
from dcsync.manifest.schema import header as header_table
from dcsync.manifest.schema import job as job_table

#: The first schema with the kind of each table, and the first one that stores each distinct file once.
_KINDS_SINCE, _CONTENTS_SINCE = "0007", "0008"
_FILE = sa.table("file", *map(sa.column, ("account", "job", "how", *CONTENT_COLUMNS)))


async def is_older(connection: AsyncConnection) -> bool:
    """Say whether the manifest has the table `file`."""
    return await _version(connection) < _CONTENTS_SINCE


async def files_of_jobs(
    connection: AsyncConnection, account: AccountName, jobs: Collection[JobId]
) -> dict[JobId, tuple[StoredFile, ...]]:
    """Return the files of snapshots, by their name on disk. Jobs without files are left out."""
    has_kinds = await _version(connection) >= _KINDS_SINCE
    columns = [sa.null() if name == "kind" and not has_kinds else _FILE.c[name] for name in CONTENT_COLUMNS]
    query = sa.select(_FILE.c.how, *columns, header_table.c.names, header_table.c.is_cut).select_from(
        _FILE.join(header_table, header_table.c.digest == _FILE.c.header, isouter=True)
    )
    found: defaultdict[JobId, list[StoredFile]] = defaultdict(list)
    for job in jobs:
        for how, *row in await connection.execute(query.where(_FILE.c.account == account, _FILE.c.job == job)):
            found[job].append(stored_file(tuple(row), how))
    return {job: tuple(sorted(files, key=lambda stored: stored.name)) for job, files in found.items()}


async def headers_of_tables(
    connection: AsyncConnection, account: AccountName
) -> Mapping[tuple[RequestId, str], Collection[str | None]]:
    """Return the digests of all headers that each file has in the snapshots of a request, by its name on disk."""
    same = sa.and_(job_table.c.account == _FILE.c.account, job_table.c.id == _FILE.c.job)
    query = sa.select(job_table.c.request, _FILE.c.name, _FILE.c.header).join_from(_FILE, job_table, same).distinct()
    found: defaultdict[tuple[RequestId, str], set[str | None]] = defaultdict(set)
    for request, name, header in await connection.execute(query.where(_FILE.c.account == account)):
        found[RequestId(request), name].add(header)
    return found


def holds_table() -> sa.ColumnElement[bool]:
    """Return the condition that the snapshot of a row of `job` holds a table (`completeness.holds_rows`)."""
    original = sa.func.lower(_FILE.c.original)
    is_table = sa.and_(original.like('%.csv"'), original.not_like('"schemas/%'))
    return sa.exists().where(
        _FILE.c.account == job_table.c.account,
        _FILE.c.job == job_table.c.id,
        sa.or_(is_table, _FILE.c.original == json.dumps(ARCHIVE_NAME)),
    )


async def _version(connection: AsyncConnection) -> str:
    return await revision(connection) or ""
