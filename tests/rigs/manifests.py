"""Manifests of both databases, and what they are filled with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId, StoredFile
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.core.snapshot import Record
from dcsync.manifest import SqlManifest, open_manifest
from tests.fakes import (
    JOB_ID,
    NOON,
    REQUEST_ID,
    make_job,
    make_published,
    make_stored,
    make_transfer,
)

ACME = AccountName("acme")
BETA = AccountName("beta")
LATER = NOON + timedelta(hours=1, microseconds=1)
S = JobState
Opener = Callable[[Path], AbstractAsyncContextManager[SqlManifest]]


def open_sqlite(folder: Path) -> AbstractAsyncContextManager[SqlManifest]:
    return open_manifest(folder / "manifest.sqlite")


def make_known_request(**changes: Any) -> KnownRequest:
    values: dict[str, Any] = {"id": REQUEST_ID, "description": "My extract", "slug": "my-extract", "is_delta": False}
    return KnownRequest(**{**values, **changes})


def make_publication(
    job: JobId = JOB_ID, folder: str = "acme/x/2026", *, files: Sequence[StoredFile] | None = None, **changes: Any
) -> tuple[Record, Sequence[StoredFile]]:
    """Return what publishing takes of a job that is `make_job` with these changes."""
    transfer = make_transfer(strategy="files", calls=3, fetched_bytes=8, linked_bytes=0, seconds=1.5)
    values = {"at": LATER, "transfer": transfer, **changes}
    return make_published(job, folder=folder, **values), (make_stored(),) if files is None else files


async def know(manifest: SqlManifest, *jobs: str, state: JobState = S.SEEN, account: AccountName = ACME) -> None:
    """Let the manifest know jobs in a state."""
    known = [KnownJob(job=make_job(id=JobId(job)), state=state) for job in jobs or (JOB_ID,)]
    await manifest.record_poll(account, jobs=known, requests=[], at=NOON)


async def state_of(manifest: SqlManifest, job: str = JOB_ID) -> JobState:
    return (await manifest.jobs(ACME))[JobId(job)].state


async def files_of(manifest: SqlManifest) -> tuple[StoredFile, ...] | None:
    snapshot = await manifest.snapshot_before(ACME, REQUEST_ID, None)
    return None if snapshot is None else snapshot.files
