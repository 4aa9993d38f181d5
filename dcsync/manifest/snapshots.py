"""Rows of snapshots for publishing, pruning, verifying and rebuilding."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId, RequestId, Snapshot, StoredFile
from dcsync.core.ports import KnownRequest
from dcsync.core.snapshot import Record
from dcsync.core.table import TableKind
from dcsync.manifest import checksums as seal
from dcsync.manifest.contents import (
    drop_unused,
    files_like,
    files_of,
    files_of_jobs,
    in_batches,
    kinds_of_jobs,
    store_files,
)
from dcsync.manifest.published import is_on_disk
from dcsync.manifest.rows import SNAPSHOT_COLUMNS, is_job, known_request, snapshot_record
from dcsync.manifest.schema import content as content_table
from dcsync.manifest.schema import job as job_table
from dcsync.manifest.schema import request as request_table
from dcsync.manifest.sql import SqlManifest
from dcsync.manifest.writer import add_request, moved_to, refuse_illegal, write_request, write_snapshot


class SnapshotRows:
    """Reads whole rows of snapshots, writes them back, and finds files of snapshots by their content."""

    def __init__(self, manifest: SqlManifest) -> None:
        self._manifest = manifest

    async def record(self, account: AccountName, job: JobId) -> Record | None:
        """Return the record of a job that is or was published. None for any other job."""
        return (await self.records(account, [job])).get(job)

    async def records(self, account: AccountName, jobs: Collection[JobId]) -> Mapping[JobId, Record]:
        """Return the records of those of these jobs that are or were published."""
        published = sa.and_(job_table.c.account == account, job_table.c.published_at.is_not(None))
        rows: list[sa.Row[Any]] = []
        requests: dict[str, KnownRequest] = {}
        async with self._manifest.reading() as connection:
            for batch in in_batches(jobs):
                query = sa.select(*SNAPSHOT_COLUMNS).where(published, job_table.c.id.in_(batch))
                rows += await connection.execute(query)
            for batch in in_batches({row.request for row in rows}):
                here = sa.and_(request_table.c.account == account, request_table.c.id.in_(batch))
                found = await connection.execute(sa.select(request_table).where(here))
                requests |= {row.id: known_request(row) for row in found}
        return {JobId(row.id): snapshot_record(row, requests[row.request]) for row in rows if row.request in requests}

    async def origin(self, account: AccountName, job: JobId) -> tuple[datetime, KnownRequest] | None:
        """Return the time when a job was first seen, and its data request."""
        async with self._manifest.reading() as connection:
            seen = (
                await connection.execute(
                    sa.select(job_table.c.first_seen_at, job_table.c.request).where(is_job(account, job))
                )
            ).one_or_none()
            if seen is None:
                return None
            here = sa.and_(request_table.c.account == account, request_table.c.id == seen.request)
            request = (await connection.execute(sa.select(request_table).where(here))).one_or_none()
        return None if request is None else (seen.first_seen_at, known_request(request))

    async def restore(
        self,
        account: AccountName,
        record: Record,
        *,
        files: Sequence[StoredFile] = (),
        sidecar_sha256: str | None = None,
        instead_of: JobId | None = None,
        is_newest: bool = False,
    ) -> None:
        """Write the rows of a snapshot back as they were: published or reduced with its files, or pruned without.

        Existing rows of the job are replaced. An existing request does not change, unless the snapshot is its newest
        one and says how the request was. `instead_of` is the short job ID of the same snapshot from a rebuild that did
        not know the full ID.
        """
        async with self._manifest.writing() as connection:
            at = record.request.first_seen_at or record.first_seen_at
            await add_request(connection, account, record.request, at)
            if is_newest and record.request.document is not None:
                await write_request(connection, account, record.request, record.request.document, at)
            if instead_of is not None:
                await _forget(connection, account, instead_of)
            await write_snapshot(connection, account, record, files, sidecar_sha256=sidecar_sha256)

    async def snapshot(self, account: AccountName, job: JobId) -> tuple[Snapshot, str | None] | None:
        """Return a snapshot that is in the mirror, and the hash of its sidecar, if known. None if it is not there."""
        return (await self.snapshots(account, [job])).get(job)

    async def snapshots(
        self, account: AccountName, jobs: Collection[JobId]
    ) -> Mapping[JobId, tuple[Snapshot, str | None]]:
        """Return the same for several jobs. Those that are not in the mirror are left out."""
        query = sa.select(*SNAPSHOT_COLUMNS).where(job_table.c.account == account, is_on_disk())
        rows: list[sa.Row[Any]] = []
        async with self._manifest.reading() as connection:
            for batch in in_batches(jobs):
                rows += await connection.execute(query.where(job_table.c.id.in_(batch)))
            files = await files_of_jobs(connection, account, jobs)
        return {
            JobId(row.id): (
                Snapshot(
                    job=JobId(row.id),
                    request=RequestId(row.request),
                    folder=row.folder,
                    completed_at=row.completed_at,
                    files=files.get(JobId(row.id), ()),
                ),
                row.sidecar_sha256,
            )
            for row in rows
        }

    async def kinds(self, account: AccountName, jobs: Collection[JobId]) -> set[tuple[str, TableKind | None]]:
        """Return Autodesk's name and the recorded kind of every file in these snapshots, each pair once."""
        async with self._manifest.reading() as connection:
            return await kinds_of_jobs(connection, account, jobs)

    async def copies(
        self, account: AccountName, contents: Collection[str]
    ) -> Mapping[str, Sequence[tuple[JobId, StoredFile]]]:
        """Return, for each SHA-256, every file of a published snapshot with that content, and its job."""
        found: dict[str, list[tuple[JobId, StoredFile]]] = {sha256: [] for sha256 in contents}
        jobs = sa.select(job_table.c.id, job_table.c.files).where(job_table.c.account == account)
        async with self._manifest.reading() as connection:
            for batch in in_batches(contents):
                for row, stored in await files_like(connection, content_table.c.sha256.in_(batch), jobs):
                    found[stored.sha256].append((JobId(row.id), stored))
        return found

    async def note_replaced(self, account: AccountName, job: JobId, name: str, *, mtime_ns: int, inode: int) -> None:
        """Record that a file of a snapshot was replaced on the disk by a file with the same content."""
        async with self._manifest.writing() as connection:
            files = [
                replace(stored, mtime_ns=mtime_ns, inode=inode) if stored.name == name else stored
                for stored in await files_of(connection, account, job)
            ]
            values = await store_files(connection, files)
            await connection.execute(sa.update(job_table).where(is_job(account, job)).values(**values))
            await seal.seal_job(connection, account, job)

    async def record_pruned(self, account: AccountName, jobs: Collection[JobId], *, at: datetime) -> None:
        """Record in one transaction that snapshots were pruned. Raises `IllegalTransition`, having changed nothing."""
        async with self._manifest.writing() as connection:
            await refuse_illegal(connection, account, jobs, JobState.PRUNED)
            for batch in in_batches(jobs):
                here = sa.and_(job_table.c.account == account, job_table.c.id.in_(batch))
                await connection.execute(sa.update(job_table).where(here).values(**moved_to(JobState.PRUNED, at)))
                await seal.seal_jobs(connection, account, batch)

    async def forget_unused(self) -> None:
        """Remove the files that no snapshot lists."""
        async with self._manifest.writing() as connection:
            await drop_unused(connection)


async def _forget(connection: AsyncConnection, account: AccountName, job: JobId) -> None:
    """Remove a job, and its data request if it has no other job."""
    request = await connection.scalar(sa.select(job_table.c.request).where(is_job(account, job)))
    await connection.execute(sa.delete(job_table).where(is_job(account, job)))
    others = sa.select(job_table.c.id).where(job_table.c.account == account, job_table.c.request == request).limit(1)
    if await connection.scalar(others) is None:
        await connection.execute(
            sa.delete(request_table).where(request_table.c.account == account, request_table.c.id == request)
        )
