"""Read published snapshots for diff, the report and the table warnings."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.core import summary
from dcsync.core.anomaly import TableWarning
from dcsync.core.coverage import Days
from dcsync.core.diff import total_rows
from dcsync.core.lifecycle import ON_DISK, WAS_PUBLISHED, JobState
from dcsync.core.model import AccountName, JobId, RequestId, Snapshot, StoredFile
from dcsync.core.names import clash_key
from dcsync.core.summary import PastSnapshot, Summary
from dcsync.core.table import TableFacts, TableKind, is_table
from dcsync.manifest.contents import files_of, files_of_jobs, headers_in_order, headers_of_tables
from dcsync.manifest.rows import SNAPSHOT_COLUMNS
from dcsync.manifest.schema import header as header_table
from dcsync.manifest.schema import job as job_table
from dcsync.manifest.schema import request as request_table


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
            sa.select(*SNAPSHOT_COLUMNS)
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
            jobs = [JobId(job) for job in await connection.scalars(query)]
            files = await files_of_jobs(connection, account, jobs)
        return [
            {stored.original: stored.table for stored in files.get(job, ()) if is_table(stored.original)}
            for job in jobs
        ]

    async def with_windows(self, account: AccountName, jobs: Collection[JobId]) -> set[JobId]:
        """Return those of these snapshots that have a table with only the rows of a period."""
        async with self._read() as connection:
            files = await files_of_jobs(connection, account, jobs)
        return {job for job, stored in files.items() if any(map(_is_window, stored))}

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
        async with self._read() as connection:
            files = await files_of_jobs(connection, account, jobs)
        found: defaultdict[str, dict[JobId, int]] = defaultdict(dict)
        for job, stored_files in files.items():
            for stored in stored_files:
                if stored.original in tables and stored.table is not None and stored.table.rows is not None:
                    found[stored.original][job] = stored.table.rows
        return found

    async def headers(self, account: AccountName) -> Mapping[tuple[RequestId, str], Sequence[tuple[str, ...] | None]]:
        """Return every header of each table in the mirror's snapshots of a request, by its name on disk.

        None stands for snapshots without a recorded header and for truncated headers.
        """
        async with self._read() as connection:
            tables = await headers_of_tables(connection, account)
            headers = await self._headers(connection)
        return {
            (request, name): [headers.get(digest) for digest in digests]
            for (request, name), digests in tables.items()
            if is_table(name)
        }

    async def header_runs(
        self, account: AccountName, names: Collection[str], below: Mapping[RequestId, str]
    ) -> Mapping[tuple[RequestId, str], Sequence[tuple[str, tuple[str, ...] | None]]]:
        """Return from which snapshot on a table has which header, by its name on disk, in the order of the folders.

        `below` has the folder of each data request, and the folders are those below it. None is an unknown header, as
        in `headers`. A manifest of an older version has no answer.
        """
        async with self._read() as connection:
            runs = await headers_in_order(connection, account, names, below)
            headers = await self._headers(connection) if runs else {}
        return {key: [(folder, headers.get(digest)) for folder, digest in found] for key, found in runs.items()}

    @staticmethod
    async def _headers(connection: AsyncConnection) -> Mapping[str | None, tuple[str, ...] | None]:
        """Return the headers by their digest. None stands for a truncated one."""
        rows = await connection.execute(sa.select(header_table))
        return {row.digest: None if row.is_cut else tuple(json.loads(row.names)) for row in rows}

    async def published_after(
        self, account: AccountName, moment: datetime, *, also: Sequence[str] = ()
    ) -> tuple[PublishedRow, ...]:
        """Return the snapshots of an account that were published after that time, and the jobs of `also`, in order."""
        return await self._published(account, sa.or_(job_table.c.published_at > moment, job_table.c.id.in_(also)))

    async def _published(self, account: AccountName, which: sa.ColumnElement[bool]) -> tuple[PublishedRow, ...]:
        query = (
            sa.select(*SNAPSHOT_COLUMNS, request_table.c.description)
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

    async def fingerprint(self, account: AccountName) -> str:
        """Return a value that changes with any job, snapshot or data request of an account."""
        found = hashlib.sha256()
        async with self._read() as connection:
            for table in (job_table, request_table):
                query = sa.select(table.c.digest).where(table.c.account == account).order_by(table.c.id)
                found.update(repr([*await connection.scalars(query)]).encode())
        return found.hexdigest()

    async def published(self, account: AccountName, jobs: Sequence[JobId]) -> tuple[PublishedRow, ...]:
        """Return these snapshots of an account, in the order in which they were published."""
        return await self._published(account, job_table.c.id.in_(jobs)) if jobs else ()


def is_on_disk() -> sa.ColumnElement[bool]:
    """Return the condition for the rows of jobs that have a folder in the mirror."""
    return job_table.c.state.in_([state.value for state in ON_DISK])


def _is_window(stored: StoredFile) -> bool:
    """Say whether a file is a table with only the rows of a period. Older versions recorded no kinds."""
    if stored.kind is not None:
        return stored.kind is TableKind.WINDOW
    key = clash_key(stored.name)
    return key.startswith("activities_") and is_table(key)


async def _totals(connection: AsyncConnection, account: AccountName, jobs: Sequence[str]) -> Mapping[str, Summary]:
    """Return the totals of snapshots that were published before the manifest had summaries."""
    files = await files_of_jobs(connection, account, [JobId(job) for job in jobs])
    return {
        job: Summary(files=len(stored), size=sum(one.size for one in stored), rows=total_rows(stored))
        for job, stored in files.items()
    }
