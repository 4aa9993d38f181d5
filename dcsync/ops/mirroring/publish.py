"""From a staged folder to an acknowledged snapshot (FAULTS rule P), and the adoption of one that lacks its row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from dcsync import __version__
from dcsync.core import anomaly, layout, names, sidecar
from dcsync.core.anomaly import TableWarning
from dcsync.core.cost import Price
from dcsync.core.lifecycle import JobState
from dcsync.core.model import How, Job, JobId, Json, Snapshot, StoredFile
from dcsync.core.ports import KnownJob, KnownRequest, Publication
from dcsync.core.sidecar import Adopted, Provenance
from dcsync.core.snapshot import ADOPTED, Record
from dcsync.core.summary import Summary
from dcsync.core.table import is_table
from dcsync.errors import DiskError, Fenced, MirrorTampered
from dcsync.manifest import Records
from dcsync.mirror import adopt, trash
from dcsync.mirror.latest import point_latest
from dcsync.mirror.root import MirrorRoot
from dcsync.mirror.staged_names import holder_of
from dcsync.mirror.staging import Staging, discard_staging, staged_jobs
from dcsync.ops.context import AccountSettings, MirrorContext, SyncContext
from dcsync.tasks import finish

log = structlog.get_logger(__name__)

#: How often `latest` is looked at again while other hosts move it, too.
_LATEST_TRIES = 5
#: Ids that begin alike in the same second get a longer one in their folder's name.
_ID_LENGTHS = (layout.SHORT_ID, 16, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A job whose files are all in its staging."""

    job: Job
    request: KnownRequest
    folder: str
    strategy: str
    reason: str
    prices: tuple[Price, ...]
    reasons: Mapping[str, str]
    skipped: tuple[tuple[str, str], ...]
    previous: Snapshot | None
    files: tuple[StoredFile, ...]
    calls: int
    fetched_bytes: int
    seconds: float

    @property
    def linked_bytes(self) -> int:
        """The bytes that did not have to be fetched."""
        return sum(stored.size for stored in self.files if stored.how is How.LINKED)


async def choose_folder(context: SyncContext, account: AccountSettings, request: KnownRequest, known: KnownJob) -> str:
    """Return the folder of a job's snapshot: the one fixed at first sight, else a new one that no other job has."""
    if known.folder is not None:
        return known.folder
    for length in _ID_LENGTHS:
        folder = _place(context, account, request, known.job, length)
        taken_by = await context.manifest.folder_taken_by(folder)
        if taken_by == layout.short_id(known.job.id, length):
            # A rebuild found it there without its sidecar, and knew no more of the id than the folder's name has.
            return folder
        if taken_by not in {None, known.job.id}:
            continue
        if not await context.disk.run(context.root.has_folder, folder):
            return folder
        found = await context.disk.run(adopt.read_snapshot, context.root, folder)
        if found is not None and found.snapshot.job == known.job.id:
            return folder
    message = f"every folder that job {known.job.id} could have is taken by something else"
    raise MirrorTampered(message, hint="look what stands in the request's folder for that day")


async def adopt_if_there(
    context: SyncContext, account: AccountSettings, known: KnownJob, folder: str
) -> Snapshot | None:
    """Acknowledge a snapshot that is published already: a crash came between its rename and its commit.

    Every file is hashed against the sidecar first. Returns None when there is no such folder.
    """
    if not await context.disk.run(context.root.has_folder, folder):
        return None
    nameless = await _identify(context, account, known, folder)
    if nameless is not None:
        return nameless
    found = await context.disk.run(adopt.read_snapshot, context.root, folder)
    if found is None and await context.disk.run(context.root.drop_claim, folder):
        # Where a rename cannot refuse to replace, the name is claimed first; a kill came in between.
        return None
    if found is None or found.snapshot.job != known.job.id:
        message = f"{folder} is in the mirror, but it is not the snapshot of job {known.job.id}"
        raise MirrorTampered(message, hint="move that folder out of the mirror; dcsync then fetches the snapshot")
    await adopt_snapshot(context, account, found)
    return found.snapshot


async def _identify(context: SyncContext, account: AccountSettings, known: KnownJob, folder: str) -> Snapshot | None:
    """Give a snapshot that was rebuilt from its name and hashes the ids that the server now tells."""
    records, taken_by = Records(context.manifest), await context.manifest.folder_taken_by(folder)
    if taken_by is None or taken_by == known.job.id or not known.job.id.replace("-", "").startswith(taken_by):
        return None
    found, origin = await records.snapshot(account.name, taken_by), await records.origin(account.name, known.job.id)
    if found is None or origin is None:
        return None
    first_seen_at, request = origin
    snapshot = replace(found[0], job=known.job.id, request=request.id, completed_at=known.job.completed_at)
    record = Record(
        job=known.job,
        request=request,
        first_seen_at=first_seen_at,
        published_at=context.clock.now(),
        strategy=ADOPTED,
        summary=sidecar.summarize(snapshot.files, sidecar.Changes(against=None), ()),
    )
    await records.restore(
        account.name, record, folder, files=snapshot.files, sidecar_sha256=found[1], instead_of=taken_by
    )
    log.info("a snapshot without a sidecar is known again", account=account.name, job=known.job.id, folder=folder)
    with _following(account, known.job.id):
        await move_latest(context, account, known.job.id)
    return snapshot


async def adopt_snapshot(context: MirrorContext, account: AccountSettings, found: Adopted) -> None:
    """Hash a published snapshot and put it into the manifest; its job must be known there."""
    verified = await context.disk.run(adopt.verify, context.root, found)
    await context.disk.run(context.root.settle, found.snapshot.folder)
    await finish(_acknowledge_adopted(context, account, verified))
    with _following(account, found.snapshot.job):
        # A crash right after the rename leaves the staging's journal behind.
        await context.disk.run(_discard_all, context.root, account.staging_of(found.snapshot.job))
    log.info(
        "snapshot adopted",
        account=account.name,
        job=found.snapshot.job,
        folder=found.snapshot.folder,
        files=len(found.snapshot.files),
    )


async def publish(
    context: SyncContext, account: AccountSettings, staging: Staging, staged: Staged
) -> tuple[Snapshot, tuple[TableWarning, ...]]:
    """Publish and acknowledge a staged job; return the snapshot and what looks wrong with its tables.

    Not interrupted by a cancellation once it has begun. `latest` moves after the acknowledgement, and only forward.
    """
    return await finish(_publish(context, account, staging, staged))


async def _publish(
    context: SyncContext, account: AccountSettings, staging: Staging, staged: Staged
) -> tuple[Snapshot, tuple[TableWarning, ...]]:
    changes = sidecar.changes_between(staged.previous, staged.files)
    now = context.clock.now()
    warnings = await _look_back(context, account, staged)
    kept = sidecar.summarize(staged.files, changes, warnings)
    body = sidecar.render(
        Provenance(
            dcsync=__version__,
            account=account.name,
            account_id=account.id,
            request=staged.request.id,
            description=staged.request.description,
            is_delta=staged.request.is_delta if staged.request.is_described else None,
            job=staged.job,
            staged_at=now,
            strategy=staged.strategy,
            strategy_reason=staged.reason,
            prices=tuple(_price_json(price) for price in staged.prices),
            calls=staged.calls,
            fetched_bytes=staged.fetched_bytes,
            linked_bytes=staged.linked_bytes,
            files=staged.files,
            reasons=staged.reasons,
            skipped=staged.skipped,
            changes=changes,
            warnings=warnings,
            record=await _record(context, account, staged, now, summary=kept),
        )
    )
    sums = [(stored.name, stored.sha256) for stored in staged.files]
    written = hashlib.sha256(body).hexdigest()
    sums.append((names.SIDECAR_NAME, written))

    def rename() -> bool:
        staging.keep_only(stored.name for stored in staged.files)
        staging.unfold(stored.name for stored in staged.files)
        staging.write_own(names.SIDECAR_NAME, body)
        staging.write_own(names.SUMS_NAME, sidecar.render_sums(sums))
        return staging.publish(staged.folder)

    # Looked at now, so that a host that was paused and lost the job shows nothing of it; and again, for good, in the
    # transaction that records it. What was renamed in between is whole: the job's new holder finds it, and adopts it.
    await context.manifest.check_guard()
    digest: str | None = written
    snapshot = Snapshot(
        job=staged.job.id,
        request=staged.request.id,
        folder=staged.folder,
        completed_at=staged.job.completed_at,
        files=staged.files,
    )
    ours = await context.disk.run(rename)
    if not ours:
        # Never overwritten: what stands there is adopted if it is this job's, else a person is needed.
        found = await context.disk.run(adopt.read_snapshot, context.root, staged.folder)
        if found is None or found.snapshot.job != staged.job.id:
            message = f"{staged.folder} is taken by something that is not the snapshot of job {staged.job.id}"
            raise MirrorTampered(message, hint="move that folder out of the mirror; dcsync then publishes the snapshot")
        snapshot, digest = (await context.disk.run(adopt.verify, context.root, found)).snapshot, found.sha256
        await context.disk.run(context.root.settle, staged.folder)
        await context.disk.run(discard_staging, context.root, staging.leaf)
    publication = Publication(
        job=snapshot.job,
        snapshot=snapshot,
        published_at=now,
        strategy=staged.strategy,
        calls=staged.calls,
        fetched_bytes=staged.fetched_bytes,
        linked_bytes=staged.linked_bytes,
        seconds=staged.seconds,
        summary=kept,
        sidecar_sha256=digest,
    )
    try:
        await context.manifest.publish(account.name, publication)
    except Fenced:
        if ours:
            await _withdraw(context, account, snapshot)
        raise
    with _following(account, snapshot.job):
        await move_latest(context, account, snapshot.job)
    log.info(
        "snapshot published",
        account=account.name,
        job=staged.job.id,
        folder=staged.folder,
        strategy=staged.strategy,
        way=staged.reason.partition(":")[0],
        files=len(staged.files),
        fetched=sum(stored.how is How.FETCHED for stored in staged.files),
        fetched_bytes=staged.fetched_bytes,
        linked=sum(stored.how is How.LINKED for stored in staged.files),
        linked_bytes=staged.linked_bytes,
        changed=len(changes.changed),
        calls=staged.calls,
        seconds=round(staged.seconds, 3),
    )
    for warning in warnings:
        log.warning(
            "a table looks wrong beside the snapshots before",
            account=account.name,
            job=staged.job.id,
            code=warning.code,
            table=warning.table,
            what=warning.message,
        )
    return snapshot, warnings


@contextmanager
def _following(account: AccountSettings, job: JobId) -> Iterator[None]:
    """Do what follows an acknowledgement: what goes wrong with it cannot take that back. The next start does it."""
    try:
        yield
    except (DiskError, MirrorTampered) as error:
        log.warning(
            "a snapshot is published, but latest may not show it yet; the next start sees to it",
            account=account.name,
            job=job,
            code=error.code,
            error=error.message,
        )


async def _withdraw(context: SyncContext, account: AccountSettings, snapshot: Snapshot) -> None:
    """Take back a folder that came so late that its job was published and pruned meanwhile: nobody would adopt it."""
    known = await context.manifest.job(account.name, snapshot.job)
    if known is None or known.state is not JobState.PRUNED:
        return
    leaf, depth = trash.trash_leaf(account.name, snapshot.job), len(context.settings.layout.request_segments)
    with suppress(FileNotFoundError):  # or it came before, and was pruned with its row
        await context.disk.run(lambda: trash.discard(context.root, snapshot.folder, leaf, depth=depth))
        await context.disk.run(trash.empty, context.root, leaf)


def _discard_all(root: MirrorRoot, job: JobId) -> None:
    """Remove a job's staging, and those of all its earlier holders."""
    component = names.component(job)
    for leaf in {component, *(leaf for leaf in staged_jobs(root) if holder_of(leaf)[0] == component)}:
        discard_staging(root, leaf)


async def _look_back(context: SyncContext, account: AccountSettings, staged: Staged) -> tuple[TableWarning, ...]:
    """Hold the tables of a staged job against those of the snapshots before."""
    before = await context.manifest.history.tables_before(
        account.name, staged.request.id, staged.job.completed_at, limit=anomaly.LOOK_BACK
    )
    return anomaly.table_warnings(
        {stored.original: stored.table for stored in staged.files if is_table(stored.original)},
        before,
        is_delta=staged.request.is_delta,
        left_out=frozenset(name for name, _ in staged.skipped),
    )


async def _record(
    context: SyncContext, account: AccountSettings, staged: Staged, now: datetime, *, summary: Summary
) -> Record:
    """Return the row that the manifest will have, for the sidecar."""
    origin = await Records(context.manifest).origin(account.name, staged.job.id)
    first_seen_at, request = (now, staged.request) if origin is None else origin
    return Record(
        job=staged.job,
        request=request,
        first_seen_at=first_seen_at,
        published_at=now,
        strategy=staged.strategy,
        calls=staged.calls,
        fetched_bytes=staged.fetched_bytes,
        linked_bytes=staged.linked_bytes,
        seconds=staged.seconds,
        summary=summary,
    )


async def _acknowledge_adopted(context: MirrorContext, account: AccountSettings, found: Adopted) -> None:
    """Record a snapshot as its sidecar says it was published; one of an older version as adopted."""
    snapshot = found.snapshot
    if found.record is not None:
        await Records(context.manifest).restore(
            account.name, found.record, snapshot.folder, files=snapshot.files, sidecar_sha256=found.sha256
        )
    else:
        await context.manifest.publish(
            account.name,
            Publication(
                job=snapshot.job,
                snapshot=snapshot,
                published_at=context.clock.now(),
                strategy=ADOPTED,
                calls=0,
                fetched_bytes=0,
                linked_bytes=0,
                seconds=0.0,
                summary=sidecar.summarize(snapshot.files, found.changes, found.warnings),
                sidecar_sha256=found.sha256,
            ),
        )
    with _following(account, snapshot.job):
        await move_latest(context, account, snapshot.job)


async def move_latest(context: MirrorContext, account: AccountSettings, job: JobId, *, anew: bool = False) -> None:
    """Let `latest` show the newest snapshot of the job's request. A delta request has none: it is no snapshot.

    Nor has one that could not be read: it may be a delta.
    """
    requests = await context.manifest.requests(account.name)
    known = await context.manifest.job(account.name, job)
    request = None if known is None else requests.get(known.job.request_id)
    parsed = context.settings.layout
    if known is None or request is None or not request.is_described or request.is_delta:
        return
    if not parsed.holds_one_request:
        return
    shown: str | None = None
    for _ in range(_LATEST_TRIES):
        newest = await context.manifest.newest_snapshot(account.name, request.id)
        if newest is None or newest == shown or known.state is not JobState.PUBLISHED:
            return
        await _point_latest(context, newest, anew=anew)
        # Another host may have published a newer one, and shown it, while this one was about to: look again.
        shown = newest


async def _point_latest(context: MirrorContext, newest: str, *, anew: bool) -> None:
    parsed = context.settings.layout
    # How deep the request's folder is, the layout knows; its name stands in the folder that was fixed at first sight.
    depth = len(parsed.request_segments)
    request_folder = "/".join(newest.split("/")[:depth])
    await context.disk.run(
        point_latest,
        context.root,
        request_folder=request_folder,
        name=parsed.latest_name,
        snapshot=newest,
        kind=context.settings.latest,
        anew=anew,
    )


def _price_json(price: Price) -> dict[str, Json]:
    return {
        "way": price.way.value,
        "calls": price.calls,
        "bytes": price.size,
        "seconds": round(price.seconds, 1),
    }


def _place(context: SyncContext, account: AccountSettings, request: KnownRequest, job: Job, length: int) -> str:
    return layout.place(
        context.settings.layout,
        account=account.name,
        request_slug=request.slug,
        project=job.project_id,
        completed_at=job.completed_at,
        job=job.id,
        zone=context.settings.zone,
        id_length=length,
    )
