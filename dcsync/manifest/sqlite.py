"""The manifest in a SQLite file: WAL, `synchronous=FULL`, and refused when it is damaged."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from dcsync.errors import ManifestCorrupt, ManifestError, ManifestMissing
from dcsync.manifest import checked
from dcsync.manifest import checksums as seal
from dcsync.manifest.connection import Connection
from dcsync.manifest.migrate import migrate, refuse_newer
from dcsync.manifest.revisions import REVISIONS
from dcsync.tasks import disk_call, finish

#: How long a writer waits for another process to write (a command while the daemon is running).
_BUSY_TIMEOUT_S = 30.0
#: The option of an engine that says how its transactions begin.
_BEGIN = "dcsync_begin"
#: Primary codes for errors that the machine or another process causes (sqlite.org/rescode.html): PERM, ABORT, BUSY,
#: LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL, AUTH.
_MACHINE = frozenset({3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15, 23})

#: The hint while a daemon has the file open: it does nothing about the damage before its next start.
_OPEN_HINT = "run dcsync rebuild, or restart the daemon: both rename the manifest and rebuild it from the mirror"


class SqliteBackend:
    """Implements `Backend`. Readers and the writer do not wait for each other."""

    def __init__(self, engine: AsyncEngine, path: Path) -> None:
        self._engine = engine
        self._readers = engine.execution_options(**{_BEGIN: "BEGIN"})
        self._path = path
        #: The time of the last thorough check. None lets the next start check every row.
        self.checked_at: float | None = None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection to read with."""
        with _sql_errors(self._path), disk_call():
            async with self._readers.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection for one transaction."""
        with _sql_errors(self._path), disk_call():
            async with self._engine.begin() as connection:
                yield connection

    async def check_rows(self) -> None:
        """Compare every row with its digest. A thread does it with a connection of its own."""
        began, self.checked_at = time.time(), None
        with _sql_errors(self._path), disk_call():
            damage = await asyncio.to_thread(_damage, self._path)
        if damage is not None:
            raise _corrupt(self._path, damage, hint=_OPEN_HINT)
        self.checked_at = began


@asynccontextmanager
async def sqlite_backend(path: Path, *, read_only: bool) -> AsyncIterator[SqliteBackend]:
    """Open a file, and migrate it unless it is only read."""
    engine = _engine(path, read_only=read_only)
    backend = SqliteBackend(engine, path)
    try:
        # Checked before the driver opens it, because the driver leaves a thread behind when it cannot open a file.
        with disk_call():
            await asyncio.to_thread(_must_exist if read_only else _make_private, path)
            if not read_only:
                backend.checked_at = await asyncio.to_thread(checked.take, path)
        with _sql_errors(path, opening=True), disk_call():
            async with engine.connect() as connection:
                is_due = not read_only and backend.checked_at is None
                await _check(connection, path, thorough=is_due)
                backend.checked_at = time.time() if is_due else backend.checked_at
                if not read_only:
                    is_migrated = await migrate(connection)
                    await connection.commit()
                    await _shrink(connection, always=is_migrated)
        yield backend
    except ManifestCorrupt:
        # The next start checks every row.
        backend.checked_at = None
        raise
    finally:
        # Not cancelled by a second signal either: a connection that is half closed logs a traceback.
        with disk_call():
            await finish(engine.dispose())
            if backend.checked_at is not None:
                await finish(asyncio.to_thread(checked.leave, path, backend.checked_at))


def _must_exist(path: Path) -> None:
    """Raise `ManifestError` if the file is missing or not readable.

    The file is not opened: a process that closes a file loses all its locks on it (fcntl(2)), including SQLite's.
    Another process could then remove the write-ahead log while this one writes to it.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # SQLite would wait for another program at a FIFO.
            message = f"the manifest {path} is not a regular file"
            raise ManifestError(message, hint="find out what created it, and move it away")
        if not os.access(path, os.R_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileNotFoundError:
        message = f"the manifest {path} does not exist yet"
        raise ManifestMissing(message) from None
    except OSError as error:
        message = f"cannot open the manifest {path}: {error.strerror} (as uid {os.geteuid()})"
        raise ManifestError(message) from None


def _make_private(path: Path) -> None:
    """Create the file with mode 0600 before SQLite does. SQLite gives the -wal and -shm files the same mode.

    An existing file is not opened, as in `_must_exist`.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        _must_exist(path)
    except OSError as error:
        message = f"cannot open the manifest {path}: {error.strerror} (as uid {os.geteuid()})"
        raise ManifestError(message) from None


class _sql_errors:  # noqa: N801 - reads as a context, like contextlib.suppress
    """Turns exceptions of the database into ours. Their text may contain values of rows."""

    def __init__(self, path: Path, *, opening: bool = False) -> None:
        self._path = path
        #: During opening, an error that the machine did not cause means that the schema is damaged.
        self._opening = opening

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        if isinstance(cause, UnicodeDecodeError):
            # From the driver: a name in the schema, or in SQLite's message about it, is not UTF-8.
            raise _corrupt(self._path, "it contains text that is not UTF-8") from None
        if not isinstance(cause, sqlite3.Error):
            return
        words = str(cause)
        if self._means_damage(cause):
            raise _corrupt(self._path, words) from None
        message = f"cannot use the manifest {self._path}: {words}"
        raise ManifestError(message) from None

    def _means_damage(self, cause: sqlite3.Error) -> bool:
        if isinstance(cause, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            return False
        if isinstance(cause, sqlite3.OperationalError):
            # The driver gives no code for text that is not UTF-8.
            code = getattr(cause, "sqlite_errorcode", None)
            return self._opening and (code is None or code & 0xFF not in _MACHINE)
        return isinstance(cause, sqlite3.DatabaseError)


def _corrupt(path: Path, words: str, *, hint: str | None = None) -> ManifestCorrupt:
    return ManifestCorrupt(f"the manifest {path} is damaged: {words}", hint=hint)


def _damage(path: Path) -> str | None:
    """Return the damage of a file that others use, or None. Blocks. All of it is read as of one moment."""

    def connect() -> sqlite3.Connection:
        uri = f"file:{quote(os.fsencode(path))}?mode=ro"
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S)

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.NullPool, hide_parameters=True)
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        verdict = connection.scalar(sa.text("PRAGMA integrity_check(1)"))
        if verdict != "ok":
            return str(verdict)
        return seal.broken_meta(connection) or seal.broken_row(connection)


def _connect(database: str, **options: Any) -> Connection:  # noqa: ANN401 - sqlite3's own
    connection = Connection(lambda: sqlite3.connect(database, **options), iter_chunk_size=64)
    # As SQLAlchemy does for its own connections: a connection that was not closed must not keep the process alive.
    connection._thread.daemon = True  # noqa: SLF001
    return connection


def _engine(path: Path, *, read_only: bool) -> AsyncEngine:
    mode = "ro" if read_only else "rwc"
    engine = create_async_engine(
        # Built from parts: parsed from text, a path with a "%" in it would be decoded twice.
        sa.URL.create(
            "sqlite+aiosqlite", database=f"file:{quote(os.fsencode(path))}", query={"mode": mode, "uri": "true"}
        ),
        # None: the event below begins transactions, not the driver (SQLAlchemy, "pysqlite").
        connect_args={"isolation_level": None, "timeout": _BUSY_TIMEOUT_S, "async_creator_fn": _connect},
        hide_parameters=True,
        # A deferred transaction that meets another writer gets SQLITE_BUSY at once, whatever the timeout.
        execution_options={_BEGIN: "BEGIN" if read_only else "BEGIN IMMEDIATE"},
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def _set_up(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        pragmas = ["PRAGMA foreign_keys = ON"]
        if not read_only:
            # With NORMAL, a power cut loses commits that were reported as done: 315 of 792 in a test.
            pragmas += ["PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL"]
        connection.run_async(lambda driver: driver.executescript(";".join(pragmas)))

    @sa.event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, Connection)  # noqa: S101 - the engine's `async_creator_fn` makes it
        driver.begin(connection.get_execution_options()[_BEGIN])

    return engine


async def _check(connection: AsyncConnection, path: Path, *, thorough: bool) -> None:
    """Raise `ManifestCorrupt` or `ManifestNewer`.

    A thorough check compares every row with its digest and every index with its table. It is done before writing, once
    a day and whenever the file may have changed (`dcsync.manifest.checked`). Otherwise only the structure is checked.
    """
    verdict = await connection.scalar(sa.text(f"PRAGMA {'integrity_check' if thorough else 'quick_check'}(1)"))
    if verdict != "ok":
        raise _corrupt(path, str(verdict))
    damage = await connection.run_sync(seal.broken_meta)
    revision = None if damage else await refuse_newer(connection, f"the manifest {path}")
    if thorough and damage is None and revision == REVISIONS[-1]:
        damage = await connection.run_sync(seal.broken_row)
    if damage is not None:
        raise _corrupt(path, damage)


async def _shrink(connection: AsyncConnection, *, always: bool) -> None:
    """Give the pages that a migration or a pruning freed back to the disk, if most of the file is free.

    SQLite replaces the file's content in one transaction.
    """
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None  # noqa: S101 - it was just used
    ((pages,),) = await driver.execute_fetchall("PRAGMA page_count")
    ((free,),) = await driver.execute_fetchall("PRAGMA freelist_count")
    if always or free * 2 > pages:
        # Not as a statement of SQLAlchemy, which begins a transaction first. On a full disk the file stays as it is.
        with suppress(sqlite3.OperationalError):
            await driver.execute("VACUUM")


def set_aside(path: Path, label: str) -> Path | None:
    """Rename a manifest and its write-ahead log, and return the new path. None if there was no manifest.

    The manifest must not be open. Blocks.
    """
    target = path.with_name(f"{path.name}.{label}")
    number = 1
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{path.name}.{label}.{number}")
    found = None
    try:
        # The log first. Next to a new database, SQLite would replay it into that database.
        for suffix in ("-wal", "-shm", ""):
            try:
                path.with_name(path.name + suffix).rename(target.with_name(target.name + suffix))
            except FileNotFoundError:
                continue
            found = target
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        message = f"cannot rename the manifest {path}: {error.strerror} (as uid {os.geteuid()})"
        raise ManifestError(message) from None
    return found
