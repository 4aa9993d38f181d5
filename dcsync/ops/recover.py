"""What a start does before anything else: the tree, the manifest and the staging brought together again.

It is the same code as going on: a job that was cut short is open, and is taken up where its staging stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import structlog

from dcsync.core.layout import request_slug
from dcsync.core.lifecycle import OPEN, JobState, has_expired
from dcsync.core.model import AccountName, Job
from dcsync.core.names import component
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.core.sidecar import Adopted
from dcsync.errors import DcsyncError, MassChange
from dcsync.mirror import adopt
from dcsync.mirror.staging import discard_staging, staged_jobs
from dcsync.ops.context import AccountSettings, SyncContext
from dcsync.ops.publish import adopt_snapshot, move_latest

log = structlog.get_logger(__name__)

#: More missing folders than this share of them, and more than this many, are a mistake rather than tidying up.
_MASS_SHARE = 0.4
_MASS_COUNT = 3
#: Retried soon when its folder vanished and the server still has the extract.
_SOON = timedelta(0)


async def recover(context: SyncContext, accounts: Sequence[AccountSettings], *, new_mirror: bool) -> None:
    """Adopt what is published without a row, find rows without a folder, clear the staging of what has no use for it.

    Raises `MassChange` before changing anything when too many snapshots are gone.
    """
    if not new_mirror and not await context.manifest.knows_snapshots():
        # The manifest was lost, or is older than the first snapshot: the tree says what there is.
        await _adopt_all(context, accounts)
    for account in accounts:
        await _notice_missing(context, account)
        await _restore_latest(context, account)
    await _clear_staging(context, accounts)


async def _adopt_all(context: SyncContext, accounts: Sequence[AccountSettings]) -> None:
    by_name = {account.name: account for account in accounts}
    for folder in await context.disk.run(lambda: list(adopt.find_snapshots(context.root))):
        found = await context.disk.run(adopt.read_snapshot, context.root, folder)
        if found is None or found.account not in by_name:
            log.warning("a folder looks like a snapshot but cannot be adopted", folder=folder)
            continue
        account = by_name[found.account]
        try:
            await _introduce(context, account, found)
            await adopt_snapshot(context, account, found)
        except DcsyncError as error:
            log.warning("a snapshot could not be adopted", folder=folder, code=error.code, error=error.message)


async def _introduce(context: SyncContext, account: AccountSettings, found: Adopted) -> None:
    """Make the job and the request of a snapshot known, as far as the sidecar knows them."""
    snapshot = found.snapshot
    job = Job(
        id=snapshot.job,
        request_id=snapshot.request,
        status="complete",
        completion_status="success",
        created_at=found.created_at,
        completed_at=snapshot.completed_at,
    )
    # The slug was fixed at first sight; the folder still has it.
    depth = len(context.settings.layout.request_segments)
    slug = next(
        (part for part in snapshot.folder.split("/")[:depth] if part.endswith(request_slug("", snapshot.request)[8:])),
        request_slug(found.description, snapshot.request),
    )
    request = KnownRequest(
        id=snapshot.request, description=found.description, slug=slug.removeprefix("request="), is_delta=found.is_delta
    )
    known = await context.manifest.jobs(account.name)
    if snapshot.job not in known:
        await context.manifest.record_poll(
            account.name,
            jobs=[KnownJob(job=job, state=JobState.SEEN)],
            requests=[(request, None)],
            at=context.clock.now(),
        )


async def _restore_latest(context: SyncContext, account: AccountSettings) -> None:
    """Let `latest` show what was acknowledged: a kill between the commit and the swap leaves the old one behind."""
    jobs = await context.manifest.jobs(account.name)
    published = {known.job.request_id: job for job, known in jobs.items() if known.state is JobState.PUBLISHED}
    for job in published.values():
        await move_latest(context, account, job)


async def _notice_missing(context: SyncContext, account: AccountSettings) -> None:
    folders = await context.manifest.published_folders(account.name)
    if not folders:
        return

    def find_missing() -> list[str]:
        return [job for job, folder in folders.items() if not context.root.has_folder(folder)]

    missing = set(await context.disk.run(find_missing))
    if len(missing) > _MASS_COUNT and len(missing) > _MASS_SHARE * len(folders):
        message = (
            f"{len(missing)} of {len(folders)} snapshots of {account.name} are not in {context.root.path} any more; "
            f"the first is {folders[next(job for job in folders if job in missing)]}"
        )
        raise MassChange(
            message,
            hint="bring the folders back. If they were removed on purpose, remove them a few at a time, so that "
            "dcsync can tell it from a broken disk",
        )
    jobs = await context.manifest.jobs(account.name)
    now = context.clock.now()
    for identifier in missing:
        known = next(job for job in jobs.values() if job.job.id == identifier)
        await _note_missing(context, account.name, known, lost=has_expired(known.job.completed_at, now))


async def _note_missing(context: SyncContext, account: AccountName, known: KnownJob, *, lost: bool) -> None:
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


async def _clear_staging(context: SyncContext, accounts: Sequence[AccountSettings]) -> None:
    """Remove the staging of every job that is not open: published, given up, or of no account any more."""
    useful: set[str] = set()
    for account in accounts:
        jobs = await context.manifest.jobs(account.name)
        useful |= {component(job.job.id) for job in jobs.values() if job.state in OPEN}
    for leaf in sorted(await context.disk.run(staged_jobs, context.root) - useful):
        log.info("staging cleared", job=leaf)
        await context.disk.run(discard_staging, context.root, leaf)
