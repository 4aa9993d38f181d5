"""Handle published snapshots whose folder is missing: pruned, removed by hand, or lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import structlog

from dcsync.core.lifecycle import ON_DISK, JobState, has_expired
from dcsync.core.model import AccountName, JobId
from dcsync.core.ports import KnownJob
from dcsync.core.snapshot import Record
from dcsync.errors import DiskFull, MassChange
from dcsync.manifest import SnapshotRows
from dcsync.mirror import trash
from dcsync.ops.context import AccountSettings, MirrorContext
from dcsync.ops.trash import empty_trash

log = structlog.get_logger(__name__)

#: More missing folders than this share and this count mean a mistake or a broken disk.
_MASS_SHARE = 0.4
_MASS_COUNT = 3
#: The delay before a snapshot is downloaded again.
_SOON = timedelta(0)


async def finish_pruning(context: MirrorContext) -> None:
    """Empty the trash. A snapshot in it whose row is still `published` was renamed but not recorded: record it."""
    left = await context.disk.run(trash.leaves, context.root)
    if not left:
        return
    await context.disk.run(context.root.settle)
    unnoted: list[trash.Pruned] = []
    for account in await context.manifest.accounts():
        for job, folder in (await context.manifest.published_folders(account)).items():
            leaf = trash.trash_leaf(account, job)
            if leaf in left and not await context.disk.run(context.root.is_taken, folder):
                unnoted += await _finish_pruning_of(context, account, job, leaf)
    for leaf in sorted(left):
        await empty_trash(context, leaf)
    for pruned in unnoted:
        await context.disk.run(trash.note_pruned, context.root, pruned)


async def _finish_pruning_of(
    context: MirrorContext, account: AccountName, job: JobId, leaf: str
) -> Sequence[trash.Pruned]:
    """Record a pruned snapshot. Return it when its line has to be written after the trash is empty."""
    records, now = SnapshotRows(context.manifest), context.clock.now()
    found, record = await records.snapshot(account, job), await records.record(account, job)
    if found is None or record is None:
        return ()
    snapshot, sidecar_sha256 = found
    if sidecar_sha256 not in {None, await context.disk.run(trash.sidecar_sha256, context.root, leaf)}:
        # The rest of an earlier snapshot of the job, which was downloaded again since. Nothing pruned that one.
        return ()
    pruned = trash.Pruned(account=account, record=replace(record, pruned_at=now))
    unnoted: list[trash.Pruned] = []
    try:
        await context.disk.run(trash.note_pruned, context.root, pruned)
    except DiskFull:
        unnoted.append(pruned)
    log.info("interrupted pruning of a snapshot finished", account=account, job=job, folder=snapshot.folder)
    await context.manifest.move(account, job, JobState.PRUNED, at=now)
    return unnoted


async def notice_missing(context: MirrorContext, account: AccountSettings) -> None:
    """Record published snapshots whose folder is missing: to be downloaded again, lost, or pruned by dcsync.

    Raises `MassChange` when too many are missing. Only the rows of pruned snapshots have changed then.
    """
    folders = await context.manifest.published_folders(account.name)
    if not folders:
        return

    def find_missing() -> list[JobId]:
        return [job for job, folder in folders.items() if not context.root.has_folder(folder)]

    missing = await context.disk.run(find_missing)
    if missing:
        missing = await _record_pruned(context, account, missing, folders)
    if len(missing) > _MASS_COUNT and len(missing) > _MASS_SHARE * len(folders):
        message = (
            f"{len(missing)} of {len(folders)} snapshots of {account.name} are missing in {context.root.path} "
            f"(first: {folders[missing[0]]})"
        )
        raise MassChange(
            message,
            hint="put the folders back. If you removed them on purpose, put them back and remove a few at a time, so "
            "that dcsync can tell it from a broken disk",
        )
    for job in missing:
        known = await context.manifest.job(account.name, job)
        # Another host may have recorded the job as missing in between.
        if known is not None and known.state in ON_DISK:
            lost = has_expired(known.job.completed_at, context.clock.now())
            await _note_missing(context, account.name, known, lost=lost)


async def _record_pruned(
    context: MirrorContext, account: AccountSettings, missing: Sequence[JobId], folders: Mapping[JobId, str]
) -> list[JobId]:
    """Record the snapshots that dcsync itself pruned, and return the others.

    A manifest that was restored from a backup may be older than the pruning. The mirror has a line for each pruned
    snapshot. A line that is older than the snapshot is about an earlier one: the job was downloaded again since.
    """
    lines = await context.disk.run(lambda: list(trash.all_pruned(context.root)))
    pruned = {line.record.job.id: line.record for line in lines if line.account == account.name}
    left = []
    for job in missing:
        record, known = pruned.get(job), await context.manifest.job(account.name, job)
        if record is not None and record.folder == folders[job] and known is not None and _is_later(record, known):
            log.info("snapshot was pruned, but the manifest did not have it", account=account.name, job=job)
            await context.manifest.move(account.name, job, JobState.PRUNED, at=context.clock.now())
        else:
            left.append(job)
    return left


def _is_later(pruned: Record, known: KnownJob) -> bool:
    """Say whether a snapshot was pruned after its row was written."""
    return pruned.pruned_at is not None and known.published_at is not None and pruned.pruned_at >= known.published_at


async def _note_missing(context: MirrorContext, account: AccountName, known: KnownJob, *, lost: bool) -> None:
    """Let the next run download the snapshot again while Autodesk has the extract. Otherwise record the loss."""
    now = context.clock.now()
    if lost:
        log.error("snapshot lost", account=account, job=known.job.id, folder=known.folder)
        await context.manifest.move(
            account,
            known.job.id,
            JobState.EXPIRED,
            at=now,
            reason_code="M-LOST",
            reason=f"its folder {known.folder} is missing, and Autodesk has deleted the extract",
        )
    else:
        log.warning(
            "snapshot missing; the next run downloads it again", account=account, job=known.job.id, folder=known.folder
        )
        await context.manifest.move(
            account,
            known.job.id,
            JobState.SEEN,
            at=now,
            attempts=0,
            next_try_at=now + _SOON,
            reason_code="M-GONE",
            reason=f"its folder {known.folder} is missing",
        )
