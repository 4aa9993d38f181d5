"""The manifest file as SQLite sees it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId, StoredFile
from dcsync.core.ports import KnownJob
from dcsync.manifest import SqlManifest, open_manifest, schema
from dcsync.manifest.rows import CONTENT_COLUMNS, content_digest
from dcsync.manifest.sqlite import SqliteBackend
from tests.fakes import NOON, make_job, make_published, make_snapshot

ACME = AccountName("acme")

#: The files of snapshots as they were before schema 0008, to read: a row for each file of each snapshot.
FILE_VIEW = """
CREATE TEMP VIEW file AS
SELECT account, job.id AS job, name, listed.key AS how, original, size, crc32, md5, sha256, etag, packed, mtime_ns,
  inode, rows, header, kind
FROM job, json_each(job.files) AS listed, json_each(listed.value) AS number JOIN content ON content.id = number.value
"""


def change_content(path: Path, changes: str, where: str = "true") -> None:
    """Change contents as another version would have written them: sound, with their digests and those of the jobs."""
    with raw(path) as connection:
        connection.execute(f"UPDATE content SET {changes} WHERE {where}")  # noqa: S608 - the tests' own
        connection.execute("UPDATE job SET digest = NULL")
        rows = connection.execute(f"SELECT id, {', '.join(CONTENT_COLUMNS)} FROM content").fetchall()  # noqa: S608 - ours
        for number, *values in rows:
            connection.execute("UPDATE content SET digest = ? WHERE id = ?", (content_digest(values), number))


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program's connection to the file."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    try:
        yield connection
    finally:
        connection.close()


def backend_of(manifest: SqlManifest) -> SqliteBackend:
    assert isinstance(manifest.backend, SqliteBackend)
    return manifest.backend


async def fill(path: Path, jobs: int = 1) -> None:
    """Make a manifest with so many published jobs."""
    async with open_manifest(path) as manifest:
        for number in range(jobs):
            await publish(manifest, f"job-{number}")


async def publish(manifest: SqlManifest, job: str, *files: StoredFile) -> None:
    await manifest.record_poll(
        ACME, jobs=[KnownJob(job=make_job(id=JobId(job)), state=JobState.SEEN)], requests=[], at=NOON
    )
    await manifest.publish(ACME, make_published(job, folder=f"acme/{job}"), files or make_snapshot().files)


def contents(folder: Path) -> dict[str, bytes]:
    return {found.name: found.read_bytes() for found in folder.iterdir()}


def read(path: Path) -> bytes:
    return path.read_bytes()


def downgrade(path: Path, revision: str) -> None:
    """Take a manifest back to what an older version wrote, by the migrations' own way back."""
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
    engine.dispose()
