"""The manifest on SQLAlchemy Core: one code path, every write one transaction, durable when the method returns."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from dcsync.core import summary, wire
from dcsync.core.lifecycle import JobState, may_go
from dcsync.core.model import AccountName, DataRequest, JobId, RequestId, Snapshot, StoredFile
from dcsync.core.ports import AccountFacts, KnownJob, KnownRequest, Publication
from dcsync.errors import IllegalTransition, ManifestCorrupt, ManifestError, ManifestNewer
from dcsync.manifest import schema, seal
from dcsync.manifest.history import History, file_rows, files_of, record_headers, stored_file
from dcsync.manifest.rows import (
    JOB_COLUMNS,
    REQUEST_COLUMNS,
    ROWS_AT_ONCE,
    file_row,
    is_job,
    known_job,
    known_request,
)
from dcsync.manifest.schema import account as account_table
from dcsync.manifest.schema import file as file_table
from dcsync.manifest.schema import job as job_table
from dcsync.manifest.schema import meta as meta_table
from dcsync.manifest.schema import request as request_table
from dcsync.manifest.schema import run as run_table
from dcsync.tasks import finish

#: The revisions this version knows, oldest first. A manifest at another one was written by a newer dcsync.
REVISIONS = ("0001", "0002", "0003", "0004", "0005")
#: How long a writer waits for another process's write (a one-shot command beside the daemon).
_BUSY_TIMEOUT_S = 30.0
#: Primary codes for what the machine or another process is to blame for (sqlite.org/rescode.html): PERM, ABORT, BUSY,
#: LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL, AUTH.
_MACHINE = frozenset({3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15, 23})


@asynccontextmanager
async def open_manifest(path: Path, *, read_only: bool = False) -> AsyncIterator[SqlManifest]:
    """Open the manifest, bringing it up to date first; closing it is what leaving does.

    With `read_only` nothing is changed or migrated. Raises `ManifestNewer`, `ManifestCorrupt`, `ManifestError`.
    """
    engine = _engine(path, read_only=read_only)
    try:
        # Before the driver tries: it leaves a thread behind when a file cannot be opened.
        await asyncio.to_thread(_must_exist if read_only else _make_private, path)
        with _sql_errors(path, opening=True):
            async with engine.connect() as connection:
                await _check(connection, path, thorough=not read_only)
                if not read_only:
                    await _migrate(connection)
        yield SqlManifest(engine, path)
    finally:
        # To its end, also when a second signal cancels it again: a connection half closed is told of with a traceback.
        await finish(engine.dispose())


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Totals over all snapshots that an account ever published."""

    snapshots: int = 0
    calls: int = 0
    fetched_bytes: int = 0
    linked_bytes: int = 0


class SqlManifest:
    """Meets the port `Manifest`. Safe for concurrent use from one event loop; cancelling rolls a write back whole."""

    def __init__(self, engine: AsyncEngine, path: Path) -> None:
        self._engine = engine
        self._path = path

    @property
    def history(self) -> History:
        """What was published, for those who look back."""
        return History(self.reading)

    async def is_current(self) -> bool:
        """Say whether it has the newest schema: opened to be read, it may be an older one."""
        async with self.reading() as connection:
            return await _revision(connection) == REVISIONS[-1]

    async def instance(self) -> str | None:
        """Return the id of the mirror this manifest belongs to."""
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
            found = await connection.scalar(query.where(job_table.c.state == JobState.PUBLISHED.value).limit(1))
            return found is not None

    async def accounts(self) -> Sequence[AccountName]:
        """Return the names of all accounts that were ever polled or adopted."""
        async with self.reading() as connection:
            rows = await connection.scalars(
                sa.union(sa.select(account_table.c.name), sa.select(job_table.c.account)).order_by("name")
            )
            return [AccountName(row) for row in rows]

    async def facts(self, account: AccountName) -> AccountFacts:
        """Return what is known of an account; empty facts for a new one."""
        async with self.reading() as connection:
            row = (
                await connection.execute(sa.select(account_table).where(account_table.c.name == account))
            ).one_or_none()
        if row is None:
            return AccountFacts()
        values = row._asdict()
        del values["name"]
        return AccountFacts(**values)

    async def learn(self, account: AccountName, facts: AccountFacts) -> None:
        """Replace what is known of an account."""
        values = {name: getattr(facts, name) for name in AccountFacts.__slots__}
        async with self.writing() as connection:
            changed = await connection.execute(
                sa.update(account_table).where(account_table.c.name == account).values(**values)
            )
            if changed.rowcount == 0:
                await connection.execute(sa.insert(account_table).values(name=account, **values))

    async def jobs(self, account: AccountName) -> Mapping[JobId, KnownJob]:
        """Return all jobs of an account."""
        async with self.reading() as connection:
            rows = await connection.execute(sa.select(*JOB_COLUMNS).where(job_table.c.account == account))
            return {JobId(row.id): known_job(row) for row in rows}

    async def requests(self, account: AccountName) -> Mapping[RequestId, KnownRequest]:
        """Return all data requests of an account."""
        async with self.reading() as connection:
            rows = await connection.execute(sa.select(*REQUEST_COLUMNS).where(request_table.c.account == account))
            return {RequestId(row.id): known_request(row) for row in rows}

    async def request_documents(self, account: AccountName) -> Mapping[RequestId, DataRequest]:
        """Return the data requests of an account as the API last described them, where it did."""
        async with self.reading() as connection:
            rows = await connection.execute(
                sa.select(request_table.c.id, request_table.c.document).where(
                    request_table.c.account == account, request_table.c.document.is_not(None)
                )
            )
            return {RequestId(row.id): wire.parse_request(json.loads(row.document)) for row in rows}

    async def record_poll(
        self,
        account: AccountName,
        *,
        jobs: Sequence[KnownJob],
        requests: Sequence[tuple[KnownRequest, DataRequest | None]],
        at: datetime,
    ) -> None:
        """Store what one complete look at the lists brought, all or nothing: a poll cut short leaves no gap."""
        async with self.writing() as connection:
            await _touch_account(connection, account)
            for known, document in requests:
                await _upsert_request(connection, account, known, document, at)
            for job in jobs:
                await _upsert_job(connection, account, job, at)
            await connection.execute(
                sa.update(account_table).where(account_table.c.name == account).values(last_poll_at=at)
            )

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
        """Put a job into a state; `IllegalTransition` when the table does not lead there. `folder` once set stays."""
        async with self.writing() as connection:
            current = await _state_of(connection, account, job, state)
            values: dict[str, object] = {
                "state": state.value,
                "changed_at": at,
                "next_try_at": next_try_at,
                "reason_code": reason_code,
                "reason": reason,
            }
            if attempts is not None:
                values["attempts"] = attempts
            if folder is not None:
                values["folder"] = folder
            if state is not JobState.PUBLISHED:
                values["sidecar_sha256"] = None
            await connection.execute(sa.update(job_table).where(is_job(account, job)).values(**values))
            if current is JobState.PUBLISHED and state is not JobState.PUBLISHED:
                # Its files are not on the disk any more: no later snapshot may link to them.
                await connection.execute(
                    sa.delete(file_table).where(file_table.c.account == account, file_table.c.job == job)
                )
            await seal.seal_job(connection, account, job)

    async def publish(self, account: AccountName, publication: Publication) -> None:
        """Record a published snapshot with its files. When this returns it is acknowledged, and only then."""
        async with self.writing() as connection:
            await _state_of(connection, account, publication.job, JobState.PUBLISHED)
            await connection.execute(
                sa.update(job_table)
                .where(is_job(account, publication.job))
                .values(
                    state=JobState.PUBLISHED.value,
                    changed_at=publication.published_at,
                    published_at=publication.published_at,
                    folder=publication.snapshot.folder,
                    attempts=0,
                    next_try_at=None,
                    reason_code=None,
                    reason=None,
                    strategy=publication.strategy,
                    calls=publication.calls,
                    fetched_bytes=publication.fetched_bytes,
                    linked_bytes=publication.linked_bytes,
                    seconds=publication.seconds,
                    summary=None if publication.summary is None else summary.render(publication.summary),
                    sidecar_sha256=publication.sidecar_sha256,
                )
            )
            await connection.execute(
                sa.delete(file_table).where(file_table.c.account == account, file_table.c.job == publication.job)
            )
            await record_headers(connection, publication.snapshot.files)
            rows = [file_row(account, publication.job, stored) for stored in publication.snapshot.files]
            for start in range(0, len(rows), ROWS_AT_ONCE):
                await connection.execute(sa.insert(file_table), rows[start : start + ROWS_AT_ONCE])
            await seal.seal_job(connection, account, publication.job)
            await _touch_account(connection, account)

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
        """Add a row for a run that did something or failed."""
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
        """Return the newest published snapshot of a request completed before that time (any, if it is None)."""
        query = _published(account, request)
        if completed_at is not None:
            query = query.where(job_table.c.completed_at < completed_at)
        async with self.reading() as connection:
            row = (await connection.execute(query)).first()
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
        """Return published snapshots of a request that have such a file, newest first, each with that file alone.

        Such a one has the same names, size and CRC32. By its name on disk it is found through the primary key.
        """
        query = (
            file_rows()
            .add_columns(job_table.c.folder, job_table.c.completed_at)
            .join(job_table, sa.and_(job_table.c.account == file_table.c.account, job_table.c.id == file_table.c.job))
            .where(
                job_table.c.account == account,
                job_table.c.request == request,
                job_table.c.state == JobState.PUBLISHED.value,
                file_table.c.name == stored.name,
                file_table.c.original == json.dumps(stored.original),
                file_table.c.size == stored.size,
                file_table.c.crc32 == stored.crc32,
            )
            .order_by(job_table.c.completed_at.desc(), job_table.c.published_at.desc())
            .limit(limit)
        )
        async with self.reading() as connection:
            return [
                Snapshot(
                    job=JobId(row.job),
                    request=request,
                    folder=row.folder,
                    completed_at=row.completed_at,
                    files=(stored_file(row),),
                )
                for row in await connection.execute(query)
            ]

    async def newest_snapshot(self, account: AccountName, request: RequestId) -> str | None:
        """Return the folder of the newest published snapshot of a request."""
        async with self.reading() as connection:
            row = (await connection.execute(_published(account, request))).first()
            return None if row is None else str(row.folder)

    async def published_folders(self, account: AccountName) -> Mapping[JobId, str]:
        """Return the folder of each published job."""
        async with self.reading() as connection:
            rows = await connection.execute(
                sa.select(job_table.c.id, job_table.c.folder).where(
                    job_table.c.account == account, job_table.c.state == JobState.PUBLISHED.value
                )
            )
            return {JobId(row.id): row.folder for row in rows}

    async def folder_taken_by(self, folder: str) -> JobId | None:
        """Return the job that has this folder."""
        async with self.reading() as connection:
            found = await connection.scalar(sa.select(job_table.c.id).where(job_table.c.folder == folder))
            return None if found is None else JobId(found)

    async def sums(self, account: AccountName) -> Sums:
        """Return what all published snapshots of an account cost together, pruned ones included."""
        columns = [job_table.c.calls, job_table.c.fetched_bytes, job_table.c.linked_bytes]
        query = sa.select(
            sa.func.count(job_table.c.published_at), *[sa.func.coalesce(sa.func.sum(column), 0) for column in columns]
        )
        async with self.reading() as connection:
            row = (await connection.execute(query.where(job_table.c.account == account))).one()
            return Sums(snapshots=int(row[0]), calls=int(row[1]), fetched_bytes=int(row[2]), linked_bytes=int(row[3]))

    async def totals(self, account: AccountName) -> Mapping[str, int]:
        """Return the number of jobs of an account by state."""
        async with self.reading() as connection:
            rows = await connection.execute(
                sa.select(job_table.c.state, sa.func.count())
                .where(job_table.c.account == account)
                .group_by(job_table.c.state)
            )
            return {row[0]: row[1] for row in rows}

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection to read with; the database's errors become ours."""
        with _sql_errors(self._path):
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection for one transaction, which is durable after the block and undone by an error in it."""
        with _sql_errors(self._path):
            async with self._engine.begin() as connection:
                yield connection


def _must_exist(path: Path) -> None:
    """Say that there is nothing to read, or that it may not be read.

    Without opening it: a process that closes a file loses all of its locks on it (fcntl(2)), SQLite's as well. Another
    process would then take its log away while it is written to.
    """
    try:
        path.stat()
        if not os.access(path, os.R_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        message = f"the manifest {path} cannot be opened: {error.strerror} (as uid {os.geteuid()})"
        raise ManifestError(message) from None


def _make_private(path: Path) -> None:
    """Make the file before SQLite does, so that others can never read it: SQLite gives -wal and -shm its mode.

    One that is there is not opened, as in `_must_exist`.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        _must_exist(path)
    except OSError as error:
        message = f"the manifest {path} cannot be opened: {error.strerror} (as uid {os.geteuid()})"
        raise ManifestError(message) from None


class _sql_errors:  # noqa: N801 - reads as a context, like contextlib.suppress
    """Turns the database's exceptions into ours, once, at the edge; its text can hold values of rows."""

    def __init__(self, path: Path, *, opening: bool = False) -> None:
        self._path = path
        #: While it is opened, a statement that fails for no fault of the machine's means that the schema is damaged.
        self._opening = opening

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        if isinstance(cause, UnicodeDecodeError):
            # The driver's: a name in the schema, or in SQLite's own words about it, is no text.
            raise _corrupt(self._path, "text in it is no UTF-8") from None
        if not isinstance(cause, sqlite3.Error):
            return
        words = str(cause)
        if self._means_damage(cause):
            raise _corrupt(self._path, words) from None
        message = f"the manifest {self._path} cannot be used: {words}"
        raise ManifestError(message) from None

    def _means_damage(self, cause: sqlite3.Error) -> bool:
        if isinstance(cause, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            return False
        if isinstance(cause, sqlite3.OperationalError):
            # Text that is no UTF-8 is found by the driver, which gives it no code.
            code = getattr(cause, "sqlite_errorcode", None)
            return self._opening and (code is None or code & 0xFF not in _MACHINE)
        return isinstance(cause, sqlite3.DatabaseError)


def _corrupt(path: Path, words: str) -> ManifestCorrupt:
    return ManifestCorrupt(f"the manifest {path} is damaged: {words}")


def _engine(path: Path, *, read_only: bool) -> AsyncEngine:
    mode = "ro" if read_only else "rwc"
    engine = create_async_engine(
        f"sqlite+aiosqlite:///file:{quote(str(path))}?mode={mode}&uri=true",
        # None: the driver begins no transaction of its own, the event below does (SQLAlchemy, "pysqlite").
        connect_args={"isolation_level": None, "timeout": _BUSY_TIMEOUT_S},
        hide_parameters=True,
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def _set_up(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        if not read_only:
            cursor.execute("PRAGMA journal_mode = WAL")
            # NORMAL loses acknowledged commits in a power cut: 315 of 792 in FAULTS' measurement.
            cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @sa.event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A deferred writer that finds another one gets SQLITE_BUSY at once, whatever the time-out says.
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


async def _check(connection: AsyncConnection, path: Path, *, thorough: bool) -> None:
    """Raise `ManifestCorrupt` or `ManifestNewer`.

    Thorough where it will be written: every row is compared with its digest, every index with its table. Else only the
    structure is looked at, which takes a third of the time.
    """
    verdict = await connection.scalar(sa.text(f"PRAGMA {'integrity_check' if thorough else 'quick_check'}(1)"))
    if verdict != "ok":
        raise _corrupt(path, str(verdict))
    damage = await connection.run_sync(seal.broken_meta)
    revision = None if damage else await _revision(connection)
    if revision is not None and revision not in REVISIONS:
        message = f"the manifest {path} has the schema {revision}, this dcsync knows up to {REVISIONS[-1]}"
        raise ManifestNewer(message)
    if thorough and damage is None and revision == REVISIONS[-1]:
        damage = await connection.run_sync(seal.broken_row)
    if damage is not None:
        raise _corrupt(path, damage)


async def _migrate(connection: AsyncConnection) -> None:
    if await _revision(connection) == REVISIONS[-1]:
        return
    # Imported only when there is something to migrate: 60 ms.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations").replace("%", "%%"))

    def upgrade(sync_connection: sa.Connection) -> None:
        config.attributes["connection"] = sync_connection
        command.upgrade(config, "head")

    await connection.run_sync(upgrade)
    await seal.seal_all(connection)
    await connection.commit()


async def _revision(connection: AsyncConnection) -> str | None:
    query = sa.text("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'")
    if await connection.scalar(query) is None:
        return None
    found: str | None = await connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return found


async def _touch_account(connection: AsyncConnection, account: AccountName) -> None:
    found = await connection.scalar(sa.select(account_table.c.name).where(account_table.c.name == account))
    if found is None:
        await connection.execute(sa.insert(account_table).values(name=account))


async def _upsert_request(
    connection: AsyncConnection,
    account: AccountName,
    known: KnownRequest,
    document: DataRequest | None,
    at: datetime,
) -> None:
    values: dict[str, object] = {"description": known.description, "is_delta": known.is_delta}
    if document is not None:
        values["document"] = json.dumps(wire.request_json(document))
    changed = await connection.execute(
        sa.update(request_table)
        .where(request_table.c.account == account, request_table.c.id == known.id)
        .values(**values)
    )
    if changed.rowcount == 0:
        await connection.execute(
            sa.insert(request_table).values(account=account, id=known.id, slug=known.slug, first_seen_at=at, **values)
        )
    await seal.seal_request(connection, account, known.id)


async def _upsert_job(connection: AsyncConnection, account: AccountName, known: KnownJob, at: datetime) -> None:
    values: dict[str, object] = {
        "request": known.job.request_id,
        "state": known.state.value,
        "completed_at": known.job.completed_at,
        "document": json.dumps(wire.job_json(known.job)),
        "changed_at": at,
    }
    current = await connection.scalar(sa.select(job_table.c.state).where(is_job(account, known.job.id)))
    if current is None:
        await connection.execute(
            sa.insert(job_table).values(
                account=account, id=known.job.id, first_seen_at=at, attempts=0, reason=known.reason, **values
            )
        )
    else:
        _refuse_illegal(known.job.id, JobState(current), known.state)
        await connection.execute(sa.update(job_table).where(is_job(account, known.job.id)).values(**values))
    await seal.seal_job(connection, account, known.job.id)


async def _state_of(connection: AsyncConnection, account: AccountName, job: JobId, new: JobState) -> JobState:
    found = await connection.scalar(sa.select(job_table.c.state).where(is_job(account, job)))
    if found is None:
        message = f"job {job} of {account} is not in the manifest"
        raise IllegalTransition(message)
    current = JobState(found)
    _refuse_illegal(job, current, new)
    return current


def _refuse_illegal(job: JobId, current: JobState, new: JobState) -> None:
    if not may_go(current, new):
        message = f"job {job} cannot go from {current} to {new}"
        raise IllegalTransition(message)


def _published(account: AccountName, request: RequestId) -> sa.Select[Any]:
    return (
        sa.select(job_table.c.id, job_table.c.folder, job_table.c.completed_at)
        .where(
            job_table.c.account == account,
            job_table.c.request == request,
            job_table.c.state == JobState.PUBLISHED.value,
        )
        .order_by(job_table.c.completed_at.desc(), job_table.c.published_at.desc())
        .limit(1)
    )
