"""A migration that is killed at any statement. The next start has every row of the manifest before."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import aiosqlite
import sqlalchemy as sa

from dcsync.core.model import JobId
from dcsync.manifest import SnapshotRows, open_manifest
from tests.fakes import make_stored
from tests.rigs.sqlite import ACME, downgrade, publish, raw, read

JOBS = ("one", "two", "three")
FILES = [make_stored(f"table_{number}.csv") for number in range(5)]


def write(path: Path, body: bytes) -> None:
    path.write_bytes(body)


async def fill(path: Path) -> None:
    async with open_manifest(path) as manifest:
        for number, job in enumerate(JOBS):
            await publish(manifest, job, *FILES[:-1], make_stored("changed.csv", b"%d\n" % number))
    downgrade(path, "0007")


def open_and_die(path: Path, at: int) -> bool:
    """Open a manifest in a process that is killed before its statement of that number. Return whether it was."""
    pid = os.fork()
    if pid:
        try:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        except BaseException:  # the time limit of the test
            os.kill(pid, signal.SIGKILL)
            raise
    statements = 0

    def count(*_: object) -> None:
        nonlocal statements
        if statements == at:
            os.kill(os.getpid(), signal.SIGKILL)
        statements += 1

    def counted(connection: aiosqlite.Connection, sql: str, *rest: Any) -> Any:
        count()
        return execute(connection, sql, *rest)

    async def run() -> None:
        async with open_manifest(path):
            pass

    execute = aiosqlite.Connection.execute
    aiosqlite.Connection.execute = counted  # type: ignore[method-assign]
    for moment in ("before_cursor_execute", "after_cursor_execute", "commit"):
        sa.event.listen(sa.Engine, moment, count)
    try:
        asyncio.run(run())
    finally:
        os._exit(0)


async def test_every_row_is_there_whenever_a_migration_is_killed(path: Path, tmp_path: Path) -> None:
    await fill(path)
    before, at, seen = read(path), 0, set()

    while True:
        write(path, before)
        was_killed = open_and_die(path, at)
        with raw(path) as other:
            seen.add(other.execute("SELECT version_num FROM alembic_version").fetchone()[0])
        async with open_manifest(path) as manifest:
            for number, job in enumerate(JOBS):
                found = await SnapshotRows(manifest).snapshot(ACME, JobId(job))
                assert found is not None
                files = [make_stored("changed.csv", b"%d\n" % number), *FILES[:-1]]
                assert found[0].files == tuple(files), (at, job)
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
        if not was_killed:
            break
        at += 1

    assert at > 50
    assert seen == {"0007", "0008"}


async def test_a_migrated_manifest_is_small(path: Path) -> None:
    async with open_manifest(path) as manifest:
        files = [make_stored(f"table_{number}.csv") for number in range(300)]
        for number in range(50):
            await publish(manifest, f"job-{number}", *files)
    downgrade(path, "0007")
    before = len(read(path))

    async with open_manifest(path):
        pass

    assert len(read(path)) < before / 10
    with raw(path) as other:
        assert other.execute("PRAGMA freelist_count").fetchone() == (0,)
