"""Read published snapshots for diff, the report and the table warnings."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.core import summary
from dcsync.core.anomaly import TableWarning
from dcsync.core.coverage import Days
from dcsync.core.kinds import parse_kind
from dcsync.core.lifecycle import ON_DISK, WAS_PUBLISHED, JobState
from dcsync.core.model import AccountName, How, JobId, RequestId, Snapshot, StoredFile
from dcsync.core.summary import PastSnapshot, Summary
from dcsync.core.table import TableFacts, TableKind, is_table
from dcsync.manifest.schema import file as file_table
from dcsync.manifest.schema import header as header_table
from dcsync.manifest.schema import job as job_table
from dcsync.manifest.schema import request as request_table

#: The first schema with the kind of each table.
_KINDS_SINCE = "0007"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """A published snapshot, as an event describes it."""

    job: JobId
    request: RequestId
    description: str
    folder: str
    completed_at: datetime | None
    published_at: datetime
    fetched_bytes: int
    linked_bytes: int
    #: Tables that look wrong compared with the previous snapshots.
    warnings: tuple[TableWarning, ...] = ()


class History:
    """Reads only. Snapshots are sorted by the completion time of their jobs. Those without a time come first."""

    def __init__(self, read: Callable[[], AbstractAsyncContextManager[AsyncConnection]]) -> None:
        self._read = read

    async def snapshots(self, account: AccountName) -> Sequence[PastSnapshot]:
        """Return every snapshot of an account, oldest first, including reduced and pruned ones."""
        columns = job_table.c
        query = (
            sa.select(job_table)
            .where(
                columns.account == account,
                columns.state.in_([state.value for state in WAS_PUBLISHED]),
                columns.folder.is_not(None),
            )
            .order_by(columns.completed_at.nulls_first(), columns.published_at, columns.id)
        )
        async with self._read() as connection:
            rows = (await connection.execute(query)).all()
            uncounted = await _totals(connection, account, [row.id for row in rows if row.summary is None])
        return [
            PastSnapshot(
                job=JobId(row.id),
                request=RequestId(row.request),
                folder=row.folder,
                completed_at=row.completed_at,
                published_at=row.published_at,
                is_pruned=row.state == JobState.PRUNED.value,
                is_reduced=row.state == JobState.REDUCED.value,
                fetched_bytes=row.fetched_bytes or 0,
                summary=uncounted.get(row.id, Summary(files=0, size=0))
                if row.summary is None
                else summary.parse(row.summary),
            )
            for row in rows
        ]

    async def snapshot(self, account: AccountName, job: JobId) -> Snapshot | None:
        """Return a snapshot with the files that it has in the mirror."""
        columns = job_table.c
        async with self._read() as connection:
            row = (
                await connection.execute(
                    sa.select(columns.request, columns.folder, columns.completed_at).where(
                        columns.account == account, columns.id == job, is_on_disk()
                    )
                )
            ).one_or_none()
            if row is None:
                return None
            return Snapshot(
                job=job,
                request=RequestId(row.request),
                folder=row.folder,
                completed_at=row.completed_at,
                files=await files_of(connection, account, job),
            )

    async def tables_before(
        self, account: AccountName, request: RequestId, completed_at: datetime | None, *, limit: int
    ) -> Sequence[Mapping[str, TableFacts | None]]:
        """Return the tables of the request's whole snapshots before that time, newest first, by original name."""
        columns = job_table.c
        query = (
            sa.select(columns.id)
            .where(columns.account == account, columns.request == request, columns.state == JobState.PUBLISHED.value)
            .order_by(columns.completed_at.desc().nulls_last(), columns.published_at.desc())
            .limit(limit)
        )
        if completed_at is not None:
            query = query.where(columns.completed_at < completed_at)
        async with self._read() as connection:
            jobs = (await connection.scalars(query)).all()
            return [
                {
                    stored.original: stored.table
                    for stored in await files_of(connection, account, job)
                    if is_table(stored.original)
                }
                for job in jobs
            ]

    async def with_windows(self, account: AccountName, jobs: Collection[JobId]) -> set[JobId]:
        """Return those of these snapshots that have a table with only the rows of a period."""
        columns = file_table.c
        async with self._read() as connection:
            named = columns.key.like("activities\\_%.csv", escape="\\")
            is_window: sa.ColumnElement[bool] = named
            if await _has_kinds(connection):
                is_window = sa.or_(columns.kind == TableKind.WINDOW.value, sa.and_(columns.kind.is_(None), named))
            here = sa.and_(columns.account == account, columns.job.in_(sorted(jobs)))
            found = await connection.scalars(sa.select(columns.job).where(here, is_window).distinct())
            return {JobId(job) for job in found}

    async def recorded_windows(self, account: AccountName) -> Mapping[JobId, Days]:
        """Return the days of the window tables of each snapshot on disk that has recorded them."""
        columns = job_table.c
        query = sa.select(columns.id, columns.summary).where(
            columns.account == account, is_on_disk(), columns.summary.contains('"window"', autoescape=True)
        )
        async with self._read() as connection:
            found = {JobId(job): summary.parse(text).window for job, text in await connection.execute(query)}
        return {job: window for job, window in found.items() if window is not None}

    async def row_counts(
        self, account: AccountName, jobs: Collection[JobId], tables: Collection[str]
    ) -> Mapping[str, Mapping[JobId, int]]:
        """Return the known row counts of tables in these snapshots, by original name."""
        columns = file_table.c
        found: defaultdict[str, dict[JobId, int]] = defaultdict(dict)
        async with self._read() as connection:
            for job in jobs:
                rows = await connection.execute(
                    sa.select(columns.original, columns.rows).where(
                        columns.account == account, columns.job == job, columns.rows.is_not(None)
                    )
                )
                for original, counted in rows:
                    table = json.loads(original)
                    if table in tables:
                        found[table][job] = counted
        return found

    async def headers(self, account: AccountName) -> Mapping[tuple[RequestId, str], Sequence[tuple[str, ...] | None]]:
        """Return every header of each table in the mirror's snapshots of a request, by its name on disk.

        None stands for snapshots without a recorded header and for truncated headers.
        """
        query = (
            sa.select(job_table.c.request, file_table.c.name, file_table.c.header)
            .join(job_table, sa.and_(job_table.c.account == file_table.c.account, job_table.c.id == file_table.c.job))
            .where(file_table.c.account == account, is_on_disk())
            .distinct()
        )
        async with self._read() as connection:
            rows = (await connection.execute(query)).all()
            known = {
                row.digest: None if row.is_cut else tuple(json.loads(row.names))
                for row in await connection.execute(sa.select(header_table))
            }
        found: defaultdict[tuple[RequestId, str], list[tuple[str, ...] | None]] = defaultdict(list)
        for request, name, digest in rows:
            if is_table(name):
                found[RequestId(request), name].append(known.get(digest))
        return found

    async def published_after(
        self, account: AccountName, moment: datetime, *, also: Sequence[str] = ()
    ) -> tuple[PublishedRow, ...]:
        """Return the snapshots of an account that were published after that time, and the jobs of `also`, in order."""
        return await self._published(account, sa.or_(job_table.c.published_at > moment, job_table.c.id.in_(also)))

    async def _published(self, account: AccountName, which: sa.ColumnElement[bool]) -> tuple[PublishedRow, ...]:
        query = (
            sa.select(job_table, request_table.c.description)
            .join(
                request_table,
                sa.and_(request_table.c.account == job_table.c.account, request_table.c.id == job_table.c.request),
                isouter=True,
            )
            .where(
                job_table.c.account == account,
                is_on_disk(),
                job_table.c.published_at.is_not(None),
                which,
            )
            .order_by(job_table.c.published_at, job_table.c.id)
        )
        async with self._read() as connection:
            return tuple(
                PublishedRow(
                    job=JobId(row.id),
                    request=RequestId(row.request),
                    description=row.description or "",
                    folder=row.folder,
                    completed_at=row.completed_at,
                    published_at=row.published_at,
                    fetched_bytes=row.fetched_bytes or 0,
                    linked_bytes=row.linked_bytes or 0,
                    warnings=() if row.summary is None else summary.parse(row.summary).warnings,
                )
                for row in await connection.execute(query)
            )

    async def published(self, account: AccountName, jobs: Sequence[JobId]) -> tuple[PublishedRow, ...]:
        """Return these snapshots of an account, in the order in which they were published."""
        return await self._published(account, job_table.c.id.in_(jobs)) if jobs else ()


def is_on_disk() -> sa.ColumnElement[bool]:
    """Return the condition for the rows of jobs that have a folder in the mirror."""
    return job_table.c.state.in_([state.value for state in ON_DISK])


async def files_of(connection: AsyncConnection, account: AccountName, job: JobId) -> tuple[StoredFile, ...]:
    """Return the files of a snapshot, by their name on disk."""
    query = file_rows(has_kinds=await _has_kinds(connection))
    rows = await connection.execute(query.where(file_table.c.account == account, file_table.c.job == job))
    # Sorted in Python, because the collation of a database may differ from the order of characters.
    return tuple(sorted((stored_file(row) for row in rows), key=lambda stored: stored.name))


async def kinds_of(connection: AsyncConnection, account: AccountName, job: JobId) -> dict[str, TableKind | None]:
    """Return the recorded kind of each file of a snapshot, by Autodesk's name."""
    kind = file_table.c.kind if await _has_kinds(connection) else sa.null().label("kind")
    query = sa.select(file_table.c.original, kind).where(file_table.c.account == account, file_table.c.job == job)
    return {json.loads(row.original): parse_kind(row.kind) for row in await connection.execute(query)}


async def _has_kinds(connection: AsyncConnection) -> bool:
    """Say whether the manifest records kinds. A command that only reads may open one of an older version."""
    version: str | None = await connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return version is not None and version >= _KINDS_SINCE


def file_rows(*, has_kinds: bool = True) -> sa.Select[Any]:
    """Return the query for rows of `stored_file`. Without `has_kinds`, from a manifest that does not record kinds."""
    columns = [column for column in file_table.columns if has_kinds or column.name != "kind"]
    unknown = [] if has_kinds else [sa.null().label("kind")]
    return sa.select(*columns, *unknown, header_table.c.names, header_table.c.is_cut).select_from(
        file_table.join(header_table, header_table.c.digest == file_table.c.header, isouter=True)
    )


async def record_headers(connection: AsyncConnection, files: Sequence[StoredFile]) -> None:
    """Add the headers of these files to the table that keeps each header once. Most exist already."""
    headers = {header_digest(stored.table): stored.table for stored in files if stored.table is not None}
    rows = [
        {"digest": digest, "names": json.dumps(facts.header), "is_cut": facts.is_cut}
        for digest, facts in headers.items()
    ]
    if rows:
        # Each database has its own statement for this. A query before the insert would race with other hosts.
        statement: sa.Insert = sqlite.insert(header_table).on_conflict_do_nothing()
        if connection.dialect.name == "postgresql":
            # Only imported if several hosts share the manifest, because the import takes 30 ms.
            from sqlalchemy.dialects import postgresql

            statement = postgresql.insert(header_table).on_conflict_do_nothing()
        await connection.execute(statement, rows)


def header_digest(facts: TableFacts) -> str:
    """Return the key of a header."""
    return hashlib.sha256(json.dumps([facts.is_cut, *facts.header]).encode()).hexdigest()[:32]


async def _totals(connection: AsyncConnection, account: AccountName, jobs: Sequence[str]) -> Mapping[str, Summary]:
    """Return the totals of snapshots that were published before the manifest had summaries."""
    if not jobs:
        return {}
    columns, wanted = file_table.c, set(jobs)
    rows = await connection.execute(
        sa.select(columns.job, sa.func.count(), sa.func.sum(columns.size), sa.func.sum(columns.rows))
        .where(columns.account == account)
        .group_by(columns.job)
    )
    return {
        job: Summary(files=files, size=int(size), rows=None if counted is None else int(counted))
        for job, files, size, counted in rows
        if job in wanted
    }


def stored_file(row: sa.Row[Any]) -> StoredFile:
    """Return the file of a row that is joined with its header."""
    table = None
    if row.names is not None:
        table = TableFacts(header=tuple(json.loads(row.names)), rows=row.rows, is_cut=row.is_cut)
    return StoredFile(
        name=row.name,
        original=json.loads(row.original),
        size=row.size,
        sha256=row.sha256,
        crc32=row.crc32,
        md5=row.md5,
        etag=row.etag,
        how=How(row.how),
        packed=row.packed,
        mtime_ns=row.mtime_ns,
        inode=None if row.inode is None else int(row.inode),
        table=table,
        kind=parse_kind(row.kind),
    )
