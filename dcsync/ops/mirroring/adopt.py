"""Adopt snapshots that are in the mirror but not in the manifest: hash their files first, then record them."""

from __future__ import annotations

from dataclasses import replace

import structlog

from dcsync.core import names
from dcsync.core.completeness import holds_rows
from dcsync.core.model import Job, JobId, Snapshot
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.core.sidecar import Adopted, Changes, summarize
from dcsync.core.snapshot import ADOPTED, Record, Transfer
from dcsync.core.summary import Summary
from dcsync.errors import MirrorTampered
from dcsync.manifest import SnapshotRows
from dcsync.mirror import adopt
from dcsync.mirror.across import discard_copy
from dcsync.mirror.root import MirrorRoot
from dcsync.mirror.staged_names import holder_of
from dcsync.mirror.staging import discard_staging, staged_jobs
from dcsync.ops.context import AccountSettings, MirrorContext, SyncContext
from dcsync.ops.mirroring.latest import after_acknowledgement, move_latest
from dcsync.ops.mirroring.record import new_record
from dcsync.tasks import finish

log = structlog.get_logger(__name__)


async def adopt_if_there(
    context: SyncContext, account: AccountSettings, known: KnownJob, request: KnownRequest, folder: str
) -> Snapshot | None:
    """Record a snapshot whose folder is in its place: a crash came between its rename and its commit.

    Every file is hashed and compared with the sidecar first. Returns None when there is no such folder. Raises
    `MirrorTampered` when the folder is not the job's snapshot, or differs from its sidecar.
    """
    if not await context.disk.run(context.root.has_folder, folder):
        return None
    identified = await _identify(context, account, known.job, request, folder)
    if identified is not None:
        return identified
    found = await context.disk.run(adopt.read_snapshot, context.root, folder)
    if found is not None and is_hollow(found, known.job.id):
        # It stays until the new snapshot is ready to replace it.
        return None
    if found is None and await context.disk.run(context.root.drop_claim, folder):
        # Where a rename cannot refuse to replace, `mkdir` claims the name first. dcsync was killed between the two.
        return None
    if found is None or found.snapshot.job != known.job.id:
        message = f"{folder} exists already and is not the snapshot of job {known.job.id}"
        raise MirrorTampered(
            message, hint="move that folder out of the mirror. The next run then downloads the snapshot"
        )
    return await adopt_snapshot(context, account, known.job, request, found)


def is_hollow(found: Adopted, job: JobId) -> bool:
    """Whether a folder is a snapshot of this job without any table, which an earlier version published."""
    snapshot = found.snapshot
    return snapshot.job == job and not holds_rows(stored.original for stored in snapshot.files)


async def adopt_snapshot(
    context: MirrorContext, account: AccountSettings, job: Job, request: KnownRequest, found: Adopted
) -> Snapshot:
    """Hash the published snapshot of a known job, record it, and return it with the facts of its files on the disk."""
    verified = await context.disk.run(adopt.verify, context.root, found)
    snapshot = verified.snapshot
    await context.disk.run(context.root.settle, snapshot.folder)
    # The sidecar's record says how it was published. A sidecar without a record gets a new one.
    record = verified.record
    if record is None:
        record = await _adopted_record(context, account, job, request, snapshot, verified.summary)
        record = replace(record, reduced_at=verified.reduced_at)
    await finish(_record(context, account, record, snapshot, sidecar_sha256=verified.sha256))
    with after_acknowledgement(account, job.id):
        # A crash directly after the rename leaves the journal of the staging behind.
        await context.disk.run(_discard_all, context.root, account.staging_of(job.id), snapshot.folder)
    log.debug("snapshot adopted", account=account.name, job=job.id, folder=snapshot.folder, files=len(snapshot.files))
    return snapshot


async def _identify(
    context: SyncContext, account: AccountSettings, job: Job, request: KnownRequest, folder: str
) -> Snapshot | None:
    """Give a snapshot that was rebuilt from its name and hashes its full IDs, which the job list now shows."""
    taken_by = await context.manifest.folder_taken_by(folder)
    if taken_by is None or taken_by == job.id or not job.id.replace("-", "").startswith(taken_by):
        return None
    found = await SnapshotRows(context.manifest).snapshot(account.name, taken_by)
    if found is None:
        return None
    snapshot = replace(found[0], job=job.id, request=request.id, completed_at=job.completed_at)
    summary = summarize(snapshot.files, Changes(against=None), ())
    record = await _adopted_record(context, account, job, request, snapshot, summary)
    await _record(context, account, record, snapshot, sidecar_sha256=found[1], instead_of=taken_by)
    log.info("a snapshot without a metadata file was identified", account=account.name, job=job.id, folder=folder)
    return snapshot


async def _adopted_record(
    context: MirrorContext,
    account: AccountSettings,
    job: Job,
    request: KnownRequest,
    snapshot: Snapshot,
    summary: Summary,
) -> Record:
    return await new_record(
        context,
        account,
        job,
        request,
        folder=snapshot.folder,
        at=context.clock.now(),
        transfer=Transfer(strategy=ADOPTED),
        summary=summary,
    )


async def _record(
    context: MirrorContext,
    account: AccountSettings,
    record: Record,
    snapshot: Snapshot,
    *,
    sidecar_sha256: str | None,
    instead_of: JobId | None = None,
) -> None:
    await SnapshotRows(context.manifest).restore(
        account.name, record, files=snapshot.files, sidecar_sha256=sidecar_sha256, instead_of=instead_of
    )
    with after_acknowledgement(account, record.job.id):
        await move_latest(context, account, record.job.id)


def _discard_all(root: MirrorRoot, job: JobId, folder: str) -> None:
    """Remove the staging of a job, and that of each earlier holder of the job, with the copies next to its folder."""
    component = names.component(job)
    for leaf in {component, *(leaf for leaf in staged_jobs(root) if holder_of(leaf)[0] == component)}:
        discard_copy(root, leaf, folder)
        discard_staging(root, leaf)
