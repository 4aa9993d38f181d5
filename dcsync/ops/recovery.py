"""What a start does before anything else: the tree, the manifest and the staging brought together again.

It is the same code as going on: a job that was cut short is open, and is taken up where its staging stands.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from dcsync.core.lifecycle import OPEN, JobState
from dcsync.core.names import component
from dcsync.mirror.staged_names import holder_of
from dcsync.mirror.staging import discard_staging, staged_jobs
from dcsync.ops.context import AccountSettings, MirrorContext
from dcsync.ops.integrity.missing import finish_pruning, notice_missing
from dcsync.ops.integrity.rebuild import is_under_way, rebuild
from dcsync.ops.mirroring.publish import move_latest

log = structlog.get_logger(__name__)


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


async def _restore_latest(context: MirrorContext, account: AccountSettings) -> None:
    """Let `latest` show what was acknowledged: a kill between the commit and the swap leaves the old one behind."""
    jobs = await context.manifest.jobs(account.name, states={JobState.PUBLISHED})
    published = {known.job.request_id: job for job, known in jobs.items()}
    for job in published.values():
        await move_latest(context, account, job)


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
