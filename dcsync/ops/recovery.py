"""What a start does before anything else: the tree, the manifest and the staging brought together again.

It is the same code as going on: a job that was cut short is open, and is taken up where its staging stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import structlog

from dcsync.core.lifecycle import OPEN, JobState, has_expired
from dcsync.core.model import AccountName, JobId
from dcsync.core.names import component
from dcsync.core.ports import KnownJob
from dcsync.errors import MassChange
from dcsync.mirror import trash
from dcsync.mirror.staging import discard_staging, holder_of, staged_jobs
from dcsync.ops.context import AccountSettings, MirrorContext
from dcsync.ops.integrity.rebuild import is_under_way, rebuild
from dcsync.ops.mirroring.publish import move_latest

log = structlog.get_logger(__name__)

#: More missing folders than this share of them, and more than this many, are a mistake rather than tidying up.
_MASS_SHARE = 0.4
_MASS_COUNT = 3
#: Retried soon when its folder vanished and the server still has the extract.
_SOON = timedelta(0)


async def recover(
    context: MirrorContext,
    accounts: Sequence[AccountSettings],
    *,
    new_mirror: bool,
    notices_missing: bool = True,
    alone: bool = True,
) -> None:
    """Adopt what is published without a row, find rows without a folder, clear the staging of what has no use for it.

    Without `notices_missing` rows keep their state when their folder is gone. When other hosts are at work, so that it
    is not `alone`, what they may have in hand stays as it is. Raises `MassChange` before such a row is changed when too
    many are.
    """
    if not alone:
        for account in accounts:
            # The host that was killed before it moved `latest` is not the one that starts now.
            await _restore_latest(context, account)
        await _clear_staging(context, accounts, alone=False)
        return
    if await is_under_way(context) or (not new_mirror and not await context.manifest.knows_snapshots()):
        # The manifest was lost or damaged, or is older than the first snapshot: the tree says what there is.
        await rebuild(context, [account.name for account in accounts])
    await finish_pruning(context)
    for account in accounts:
        if notices_missing:
            await notice_missing(context, account)
        await _restore_latest(context, account)
    await _clear_staging(context, accounts, alone=True)


async def finish_pruning(context: MirrorContext) -> None:
    """Empty the trash. A snapshot in it whose row still says published was pruned up to its rename: now wholly."""
    left = await context.disk.run(trash.leaves, context.root)
    if not left:
        return
    await context.disk.run(context.root.settle)
    for account in await context.manifest.accounts():
        for job, folder in (await context.manifest.published_folders(account)).items():
            leaf = trash.trash_leaf(account, job)
            if leaf in left and not await context.disk.run(context.root.has_folder, folder):
                log.info("pruning a snapshot is finished", account=account, job=job, folder=folder)
                await context.manifest.move(account, job, JobState.PRUNED, at=context.clock.now())
    for leaf in sorted(left):
        await context.disk.run(trash.empty, context.root, leaf)


async def _restore_latest(context: MirrorContext, account: AccountSettings) -> None:
    """Let `latest` show what was acknowledged: a kill between the commit and the swap leaves the old one behind."""
    jobs = await context.manifest.jobs(account.name, states={JobState.PUBLISHED})
    published = {known.job.request_id: job for job, known in jobs.items()}
    for job in published.values():
        await move_latest(context, account, job)


async def notice_missing(context: MirrorContext, account: AccountSettings) -> None:
    """Note published snapshots whose folder is gone, but for those that dcsync pruned.

    Raises `MassChange`, having changed nothing of the others, for too many.
    """
    folders = await context.manifest.published_folders(account.name)
    if not folders:
        return

    def find_missing() -> list[JobId]:
        return [job for job, folder in folders.items() if not context.root.has_folder(folder)]

    missing = await context.disk.run(find_missing)
    if missing:
        missing = await _but_pruned(context, account, missing, folders)
    if len(missing) > _MASS_COUNT and len(missing) > _MASS_SHARE * len(folders):
        message = (
            f"{len(missing)} of {len(folders)} snapshots of {account.name} are not in {context.root.path} any more; "
            f"the first is {folders[missing[0]]}"
        )
        raise MassChange(
            message,
            hint="bring the folders back. If they were removed on purpose, remove them a few at a time, so that "
            "dcsync can tell it from a broken disk",
        )
    for job in missing:
        known = await context.manifest.job(account.name, job)
        if known is not None and known.state is JobState.PUBLISHED:  # else another host moved it meanwhile
            lost = has_expired(known.job.completed_at, context.clock.now())
            await _note_missing(context, account.name, known, lost=lost)


async def _but_pruned(
    context: MirrorContext, account: AccountSettings, missing: Sequence[JobId], folders: Mapping[JobId, str]
) -> list[JobId]:
    """Give those back their state that dcsync pruned itself: the manifest may be older than that (FAULTS M4)."""
    lines = await context.disk.run(lambda: list(trash.all_pruned(context.root)))
    pruned = {line.record.job.id: line.folder for line in lines if line.account == account.name}
    left = []
    for job in missing:
        if pruned.get(job) == folders[job]:
            log.info("a snapshot was pruned, and the manifest did not know", account=account.name, job=job)
            await context.manifest.move(account.name, job, JobState.PRUNED, at=context.clock.now())
        else:
            left.append(job)
    return left


async def _note_missing(context: MirrorContext, account: AccountName, known: KnownJob, *, lost: bool) -> None:
    """A row without a folder: fetched again while the server has the extract, else said to be lost, once."""
    now = context.clock.now()
    if lost:
        log.error("a snapshot is lost", account=account, job=known.job.id, folder=known.folder)
        await context.manifest.move(
            account,
            known.job.id,
            JobState.EXPIRED,
            at=now,
            reason_code="M-LOST",
            reason=f"its folder {known.folder} was removed and the server has deleted the extract",
        )
    else:
        log.warning(
            "a snapshot is gone and will be fetched again", account=account, job=known.job.id, folder=known.folder
        )
        await context.manifest.move(
            account,
            known.job.id,
            JobState.SEEN,
            at=now,
            attempts=0,
            next_try_at=now + _SOON,
            reason_code="M-GONE",
            reason=f"its folder {known.folder} was removed",
        )


async def _clear_staging(context: MirrorContext, accounts: Sequence[AccountSettings], *, alone: bool) -> None:
    """Remove the staging of every job that is not open: published, given up, or of no account any more.

    Of an open job the one that has it may be any of several hosts.
    """
    # Looked at first: a job that another host begins in between is open when its staging is seen here.
    there = await context.disk.run(staged_jobs, context.root)
    useful: set[str] = set()
    for account in accounts:
        jobs = await context.manifest.jobs(account.name, states=OPEN)
        useful |= {component(account.staging_of(job.job.id)) for job in jobs.values()}
    for leaf in sorted(there):
        component_, number = holder_of(leaf)
        if component_ in useful or (not alone and not number):
            # Without a number it is what another host makes aside.
            continue
        log.info("staging cleared", job=leaf)
        await context.disk.run(discard_staging, context.root, leaf)
