"""Handle published snapshots whose folder is missing: pruned, removed by hand, or lost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import structlog

from dcsync.core.lifecycle import ON_DISK, JobState, has_expired
from dcsync.core.model import AccountName, JobId
from dcsync.core.ports import KnownJob
from dcsync.core.snapshot import Record
from dcsync.errors import DiskError, DiskFull, MassChange, MirrorTampered
from dcsync.manifest import SnapshotRows
from dcsync.manifest.damage import forget_damage
from dcsync.mirror import trash
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.context import AccountSettings, MirrorContext
from dcsync.ops.integrity.unfinished import Unfinished
from dcsync.ops.trash import TRASH_FOLDER, empty_whole_trash, read_pruned, report_leftovers, report_lines
from dcsync.ops.unopened import record_unopened

log = structlog.get_logger(__name__)

#: More missing folders than this share and this count mean a mistake or a broken disk.
_MASS_SHARE = 0.4
_MASS_COUNT = 3
#: The delay before a snapshot is downloaded again.
_SOON = timedelta(0)


async def finish_pruning(context: MirrorContext) -> list[Unfinished]:
    """Empty the trash. A snapshot in it whose row is still `published` was renamed but not recorded: record it.

    Return the snapshots for which that failed. They stay in the trash until a later call.
    """
    try:
        left = await context.disk.run(trash.leaves, context.root)
    except (DiskError, MirrorTampered) as error:
        await report_leftovers(context, TRASH_FOLDER, [error])
        return []
    unfinished: list[Unfinished] = []
    unnoted: list[trash.Pruned] = []
    for account in await context.manifest.accounts() if left else ():
        for job, folder in (await context.manifest.published_folders(account)).items():
            leaf = trash.trash_leaf(account, job)
            if leaf not in left:
                continue
            try:
                if not await context.disk.run(context.root.is_taken, folder):
                    unnoted += await _finish_pruning_of(context, account, job, leaf)
            except (DiskError, MirrorTampered) as error:
                unfinished.append(Unfinished(account=account, job=job, folder=folder, error=error))
                left.discard(leaf)
    await empty_whole_trash(context, sorted(left))
    if unnoted:
        await note_late(context, *unnoted)
    await _withdraw_unpruned(context)
    return unfinished


async def _withdraw_unpruned(context: MirrorContext) -> None:
    manifest = context.manifest
    folders = {account: await manifest.published_folders(account) for account in await manifest.accounts()}
    try:
        withdrawn = await context.disk.run(trash.withdraw_unpruned, context.root, folders)
    except (DiskError, MirrorTampered) as error:
        await report_lines(context, error)
        return
    await report_lines(context, None)
    for folder in withdrawn:
        log.info("snapshot was not pruned, although it has a line", folder=folder)


async def note_late(context: MirrorContext, *pruned: trash.Pruned) -> None:
    """Write the lines of prunings that are recorded. Without them, only an older manifest would not know them."""
    try:
        await context.disk.run(trash.note_pruned, context.root, *pruned)
    except (DiskError, MirrorTampered) as error:
        folder = pruned[0].record.folder
        log.warning(
            "the lines of pruned snapshots cannot be written", first=folder, count=len(pruned), error=error.message
        )


async def _finish_pruning_of(
    context: MirrorContext, account: AccountName, job: JobId, leaf: str
) -> Sequence[trash.Pruned]:
    """Record a pruned snapshot. Return it when its line has to be written after the trash is empty."""
    records, now = SnapshotRows(context.manifest), context.clock.now()
    found, record = await records.snapshot(account, job), await records.record(account, job)
    if found is None or record is None:
        return ()
    snapshot, sidecar_sha256 = found
    await context.disk.run(context.root.settle)
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


async def notice_missing(
    context: MirrorContext, account: AccountSettings, *, unfinished: Collection[JobId] = ()
) -> None:
    """Record published snapshots whose folder is missing: to be downloaded again, lost, or pruned by dcsync.

    `unfinished` are snapshots that an interrupted pruning left in `.dcsync`. Raises `MassChange` when too many are
    missing. Only the rows of pruned snapshots have changed then. A folder that cannot be opened is not missing. Raises
    the error if too many cannot be opened.
    """
    folders = await context.manifest.published_folders(account.name)
    missing, errors = await context.disk.run(_find_missing, context.root, folders)
    if _is_mass(errors, folders):
        raise next(iter(errors.values()))
    for job, error in errors.items():
        log.warning("snapshot cannot be opened", account=account.name, folder=folders[job], error=error.message)
    await record_unopened(context, account, errors)
    missing = [job for job in missing if job not in unfinished]
    if missing:
        missing = await _record_pruned(context, account, missing, folders)
    if _is_mass(missing, folders):
        message = (
            f"{len(missing)} of {len(folders)} snapshots of {account.name} are missing in {context.root.path} "
            f"(first: {folders[missing[0]]})"
        )
        raise MassChange(
            message,
            hint="put the folders back. If you removed them on purpose, run dcsync rebuild: it "
            "records the snapshots that the mirror has now. The next run downloads those again that Autodesk still has",
        )
    for job in missing:
        known = await context.manifest.job(account.name, job)
        # Another host may have recorded the job as missing in between.
        if known is not None and known.state in ON_DISK:
            lost = has_expired(known.job.completed_at, context.clock.now())
            await _note_missing(context, account.name, known, lost=lost)


def _find_missing(
    root: MirrorRoot, folders: Mapping[JobId, str]
) -> tuple[list[JobId], dict[JobId, DiskError | MirrorTampered]]:
    """Return the snapshots without a folder, and those whose folder cannot be opened. Blocks."""
    missing: list[JobId] = []
    errors: dict[JobId, DiskError | MirrorTampered] = {}
    for job, folder in folders.items():
        try:
            if not root.has_folder(folder):
                missing.append(job)
        except (DiskError, MirrorTampered) as error:
            errors[job] = error
    return missing, errors


def _is_mass(some: Collection[JobId], folders: Collection[JobId]) -> bool:
    return len(some) > _MASS_COUNT and len(some) > _MASS_SHARE * len(folders)


async def _record_pruned(
    context: MirrorContext, account: AccountSettings, missing: Sequence[JobId], folders: Mapping[JobId, str]
) -> list[JobId]:
    """Record the snapshots that dcsync itself pruned, and return the others.

    A manifest that was restored from a backup may be older than the pruning. The mirror has a line for each pruned
    snapshot. A line that is older than the snapshot is about an earlier one: the job was downloaded again since.
    """
    lines = await read_pruned(context)
    if lines is None:
        # dcsync may have pruned any of them.
        return []
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
    await forget_damage(context.manifest, account, known.job.id)
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
