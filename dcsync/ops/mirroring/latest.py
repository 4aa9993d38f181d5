"""Move `latest` after a snapshot was recorded, and only forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from dcsync.core.kinds import is_delta
from dcsync.core.lifecycle import JobState
from dcsync.core.model import JobId
from dcsync.core.ports import KnownJob
from dcsync.errors import DiskError, MirrorTampered
from dcsync.mirror.latest import drop_latest, point_latest
from dcsync.ops.context import AccountSettings, MirrorContext

log = structlog.get_logger(__name__)

#: How often `latest` is checked again while other hosts move it too.
_LATEST_TRIES = 5


@contextmanager
def after_acknowledgement(account: AccountSettings, job: JobId) -> Iterator[None]:
    """Log an error of the steps after a snapshot was recorded. The snapshot stays, and the next start repeats them."""
    try:
        yield
    except (DiskError, MirrorTampered) as error:
        log.warning(
            "snapshot published, but latest may not show it yet; the next start moves it",
            account=account.name,
            job=job,
            code=error.code,
            error=error.message,
        )


async def move_latest(context: MirrorContext, account: AccountSettings, job: JobId, *, rebuild: bool = False) -> None:
    """Point `latest` to the newest snapshot of the job's data request that holds a table.

    Without such a snapshot, a `latest` that shows one without tables is removed.

    A delta request has no `latest`, because one of its extracts does not contain all rows. A request that could not be
    read has none either: it may be a delta. With `rebuild` a folder of hard links is built again although it
    already shows that snapshot.
    """
    requests = await context.manifest.requests(account.name)
    known = await context.manifest.job(account.name, job)
    request = None if known is None else requests.get(known.job.request_id)
    if known is None or request is None or not request.is_described:
        return
    if request.is_delta or is_delta(known.job, request.document):
        return
    if not context.settings.layout.holds_one_request:
        return
    shown: str | None = None
    for _ in range(_LATEST_TRIES):
        newest = await context.manifest.newest_snapshot(account.name, request.id)
        if known.state is not JobState.PUBLISHED:
            return
        if newest is None:
            await _drop_latest(context, account, known)
            return
        if newest == shown:
            return
        await _point_latest(context, newest, rebuild=rebuild)
        # Another host may have published a newer snapshot, and pointed `latest` to it, before this host moved it.
        shown = newest


async def _drop_latest(context: MirrorContext, account: AccountSettings, known: KnownJob) -> None:
    """Remove a `latest` that shows a snapshot without tables. No snapshot of the data request holds any."""
    layout, jobs = context.settings.layout, await context.manifest.jobs(account.name, states={JobState.PUBLISHED})
    folders = sorted(
        other.folder
        for other in jobs.values()
        if other.folder is not None and other.job.request_id == known.job.request_id
    )
    for request_folder in sorted({"/".join(folder.split("/")[: len(layout.request_segments)]) for folder in folders}):
        dropped = await context.disk.run(
            drop_latest, context.root, request_folder=request_folder, name=layout.latest_name, snapshots=folders
        )
        if dropped:
            log.warning("latest showed a snapshot without tables and was removed", folder=request_folder)


async def _point_latest(context: MirrorContext, newest: str, *, rebuild: bool) -> None:
    layout = context.settings.layout
    # The layout says how deep the request's folder is. Its name was fixed at first sight and is part of the snapshot's.
    request_folder = "/".join(newest.split("/")[: len(layout.request_segments)])
    await context.disk.run(
        point_latest,
        context.root,
        request_folder=request_folder,
        name=layout.latest_name,
        snapshot=newest,
        kind=context.settings.latest,
        rebuild=rebuild,
    )
