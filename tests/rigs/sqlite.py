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
from dcsync.core.model import AccountName, JobId
from dcsync.core.ports import KnownJob
from dcsync.manifest import SqlManifest, open_manifest, schema
from dcsync.manifest.sqlite import SqliteBackend
from tests.fakes import NOON, make_job, make_published, make_snapshot

ACME = AccountName("acme")


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


async def publish(manifest: SqlManifest, job: str) -> None:
    await manifest.record_poll(
        ACME, jobs=[KnownJob(job=make_job(id=JobId(job)), state=JobState.SEEN)], requests=[], at=NOON
    )
    await manifest.publish(ACME, make_published(job, folder=f"acme/{job}"), make_snapshot().files)


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
