"""Bring the mirror, the manifest and the staging into agreement, before anything else is done.

No other code handles interrupted jobs: such a job is open, and the next run resumes it from its staging.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from dcsync.core.lifecycle import OPEN
from dcsync.core.model import AccountId
from dcsync.core.names import component
from dcsync.errors import DcsyncError, DiskError, MirrorTampered
from dcsync.mirror.across import discard_copy
from dcsync.mirror.root import OWN_FOLDER, STAGING
from dcsync.mirror.staged_names import holder_of
from dcsync.mirror.staging import discard_staging, staged_jobs
from dcsync.ops.alerts.daemon_parts import record_daemon_parts
from dcsync.ops.context import AccountSettings, MirrorContext
from dcsync.ops.integrity.missing import finish_pruning, notice_missing
from dcsync.ops.integrity.rebuild import is_under_way, rebuild
from dcsync.ops.integrity.reduce import finish_reductions, restore_reductions
from dcsync.ops.integrity.unfinished import Unfinished, report_unfinished
from dcsync.ops.limits import report_limits
from dcsync.ops.loads.work import FOLDER, clear_work
from dcsync.ops.mirroring.latest import move_latest
from dcsync.ops.renamed_accounts import follow_accounts
from dcsync.ops.trash import report_leftovers

log = structlog.get_logger(__name__)


async def recover(context: MirrorContext, accounts: Sequence[AccountSettings], *, notices_missing: bool = True) -> None:
    """Bring the mirror, the manifest and the staging into agreement after a mirror was opened.

    Rebuilds an empty manifest from the mirror, finishes interrupted prunings, records published rows without a folder,
    points `latest` to the newest snapshot, and removes staging that no open job needs, and what killed loads left.
    Without `notices_missing`, rows without a folder keep their state. While other hosts are running, their jobs are
    left alone. `accounts` must be all accounts of the configuration, because the staging of any other account is
    removed. Raises `MassChange` when too many folders are missing.
    """
    if context.peers.are_at_work:
        await follow_accounts(context, accounts)
        for account in accounts:
            # A host may have been killed before it moved `latest`.
            await _restore_latest(context, account)
    else:
        await _recover_alone(context, accounts, notices_missing=notices_missing)
    await _clear_staging(context, accounts)
    await report_leftovers(context, FOLDER, await context.disk.run(clear_work, context.root))
    await report_limits(context)
    # What a killed daemon of this host recorded about itself has ended with it.
    await record_daemon_parts(context, ())
    await context.peers.come_up()


async def _recover_alone(context: MirrorContext, accounts: Sequence[AccountSettings], *, notices_missing: bool) -> None:
    needs_rebuild = await is_under_way(context) or (not context.is_new and not await context.manifest.knows_snapshots())
    unfinished: list[Unfinished] = []
    try:
        unfinished += await restore_reductions(context)
    except (DiskError, MirrorTampered):
        # Any snapshot without a folder may wait there. `finish_reductions` meets the same error, and raises its alert.
        if needs_rebuild:
            raise
        notices_missing = False
    if needs_rebuild:
        # The manifest was lost or damaged, or is older than the first snapshot: rebuild it from the mirror.
        await rebuild(context, accounts)
    await finish_reductions(context)
    unfinished += await finish_pruning(context)
    await report_unfinished(context, unfinished)
    await follow_accounts(context, accounts, unfinished={one.account for one in unfinished})
    for account in accounts:
        if notices_missing:
            left = {one.job for one in unfinished if one.account == account.name}
            await notice_missing(context, account, unfinished=left)
        await _restore_latest(context, account)


async def _restore_latest(context: MirrorContext, account: AccountSettings) -> None:
    """Point `latest` to the newest recorded snapshot. A kill between the commit and the swap leaves the old link."""
    for job in await context.manifest.one_of_each_request(account.name):
        await move_latest(context, account, job)


async def _folders(context: MirrorContext, accounts: Sequence[AccountSettings]) -> dict[str, str]:
    """Return the folder of each job by the name of its staging, also of accounts that left the configuration."""
    names = {account.name for account in accounts}
    left = [name for name in await context.manifest.accounts() if name not in names]
    # It is not known whether a removed account was the first one with its ID.
    gone = [AccountSettings(name=name, id=AccountId(""), is_another=each) for name in left for each in (False, True)]
    found: dict[str, str] = {}
    for account in (*accounts, *gone):
        for known in (await context.manifest.jobs(account.name)).values():
            if known.folder is not None:
                found.setdefault(component(account.staging_of(known.job.id)), known.folder)
    return found


async def _clear_staging(context: MirrorContext, accounts: Sequence[AccountSettings]) -> None:
    """Remove the staging of every job that is not open: published, quarantined, or of a removed account.

    The staging of an open job stays: any of several hosts may be using it.
    """
    # The staging is listed before the jobs. A job that another host begins in between is then listed as open.
    errors: list[DcsyncError] = []
    existing: set[str] = set()
    try:
        existing = await context.disk.run(staged_jobs, context.root)
    except (DiskError, MirrorTampered) as error:
        errors.append(error)
    useful: set[str] = set()
    for account in accounts:
        jobs = await context.manifest.jobs(account.name, states=OPEN)
        useful |= {component(account.staging_of(job.job.id)) for job in jobs.values()}
    folders = {} if {holder_of(leaf)[0] for leaf in existing} <= useful else await _folders(context, accounts)
    for leaf in sorted(existing):
        component_, number = holder_of(leaf)
        if component_ in useful or (context.peers.are_at_work and not number):
            # A folder without a number is temporary work of another host.
            continue
        log.debug("staging cleared", job=leaf)
        if component_ in folders:
            try:
                await context.disk.run(discard_copy, context.root, leaf, folders[component_])
            except (DiskError, MirrorTampered) as error:
                errors.append(error)
        try:
            await context.disk.run(discard_staging, context.root, leaf)
        except (DiskError, MirrorTampered) as error:
            errors.append(error)
    await report_leftovers(context, f"{OWN_FOLDER}/{STAGING}", errors, is_disposable=False)
