"""Move `latest` after a snapshot was recorded, and only forward."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import structlog

from dcsync.core.alerts import AlertCode
from dcsync.core.kinds import is_delta
from dcsync.core.layout import LATEST_NAMES
from dcsync.core.lifecycle import ON_DISK, JobState
from dcsync.core.model import JobId
from dcsync.core.ports import KnownRequest
from dcsync.errors import DiskError, MirrorTampered
from dcsync.manifest import StoredValues
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.mirror.latest import LatestKind, drop_latest, newer_snapshot, point_latest
from dcsync.ops.context import AccountSettings, MirrorContext, MirrorSettings

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

    Without such a snapshot, for a delta request, and where the configuration has no `latest`, one that dcsync made is
    removed. After a change of the layout the old one is removed, too. One extract of a delta request does not contain
    all rows. A request that could not be read may be a delta: nothing is done for it.

    A `latest` that cannot be made, moved or removed is an alert, and nothing else depends on it. With `rebuild` a
    folder of hard links is built again although it already shows that snapshot.
    """
    async with context.manifest.at_one_moment() as moment:
        known = await moment.job(account.name, job)
        request = None if known is None else await moment.request(account.name, known.job.request_id)
    if known is None or request is None or not request.is_described or known.state is not JobState.PUBLISHED:
        return
    if not request.is_delta and is_delta(known.job, request.document):
        return
    parts = BrokenParts(context.manifest, account.name)
    try:
        await _Latest(context, account, request).move(rebuild=rebuild)
    except (DiskError, MirrorTampered) as error:
        message = f"latest of {request.description or request.id!r} is not up to date: {error.message}"
        hint = f"{error.advice}. " if error.advice else ""
        hint += "dcsync tries again at each run. The snapshots themselves are complete"
        part = BrokenPart(code=AlertCode.M_LATEST, subject=request.id, message=message, hint=hint)
        if part not in await parts.load():
            log.warning("latest cannot be moved", account=account.name, error=message, hint=hint)
        await parts.record(part)
    else:
        await parts.resolve(AlertCode.M_LATEST, request.id)


async def retry_latest(context: MirrorContext, account: AccountSettings) -> None:
    """Try again to move each `latest` that could not be moved. Usually costs one query."""
    parts = BrokenParts(context.manifest, account.name)
    broken = {part.subject for part in await parts.load() if part.code is AlertCode.M_LATEST}
    if not broken:
        return
    jobs = await context.manifest.jobs(account.name, states={JobState.PUBLISHED})
    published = {known.job.request_id: job for job, known in jobs.items()}
    for request, job in published.items():
        if request in broken:
            await move_latest(context, account, job)
    for subject in broken - published.keys():
        # Its snapshots are gone.
        await parts.resolve(AlertCode.M_LATEST, subject)


def latest_place(settings: MirrorSettings, newest: str) -> str:
    """Return the path of `latest` for the newest snapshot of a data request."""
    layout = settings.layout
    # The layout says how deep the request's folder is. Its name was fixed at first sight and is part of the snapshot's.
    return "/".join([*newest.split("/")[: len(layout.request_segments)], layout.latest_name])


class _Latest:
    """The `latest` of one data request."""

    def __init__(self, context: MirrorContext, account: AccountSettings, request: KnownRequest) -> None:
        self._context = context
        self._account = account
        self._request = request
        self._values = StoredValues(context.manifest)
        #: The path of the one that dcsync made, empty for no `latest`. Not stored while unknown.
        self._key = f"latest:{account.name}:{request.id}"

    async def move(self, *, rebuild: bool) -> None:
        before = await self._values.load(self._key)
        now = await self._point(rebuild=rebuild) if self._is_wanted() else ""
        if before == now:
            return
        folders = await self._folders()
        for place in self._places(folders) if before is None else [before]:
            if place and place != now:
                dropped = await self._context.disk.run(drop_latest, self._context.root, place, targets=folders)
                if dropped:
                    log.debug("old latest removed", account=self._account.name, path=place)
        await self._values.save(self._key, now)

    def _is_wanted(self) -> bool:
        settings = self._context.settings
        is_on = settings.latest is not LatestKind.NONE and settings.layout.holds_one_request
        return is_on and not self._request.is_delta

    async def _point(self, *, rebuild: bool) -> str:
        """Point it to the newest snapshot, and return its path. Empty if no snapshot holds a table."""
        context, shown = self._context, ""
        for _ in range(_LATEST_TRIES):
            newest = await context.manifest.newest_snapshot(self._account.name, self._request.id)
            if newest is None:
                return await self._drop_hollow()
            if newest == shown:
                break
            request_folder, _, name = latest_place(context.settings, newest).rpartition("/")
            await self._refuse_older(request_folder, name, newest)
            await context.disk.run(
                point_latest,
                context.root,
                request_folder=request_folder,
                name=name,
                snapshot=newest,
                kind=context.settings.latest,
                rebuild=rebuild,
            )
            # Another host may have published a newer snapshot, and pointed `latest` to it, before this host moved it.
            shown = newest
        return latest_place(context.settings, shown)

    async def _refuse_older(self, request_folder: str, name: str, newest: str) -> None:
        """Raise `MirrorTampered` if `latest` shows a newer snapshot that the manifest does not know: it is older."""
        root = self._context.root
        shown = await self._context.disk.run(newer_snapshot, root, request_folder, name, than=newest)
        if shown is not None and await self._context.manifest.folder_taken_by(shown) is None:
            message = f"it shows {shown}, and the newest snapshot in the manifest is {newest}"
            raise MirrorTampered(
                message,
                hint="the manifest is older than the mirror, such as a restored backup. A poll adopts snapshots that "
                "Autodesk still lists. For all others, run dcsync rebuild",
            )

    async def _drop_hollow(self) -> str:
        """Remove one that shows a snapshot without tables. No snapshot of the data request holds any."""
        folders, context = await self._folders(), self._context
        for place in sorted({latest_place(context.settings, folder) for folder in folders}):
            if await context.disk.run(drop_latest, context.root, place, targets=folders):
                log.warning("latest showed a snapshot without tables and was removed", folder=place)
        return ""

    async def _folders(self) -> set[str]:
        jobs = await self._context.manifest.jobs(self._account.name, states=ON_DISK)
        return {
            known.folder
            for known in jobs.values()
            if known.folder is not None and known.job.request_id == self._request.id
        }

    def _places(self, folders: Collection[str]) -> list[str]:
        """Return every path that `latest` may have had in an earlier layout: in a folder of this data request."""
        above = {"/".join(parts[:depth]) for parts in map(_split, folders) for depth in range(1, len(parts))}
        return sorted(
            f"{folder}/{name}"
            for folder in above
            if any(self._request.slug in part for part in _split(folder))
            for name in LATEST_NAMES
        )


def _split(folder: str) -> list[str]:
    return folder.split("/")
