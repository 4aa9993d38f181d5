"""Turn a staged folder into a recorded snapshot: seal, rename, record (design.md, Publish protocol, P4 to P6).

Readers see the snapshot after the rename. dcsync reports it after its row is committed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from dcsync import __version__
from dcsync.core import anomaly, names, schema_documents, sidecar
from dcsync.core.anomaly import TableWarning
from dcsync.core.cost import Choice
from dcsync.core.coverage import window_of
from dcsync.core.kinds import kind_of, request_of
from dcsync.core.lifecycle import JobState
from dcsync.core.model import DataRequest, How, Job, Snapshot, StoredFile
from dcsync.core.ports import KnownRequest
from dcsync.core.schema_documents import is_schema_document
from dcsync.core.sidecar import Changes, Decisions, Provenance
from dcsync.core.snapshot import Record, Transfer
from dcsync.core.summary import Summary
from dcsync.core.table import TableKind
from dcsync.errors import DcsyncError, Fenced, MirrorTampered, OtherFileSystem
from dcsync.mirror import adopt, trash
from dcsync.mirror.across import publish_across
from dcsync.mirror.staging import Staging
from dcsync.ops.context import AccountSettings, SyncContext
from dcsync.ops.mirroring.adopt import adopt_snapshot, is_hollow
from dcsync.ops.mirroring.latest import after_acknowledgement, move_latest
from dcsync.ops.mirroring.record import new_record
from dcsync.ops.trash import empty_trash
from dcsync.tasks import finish

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A job whose files are all in its staging."""

    job: Job
    request: KnownRequest
    folder: str
    previous: Snapshot | None
    files: tuple[StoredFile, ...]
    transfer: Transfer
    decisions: Decisions
    #: When Autodesk created each listed file, by its original name.
    listed_at: Mapping[str, datetime] = field(default_factory=dict)
    #: The warning about files that could not be extracted from the ZIP.
    zip_warnings: tuple[TableWarning, ...] = ()

    @property
    def document(self) -> DataRequest | None:
        """The data request with the dates of the job, which decide about the kinds of its tables."""
        document = self.request.document
        return None if document is None else request_of(self.job, document)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sealed:
    """The record of a snapshot and the two files that dcsync adds to it."""

    record: Record
    changes: Changes
    sidecar: bytes
    sums: bytes

    @property
    def sidecar_sha256(self) -> str:
        return hashlib.sha256(self.sidecar).hexdigest()


async def publish(context: SyncContext, account: AccountSettings, staging: Staging, staged: Staged) -> Record:
    """Publish and record a staged job, and return its record.

    A cancellation takes effect after the last step. `latest` moves after the row is committed, and only forward.
    Raises `MirrorTampered` when something else has the folder's name: dcsync never overwrites anything.
    """
    return await finish(_publish(context, account, staging, staged))


async def _publish(context: SyncContext, account: AccountSettings, staging: Staging, staged: Staged) -> Record:
    staged = await context.disk.run(_with_kinds, staging, staged)
    sealed = await _seal(context, account, staged)
    # A host that was paused and lost the job must not show its folder. The transaction that records the snapshot checks
    # again. A folder that was renamed between the two checks is complete: the job's new holder finds and adopts it.
    await context.manifest.check_guard()
    await context.disk.run(_write_own, staging, staged, sealed)
    await _remove_hollow(context, account, staged)
    placed = await context.disk.run(_put_in_place, staging, staged)
    if placed is None:
        await _adopt_existing(context, account, staged)
        return sealed.record
    staged = placed
    await _record(context, account, staged, sealed)
    with after_acknowledgement(account, staged.job.id):
        await move_latest(context, account, staged.job.id)
    _log_published(account, staged, sealed)
    return sealed.record


def _with_kinds(staging: Staging, staged: Staged) -> Staged:
    """Record which tables have all rows, while the data request is as it was for this extract. Blocks."""
    documents = {
        stored.original: staging.read_staged(stored.name)
        for stored in staged.files
        if is_schema_document(stored.original) and stored.size <= schema_documents.MAX_SIZE
    }
    texts = schema_documents.texts_of_tables(documents, [stored.original for stored in staged.files])
    request = staged.document
    files = tuple(
        replace(stored, kind=kind_of(stored.original, request, texts.get(stored.original))) for stored in staged.files
    )
    return replace(staged, files=files)


async def _seal(context: SyncContext, account: AccountSettings, staged: Staged) -> _Sealed:
    """Write the record and our own files in memory. Nothing can be added to a snapshot after the rename."""
    changes = sidecar.changes_between(staged.previous, staged.files)
    warnings = (*staged.zip_warnings, *await _compare_tables(context, account, staged))
    record = await new_record(
        context,
        account,
        staged.job,
        staged.request,
        folder=staged.folder,
        at=context.clock.now(),
        transfer=staged.transfer,
        summary=_with_window(staged, sidecar.summarize(staged.files, changes, warnings)),
    )
    body = sidecar.render(
        Provenance(
            dcsync=__version__,
            account=account.name,
            account_id=account.id,
            record=record,
            files=staged.files,
            decisions=staged.decisions,
            changes=changes,
            listed_at=staged.listed_at,
        )
    )
    lines = [(stored.name, stored.sha256) for stored in staged.files]
    sums = sidecar.render_sums([*lines, (names.SIDECAR_NAME, hashlib.sha256(body).hexdigest())])
    return _Sealed(record=record, changes=changes, sidecar=body, sums=sums)


def _with_window(staged: Staged, summary: Summary) -> Summary:
    """Record the days of the window tables, because the period of the data request may change later."""
    request = staged.request.document
    if request is None or all(stored.kind is not TableKind.WINDOW for stored in staged.files):
        return summary
    return replace(summary, window=window_of(request, staged.job))


async def _compare_tables(context: SyncContext, account: AccountSettings, staged: Staged) -> tuple[TableWarning, ...]:
    """Compare the tables of a staged job with those of earlier snapshots."""
    before = await context.manifest.history.tables_before(
        account.name, staged.request.id, staged.job.completed_at, limit=anomaly.LOOK_BACK
    )
    earlier = before[0].keys() if before else ()
    now = {stored.original: stored.kind for stored in staged.files}
    return anomaly.table_warnings(
        {stored.original: stored.table for stored in staged.files},
        before,
        kinds={**{name: kind_of(name, staged.document) for name in earlier}, **now},
        left_out=frozenset(name for name, _ in staged.decisions.skipped),
    )


def _write_own(staging: Staging, staged: Staged, sealed: _Sealed) -> None:
    """Give the staged folder its final form, with our own files."""
    staged_names = [stored.name for stored in staged.files]
    staging.keep_only(staged_names)
    staging.unfold(staged_names)
    staging.write_own(names.SIDECAR_NAME, sealed.sidecar)
    staging.write_own(names.SUMS_NAME, sealed.sums)


def _put_in_place(staging: Staging, staged: Staged) -> Staged | None:
    """Rename or copy the staged folder to its place. Return None when that name exists already. Blocks.

    After an error, the staged files are complete for the next attempt.
    """
    try:
        try:
            return staged if staging.publish(staged.folder) else None
        except OtherFileSystem:
            files = publish_across(staging.root, staging, staged.folder, staged.files, staged.previous)
            return None if files is None else replace(staged, files=files)
    except DcsyncError:
        staging.fold(stored.name for stored in staged.files)
        raise


async def _remove_hollow(context: SyncContext, account: AccountSettings, staged: Staged) -> None:
    """Move a snapshot without tables out of the way, now that its replacement is complete.

    After a kill before the rename of the new one, the job is still open, and the next run publishes it. The trash is
    emptied then. Its name there is not that of a pruned snapshot, so that recovery does not record a pruning.
    """
    found = await context.disk.run(adopt.read_snapshot, context.root, staged.folder)
    if found is None or not is_hollow(found, staged.job.id):
        return
    leaf, depth = (
        f"hollow-{trash.trash_leaf(account.name, staged.job.id)}",
        len(context.settings.layout.request_segments),
    )
    with suppress(FileNotFoundError):
        await context.disk.run(lambda: trash.discard(context.root, staged.folder, leaf, depth=depth))
        await empty_trash(context, leaf)
    log.warning("snapshot without tables replaced", account=account.name, job=staged.job.id, folder=staged.folder)


async def _adopt_existing(context: SyncContext, account: AccountSettings, staged: Staged) -> None:
    """Adopt the folder that already has the snapshot's name, if it is the snapshot of the same job."""
    found = await context.disk.run(adopt.read_snapshot, context.root, staged.folder)
    if found is None or found.snapshot.job != staged.job.id:
        message = f"{staged.folder} exists already and is not the snapshot of job {staged.job.id}"
        raise MirrorTampered(
            message, hint="move that folder out of the mirror. The next run then publishes the snapshot"
        )
    await adopt_snapshot(context, account, staged.job, staged.request, found)


async def _record(context: SyncContext, account: AccountSettings, staged: Staged, sealed: _Sealed) -> None:
    """Commit the snapshot to the manifest. Nothing is logged as done before this returns."""
    try:
        await context.manifest.publish(account.name, sealed.record, staged.files, sidecar_sha256=sealed.sidecar_sha256)
    except Fenced:
        await _withdraw(context, account, staged)
        raise


async def _withdraw(context: SyncContext, account: AccountSettings, staged: Staged) -> None:
    """Remove the folder of a job that another host has published and pruned since: no host would adopt it."""
    known = await context.manifest.job(account.name, staged.job.id)
    if known is None or known.state is not JobState.PRUNED:
        return
    leaf, depth = trash.trash_leaf(account.name, staged.job.id), len(context.settings.layout.request_segments)
    with suppress(FileNotFoundError):  # the folder was renamed before the pruning, which removed it
        await context.disk.run(lambda: trash.discard(context.root, staged.folder, leaf, depth=depth))
        await empty_trash(context, leaf)


def _expected(choice: Choice | None) -> dict[str, float]:
    """Return what the chosen method was expected to take, to compare with what it took."""
    if choice is None:
        return {}
    price = choice.price
    seconds = round(price.seconds, 1)
    return {"expected_calls": price.calls, "expected_bytes": price.size, "expected_seconds": seconds}


def _log_published(account: AccountSettings, staged: Staged, sealed: _Sealed) -> None:
    transfer = staged.transfer
    log.debug(
        "snapshot published",
        account=account.name,
        job=staged.job.id,
        folder=staged.folder,
        strategy=transfer.strategy,
        method=staged.decisions.method.value,
        reason=staged.decisions.reason,
        files=len(staged.files),
        fetched=sum(stored.how is How.FETCHED for stored in staged.files),
        fetched_bytes=transfer.fetched_bytes,
        linked=sum(stored.how is How.LINKED for stored in staged.files),
        linked_bytes=transfer.linked_bytes,
        changed=len(sealed.changes.changed),
        calls=transfer.calls,
        seconds=round(transfer.seconds, 3),
        **_expected(staged.decisions.choice),
    )
    for warning in sealed.record.summary.warnings:
        log.warning(
            "a table looks wrong compared with earlier snapshots",
            account=account.name,
            job=staged.job.id,
            code=warning.code,
            table=warning.table,
            what=warning.message,
            in_result="sync demo",
        )
