"""Mirrors of some days that are pruned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dcsync.app.from_config import account_settings
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.core.retention import KeepPolicy
from dcsync.manifest import SnapshotRows
from dcsync.mirror import trash
from dcsync.ops.context import SyncContext
from dcsync.ops.integrity.prune import PruneReport, prune
from tests.rigs.mirror import (
    Mirror,
    add_extract,
    sidecar,
    tables,
)

ACME = AccountName("acme")


async def fill(mirror: Mirror, days: int = 5, **options: Any) -> list[str]:
    """Mirror so many daily snapshots of one request, oldest first."""
    jobs = [
        add_extract(mirror, {**tables(2), "new.csv": b"x" * (day + 1)}, days_ago=days - day, **options)
        for day in range(days)
    ]
    await mirror.sync()
    return jobs


async def pruned(mirror: Mirror, policy: KeepPolicy, **options: Any) -> PruneReport:
    async with mirror.opened() as context:
        return await prune(context, account_settings(mirror.configuration()), policy, **options)


async def states(mirror: Mirror) -> dict[str, JobState]:
    async with mirror.opened() as context:
        return {str(job): known.state for job, known in (await context.manifest.jobs(ACME)).items()}


def jobs_of(mirror: Mirror) -> set[str]:
    return {sidecar(path)["job"]["id"] for path in mirror.snapshots()}


def in_trash(mirror: Mirror) -> list[Path]:
    return list(mirror.root.glob(".dcsync/trash/*"))


async def note(context: SyncContext, job: str) -> str:
    record = await SnapshotRows(context.manifest).record(ACME, JobId(job))
    assert record is not None
    folder = (await context.manifest.published_folders(ACME))[JobId(job)]
    trash.note_pruned(context.root, trash.Pruned(account=ACME, record=record))
    return folder
