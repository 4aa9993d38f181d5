"""The manifest on SQLAlchemy Core. Every write is one transaction, which is durable when the method returns."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, DataRequest, JobId, RequestId, Snapshot, StoredFile
from dcsync.core.ports import AccountFacts, KnownJob, KnownRequest
from dcsync.core.snapshot import Record
from dcsync.manifest import checksums as seal
from dcsync.manifest import older
from dcsync.manifest.backend import Backend, Guard
from dcsync.manifest.contents import files_like, files_of
from dcsync.manifest.published import History, is_on_disk
from dcsync.manifest.revisions import OLDEST_READABLE, REVISIONS, revision
from dcsync.manifest.rows import (
    JOB_COLUMNS,
    REQUEST_COLUMNS,
    is_job,
    known_job,
    known_request,
)
from dcsync.manifest.schema import account as account_table
from dcsync.manifest.schema import content as content_table
from dcsync.manifest.schema import job as job_table
from dcsync.manifest.schema import meta as meta_table
from dcsync.manifest.schema import request as request_table
from dcsync.manifest.schema import run as run_table
from dcsync.manifest.sqlite import sqlite_backend
from dcsync.manifest.writer import add_account, moved_to, refuse_illegal, write_jobs, write_request, write_snapshot


@asynccontextmanager
async def open_manifest(path: Path, *, read_only: bool = False) -> AsyncIterator[SqlManifest]:
    """Open the manifest in a file and migrate it to the newest schema. The end of the block closes it.

    With `read_only` nothing is changed or migrated. Raises `ManifestNewer`, `ManifestCorrupt`, and `ManifestError`.
    """
    async with sqlite_backend(path, read_only=read_only) as backend:
        yield SqlManifest(backend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Totals over all snapshots that an account ever published."""

    snapshots: int = 0
    calls: int = 0
    fetched_bytes: int = 0
    linked_bytes: int = 0


class SqlManifest:
    """The database of known jobs, files and runs.

    Safe for concurrent use from one event loop. Cancelling a write rolls all of it back.
    """

    def __init__(
        self, backend: Backend, *, guard: Guard | None = None, connection: AsyncConnection | None = None
    ) -> None:
        self.backend = backend
        self._guard = guard
        #: The connection of `at_one_moment`.
        self._connection = connection

    def guarded(self, guard: Guard) -> SqlManifest:
        """Return this manifest with every write checked by `guard`, in the write's own transaction."""
        return SqlManifest(self.backend, guard=guard)

    @asynccontextmanager
    async def at_one_moment(self) -> AsyncIterator[SqlManifest]:
        """Lend this manifest to read one thing after another as of one moment. One transaction costs less than many."""
        async with self.reading() as connection:
            yield SqlManifest(self.backend, guard=self._guard, connection=connection)

    async def check_guard(self) -> None:
        """Raise `Fenced` if a write would raise it. Without a guard, do nothing."""
        if self._guard is not None:
            async with self.reading() as connection:
                await self._guard.check(connection)

    async def check_rows(self) -> None:
        """Compare every row with its digest, as a start does once a day. It blocks no reader and no writer.

        Raises `ManifestCorrupt`, and the next start of a single host then checks again and rebuilds the manifest.
        """
        await self.backend.check_rows()

    @property
    def history(self) -> History:
        """The published snapshots, to read."""
        return History(self.reading)

    async def is_current(self) -> bool:
        """Say whether the schema has all tables. A manifest that is open for reading may have an older schema."""
        async with self.reading() as connection:
            return await revision(connection) in REVISIONS[REVISIONS.index(OLDEST_READABLE) :]

    async def instance(self) -> str | None:
        """Return the ID of the mirror that this manifest belongs to."""
        async with self.reading() as connection:
            return await connection.scalar(sa.select(meta_table.c.value).where(meta_table.c.key == "instance"))

    async def set_instance(self, identifier: str) -> None:
        """Bind the manifest to a mirror."""
        async with self.writing() as connection:
            await connection.execute(sa.delete(meta_table).where(meta_table.c.key == "instance"))
            await connection.execute(sa.insert(meta_table).values(key="instance", value=identifier))
            await seal.seal_meta(connection)

    async def knows_snapshots(self) -> bool:
        """Say whether anything was ever published under this manifest."""
        async with self.reading() as connection:
            query = sa.select(sa.literal(1)).select_from(job_table)
            found = await connection.scalar(query.where(is_on_disk()).limit(1))
            return found is not None

    async def accounts(self) -> Sequence[AccountName]:
        """Return the names of all accounts that were ever polled or adopted."""
        async with self.reading() as connection:
            rows = await connection.scalars(sa.union(sa.select(account_table.c.name), sa.select(job_table.c.account)))
            return [AccountName(row) for row in sorted(rows)]

    async def facts(self, account: AccountName) -> AccountFacts:
        """Return the facts of an account. A new account has empty facts."""
        async with self.reading() as connection:
            row = (
                await connection.execute(sa.select(account_table).where(account_table.c.name == account))
            ).one_or_none()
        if row is None:
            return AccountFacts()
        values = row._asdict()
        del values["name"]
        return AccountFacts(**values)

    async def learn(self, account: AccountName, facts: AccountFacts, *, before: AccountFacts | None = None) -> None:
        """Replace the facts of an account. With `before`, replace only the facts that differ from it.

        Facts that another host has learned since `before` stay.
        """
        values = {name: getattr(facts, name) for name in AccountFacts.__slots__}
        if before is not None:
            values = {name: value for name, value in values.items() if value != getattr(before, name)}
            if not values:
                return
        async with self.writing() as connection:
            changed = await connection.execute(
                sa.update(account_table).where(account_table.c.name == account).values(**values)
            )
            if changed.rowcount == 0:
                await connection.execute(sa.insert(account_table).values(name=account, **values))

    async def jobs(
        self, account: AccountName, *, states: Collection[JobState] | None = None
    ) -> Mapping[JobId, KnownJob]:
        """Return all jobs of an account, or only those in `states`: of thousands of jobs, few are open."""
        query = sa.select(*JOB_COLUMNS).where(job_table.c.account == account)
        if states is not None:
            query = query.where(job_table.c.state.in_([state.value for state in states]))
        async with self.reading() as connection:
            return {JobId(row[0]): known_job(row) for row in await connection.execute(query)}

    async def job(self, account: AccountName, job: JobId) -> KnownJob | None:
        """Return one job, or None if it is not known."""
        async with self.reading() as connection:
            row = (await connection.execute(sa.select(*JOB_COLUMNS).where(is_job(account, job)))).one_or_none()
            return None if row is None else known_job(row)

    async def requests(self, account: AccountName) -> Mapping[RequestId, KnownRequest]:
        """Return all data requests of an account."""
        async with self.reading() as connection:
            rows = await connection.execute(sa.select(*REQUEST_COLUMNS).where(request_table.c.account == account))
            return {RequestId(row.id): known_request(row) for row in rows}

    async def request(self, account: AccountName, request: RequestId) -> KnownRequest | None:
        """Return one data request, or None if it is not known."""
        here = sa.and_(request_table.c.account == account, request_table.c.id == request)
        async with self.reading() as connection:
            row = (await connection.execute(sa.select(*REQUEST_COLUMNS).where(here))).one_or_none()
            return None if row is None else known_request(row)

    async def record_poll(
        self,
        account: AccountName,
        *,
        jobs: Sequence[KnownJob],
        requests: Sequence[tuple[KnownRequest, DataRequest | None]],
        at: datetime,
    ) -> None:
        """Store the result of one complete poll in one transaction, so that an interrupted poll leaves no gap."""
        async with self.writing() as connection:
            await add_account(connection, account)
            for known, document in requests:
                await write_request(connection, account, known, document, at)
            await write_jobs(connection, account, jobs, at)
            await connection.execute(
                sa.update(account_table).where(account_table.c.name == account).values(last_poll_at=at)
            )

    async def describe_request(
        self, account: AccountName, known: KnownRequest, document: DataRequest, *, at: datetime
    ) -> None:
        """Store a data request as Autodesk returned it after a change."""
        async with self.writing() as connection:
            await add_account(connection, account)
            await write_request(connection, account, known, document, at)

    async def move(  # noqa: PLR0913 - a row's columns
        self,
        account: AccountName,
        job: JobId,
        state: JobState,
        *,
        at: datetime,
        attempts: int | None = None,
        next_try_at: datetime | None = None,
        reason_code: str | None = None,
        reason: str | None = None,
        folder: str | None = None,
    ) -> None:
        """Change the state of a job. The folder stays once it is set. Raises `IllegalTransition`."""
        async with self.writing() as connection:
            await refuse_illegal(connection, account, [job], state)
            values = moved_to(state, at) | {
                "next_try_at": next_try_at,
                "reason_code": reason_code,
                "reason": reason,
            }
            if attempts is not None:
                values["attempts"] = attempts
            if folder is not None:
                values["folder"] = folder
            await connection.execute(sa.update(job_table).where(is_job(account, job)).values(**values))
            await seal.seal_job(connection, account, job)

    async def publish(
        self, account: AccountName, record: Record, files: Sequence[StoredFile], *, sidecar_sha256: str | None = None
    ) -> None:
        """Record a published snapshot with its files. The snapshot counts as published when this returns.

        `sidecar_sha256` is the hash of `_dcsync.json`. None if the snapshot has no such file that can be trusted.
        """
        async with self.writing() as connection:
            await refuse_illegal(connection, account, [record.job.id], JobState.PUBLISHED)
            await write_snapshot(connection, account, record, files, sidecar_sha256=sidecar_sha256)

    async def record_run(  # noqa: PLR0913 - a row's columns
        self,
        account: AccountName,
        *,
        started_at: datetime,
        ended_at: datetime,
        published: int,
        failed: int,
        calls: int,
        fetched_bytes: int,
        linked_bytes: int,
        error_code: str | None,
    ) -> None:
        """Add a row for a run that published something or failed."""
        async with self.writing() as connection:
            await connection.execute(
                sa.insert(run_table).values(
                    account=account,
                    started_at=started_at,
                    ended_at=ended_at,
                    published=published,
                    failed=failed,
                    calls=calls,
                    fetched_bytes=fetched_bytes,
                    linked_bytes=linked_bytes,
                    error_code=error_code,
                )
            )

    async def snapshot_before(
        self, account: AccountName, request: RequestId, completed_at: datetime | None
    ) -> Snapshot | None:
        """Return the newest published snapshot of a request that completed before that time. None means any time.

        A snapshot without tables does not count.
        """
        query = _published(account, request)
        if completed_at is not None:
            query = query.where(job_table.c.completed_at < completed_at)
        async with self.reading() as connection:
            row = (await connection.execute(query.where(await holds_table(connection)).limit(1))).first()
            if row is None:
                return None
            return Snapshot(
                job=JobId(row.id),
                request=request,
                folder=row.folder,
                completed_at=row.completed_at,
                files=await files_of(connection, account, JobId(row.id)),
            )

    async def copies(
        self, account: AccountName, request: RequestId, stored: StoredFile, *, limit: int
    ) -> Sequence[Snapshot]:
        """Return published snapshots of a request that have an equal file, newest first, each with that file alone.

        Equal means the same names, size and CRC32.
        """
        jobs = _published(account, request).add_columns(job_table.c.files)
        name, original = content_table.c.name == stored.name, content_table.c.original == json.dumps(stored.original)
        equal = sa.and_(name, original, content_table.c.size == stored.size, content_table.c.crc32 == stored.crc32)
        async with self.reading() as connection:
            return [
                Snapshot(
                    job=JobId(row.id),
                    request=request,
                    folder=row.folder,
                    completed_at=row.completed_at,
                    files=(found,),
                )
                for row, found in (await files_like(connection, equal, jobs))[:limit]
            ]

    async def newest_snapshot(self, account: AccountName, request: RequestId) -> str | None:
        """Return the folder of the newest published snapshot of a request that holds a table."""
        async with self.reading() as connection:
            newest = _published(account, request).where(await holds_table(connection)).limit(1)
            row = (await connection.execute(newest)).first()
            return None if row is None else str(row.folder)

    async def published_folders(self, account: AccountName) -> Mapping[JobId, str]:
        """Return the folder of each job that has one: published, also if it was reduced since."""
        async with self.reading() as connection:
            rows = await connection.execute(
                sa.select(job_table.c.id, job_table.c.folder).where(job_table.c.account == account, is_on_disk())
            )
            return {JobId(row.id): row.folder for row in rows}

    async def newest_folder(self, account: AccountName) -> str | None:
        """Return the folder of the newest snapshot that has a time, published or reduced."""
        columns = job_table.c
        dated = sa.and_(columns.account == account, columns.folder.is_not(None), columns.completed_at.is_not(None))
        query = sa.select(columns.folder).where(dated, is_on_disk()).order_by(columns.completed_at.desc()).limit(1)
        async with self.reading() as connection:
            found: str | None = await connection.scalar(query)
            return found

    async def one_of_each_request(self, account: AccountName) -> Sequence[JobId]:
        """Return one published job of each data request that has any."""
        columns = job_table.c
        published = sa.and_(columns.account == account, columns.state == JobState.PUBLISHED.value)
        query = sa.select(sa.func.max(columns.id)).where(published).group_by(columns.request)
        async with self.reading() as connection:
            return [JobId(job) for job in await connection.scalars(query)]

    async def folder_taken_by(self, folder: str) -> JobId | None:
        """Return the job that has this folder."""
        async with self.reading() as connection:
            found = await connection.scalar(sa.select(job_table.c.id).where(job_table.c.folder == folder))
            return None if found is None else JobId(found)

    async def sums(self, account: AccountName) -> Sums:
        """Return the totals over all snapshots of an account, including pruned ones."""
        columns = [job_table.c.calls, job_table.c.fetched_bytes, job_table.c.linked_bytes]
        query = sa.select(
            sa.func.count(job_table.c.published_at), *[sa.func.coalesce(sa.func.sum(column), 0) for column in columns]
        )
        async with self.reading() as connection:
            row = (await connection.execute(query.where(job_table.c.account == account))).one()
            return Sums(snapshots=int(row[0]), calls=int(row[1]), fetched_bytes=int(row[2]), linked_bytes=int(row[3]))

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection to read with. Errors of the database become ours."""
        if self._connection is not None:
            yield self._connection
            return
        async with self.backend.reading() as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection for one transaction. It is durable after the block, and an error in the block undoes it."""
        async with self.backend.writing() as connection:
            if self._guard is not None:
                await self._guard.check(connection)
            yield connection


async def holds_table(connection: AsyncConnection) -> sa.ColumnElement[bool]:
    """Return the condition that the snapshot of a row of `job` holds a table (`completeness.holds_rows`)."""
    return older.holds_table() if await older.is_older(connection) else job_table.c.holds_table.is_(True)


def _published(account: AccountName, request: RequestId) -> sa.Select[Any]:
    """Return the query for the published snapshots of a request, newest first."""
    return (
        sa.select(job_table.c.id, job_table.c.folder, job_table.c.completed_at)
        .where(
            job_table.c.account == account,
            job_table.c.request == request,
            job_table.c.state == JobState.PUBLISHED.value,
        )
        .order_by(job_table.c.completed_at.desc().nulls_last(), job_table.c.published_at.desc())
    )
