"""Prune: remove the snapshots that the retention policy does not keep, or reduce them to rows that only they have.

Each is removed or reduced in one step. The newest snapshot of a data request always stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from dcsync.core.alerts import AlertCode
from dcsync.core.lifecycle import JobState
from dcsync.core.model import ARCHIVE_NAME, AccountName, DataRequest, JobId, Json, RequestId
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.core.reduction import divide, full_tables, rows_of
from dcsync.core.retention import (
    Action,
    Dated,
    KeepPolicy,
    Verdict,
    apply_policy,
    removes_too_much,
    spare_tables,
)
from dcsync.core.wire import time_json
from dcsync.errors import (
    DcsyncError,
    DiskError,
    DiskFull,
    DiskReadOnly,
    ExitStatus,
    InodesExhausted,
    MassChange,
    MirrorTampered,
)
from dcsync.manifest import SnapshotRows
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.mirror import reduce, trash
from dcsync.mirror.latest import shown_by_latest
from dcsync.ops.context import AccountSettings, MirrorContext
from dcsync.ops.integrity.reduce import reduce_snapshot
from dcsync.ops.trash import empty_trash
from dcsync.tasks import finish

log = structlog.get_logger(__name__)

_LATEST = "latest"
MASS_HINT = "check dcsync prune --dry-run. If you mean it, run dcsync prune --force"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestVerdicts:
    """The verdicts on the snapshots of one data request, newest first."""

    account: AccountName
    request: RequestId
    description: str
    is_delta: bool
    document: DataRequest | None
    verdicts: tuple[Verdict, ...]

    def with_action(self, action: Action) -> tuple[Verdict, ...]:
        """Return the verdicts with this action."""
        return tuple(verdict for verdict in self.verdicts if verdict.action is action)

    @property
    def is_too_much(self) -> bool:
        """Whether the removal needs `--force`, because it is unusually large."""
        return removes_too_much(self.verdicts)


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport:
    """The snapshots that were or would be removed or reduced.

    `freed` counts, for each of them, the bytes of the files that no other snapshot shares. `failed` has the snapshots
    that could not be removed or reduced and therefore stay whole, each with its error.
    """

    dry_run: bool
    requests: tuple[RequestVerdicts, ...]
    freed: Mapping[JobId, int]
    failed: Mapping[JobId, DcsyncError] = field(default_factory=dict)

    @property
    def removed(self) -> int:
        """How many snapshots are removed."""
        return self._count(Action.REMOVE)

    @property
    def reduced(self) -> int:
        """How many snapshots are reduced."""
        return self._count(Action.REDUCE)

    @property
    def kept(self) -> int:
        """How many snapshots stay whole."""
        return self._count(Action.KEEP) + len(self.failed)

    @property
    def freed_bytes(self) -> int:
        """How many bytes are freed."""
        return sum(self.freed.values())

    @property
    def exit_status(self) -> ExitStatus:
        """Return 0, or 3 if a snapshot could not be removed or reduced."""
        return ExitStatus.INCOMPLETE if self.failed else ExitStatus.DONE

    def json(self) -> dict[str, Json]:
        """Return the report for programs."""
        return {
            "dry_run": self.dry_run,
            "removed": self.removed,
            "reduced": self.reduced,
            "kept": self.kept,
            "freed_bytes": self.freed_bytes,
            "requests": [
                {
                    "account": request.account,
                    "request": request.request,
                    "description": request.description,
                    "delta": request.is_delta,
                    "too_much": request.is_too_much,
                    "snapshots": [self._verdict_json(verdict) for verdict in request.verdicts],
                }
                for request in self.requests
            ],
        }

    def _count(self, action: Action) -> int:
        return sum(
            verdict.snapshot.job not in self.failed
            for request in self.requests
            for verdict in request.with_action(action)
        )

    def _verdict_json(self, verdict: Verdict) -> dict[str, Json]:
        snapshot, tables = verdict.snapshot, () if verdict.division is None else verdict.division.tables
        error = self.failed.get(snapshot.job)
        return {
            "job": snapshot.job,
            "folder": snapshot.folder,
            "completed_at": time_json(snapshot.completed_at),
            "keep": verdict.keep,
            "action": verdict.action.value,
            "reasons": list(verdict.reasons),
            "kept_tables": [stored.name for stored in tables],
            "kept_rows": rows_of(tables) if tables else None,
            "freed_bytes": self.freed.get(snapshot.job, 0),
            "error": None if error is None else error.message,
            "hint": None if error is None else error.advice,
        }


async def prune(
    context: MirrorContext,
    accounts: Sequence[AccountSettings],
    policy: KeepPolicy,
    *,
    dry_run: bool = False,
    force: bool = False,
) -> PruneReport:
    """Remove the published snapshots that the policy does not keep, but no rows that exist nowhere else.

    A snapshot with window or delta tables is reduced to them. Raises `MassChange`, having removed nothing, when more
    than 40 % of a request's snapshots would be removed or reduced without `force` or `dry_run`. The refusal is an alert
    until a prune passes. A single snapshot may always be removed. A disk that is full or read-only ends the pruning,
    and the snapshots removed until then are removed completely. After any other error of one snapshot, the others
    follow. Cancelling is safe: it takes effect between two snapshots.
    """
    requests = [verdicts for account in accounts for verdicts in await _judge(context, account.name, policy)]
    if dry_run:
        freed = await _would_free(context, requests)
        return PruneReport(dry_run=True, requests=tuple(requests), freed=freed)
    refusals = {} if force else _refusals(requests)
    for account in accounts:
        refused = [refusals[account.name]] if account.name in refusals else []
        await BrokenParts(context.manifest, account.name).replace([AlertCode.M_MASS], [*map(_refused, refused)])
    if refusals:
        raise MassChange(next(iter(refusals.values())), hint=MASS_HINT)
    freed, failed = {}, {}
    for request, verdict in _to_do(requests):
        snapshot = verdict.snapshot
        try:
            if verdict.division is None:
                freed[snapshot.job] = await _remove(context, request, snapshot)
            else:
                freed[snapshot.job] = await reduce_snapshot(context, request.account, snapshot, verdict.division)
        except (DiskFull, InodesExhausted, DiskReadOnly):
            # The next snapshot would fail as well.
            raise
        except (MirrorTampered, DiskError) as error:
            log.warning(
                "snapshot not pruned",
                account=request.account,
                folder=snapshot.folder,
                error=error.message,
                hint=error.advice,
            )
            failed[snapshot.job] = error
    return PruneReport(dry_run=False, requests=tuple(requests), freed=freed, failed=failed)


def _to_do(requests: Sequence[RequestVerdicts]) -> list[tuple[RequestVerdicts, Verdict]]:
    return [(request, verdict) for request in requests for verdict in request.verdicts if not verdict.keep]


async def _would_free(context: MirrorContext, requests: Sequence[RequestVerdicts]) -> dict[JobId, int]:
    """Return the bytes that each removal would free, in the order of a prune."""
    snapshots = [verdict for _, verdict in _to_do(requests)]
    removals = [
        (
            verdict.snapshot.folder,
            frozenset() if verdict.division is None else frozenset(stored.name for stored in verdict.division.kept),
        )
        for verdict in snapshots
    ]
    freed = await context.disk.run(reduce.freed_bytes, context.root, removals)
    return {verdict.snapshot.job: size for verdict, size in zip(snapshots, freed, strict=True)}


async def _judge(context: MirrorContext, account: AccountName, policy: KeepPolicy) -> list[RequestVerdicts]:
    requests = await context.manifest.requests(account)
    # Reduced snapshots are not among them: no rule counts them, and nothing more is removed from them.
    published: dict[RequestId, list[KnownJob]] = {}
    for known in (await context.manifest.jobs(account, states={JobState.PUBLISHED})).values():
        if known.folder is not None:
            published.setdefault(known.job.request_id, []).append(known)
    judged = []
    for identifier in sorted(published):
        request = requests.get(identifier)
        shown = await _shown(context, account, identifier, published[identifier])
        snapshots = [
            Dated(
                job=known.job.id,
                folder=known.folder or "",
                completed_at=known.job.completed_at,
                held=(_LATEST,) if known.folder in shown else (),
            )
            for known in published[identifier]
        ]
        # A request that cannot be read may be a delta.
        is_delta = request is None or not request.is_described or _has_only_deltas(request)
        document = None if request is None else request.document
        verdicts = apply_policy(snapshots, policy, context.settings.zone, is_delta=is_delta)
        judged.append(
            RequestVerdicts(
                account=account,
                request=identifier,
                description="" if request is None else request.description,
                is_delta=is_delta,
                document=document,
                verdicts=tuple(await _spare_all(context, account, document, verdicts)),
            )
        )
    return judged


def _has_only_deltas(request: KnownRequest) -> bool:
    if request.document is None:
        return request.is_delta
    return request.is_delta and all(group.lower().startswith("cdc") for group in request.document.service_groups)


async def _spare_all(
    context: MirrorContext, account: AccountName, request: DataRequest | None, verdicts: Sequence[Verdict]
) -> list[Verdict]:
    """Decide what stays of each snapshot that no rule keeps. The verdicts are those of one request, newest first."""
    spared, newer = [], set[str]()
    to_judge = sum(not verdict.keep for verdict in verdicts)
    for verdict in verdicts:
        to_judge -= not verdict.keep
        decided = await _spare(context, account, request, verdict, newer)
        # A snapshot without a date comes first, and may be older than all others.
        if to_judge and decided.keep and verdict.snapshot.completed_at is not None:
            newer |= full_tables(await SnapshotRows(context.manifest).kinds(account, verdict.snapshot.job), request)
        spared.append(decided)
    return spared


async def _spare(
    context: MirrorContext, account: AccountName, request: DataRequest | None, verdict: Verdict, newer: Collection[str]
) -> Verdict:
    """Decide what stays of a snapshot that no rule keeps. `newer` has the full tables of newer whole snapshots."""
    if verdict.keep:
        return verdict
    found = await SnapshotRows(context.manifest).snapshot(account, verdict.snapshot.job)
    if found is None:
        return verdict
    snapshot, repeats = found[0], False
    archive = next((stored for stored in snapshot.files if stored.original == ARCHIVE_NAME), None)
    if archive is not None:
        repeats = await context.disk.run(reduce.archive_repeats, context.root, snapshot.folder, archive, snapshot.files)
    return spare_tables(verdict, divide(snapshot.files, request, archive_repeats=repeats, newer=newer))


async def _shown(
    context: MirrorContext, account: AccountName, request: RequestId, published: Sequence[KnownJob]
) -> set[str]:
    """Return the snapshot that `latest` shows, and the one that it should show after an interrupted run."""
    folders = sorted(known.folder for known in published if known.folder is not None)
    shown = {await context.manifest.newest_snapshot(account, request)}
    parsed = context.settings.layout
    depth = len(parsed.request_segments)
    for request_folder in sorted({"/".join(folder.split("/")[:depth]) for folder in folders}):
        shown.add(
            await context.disk.run(
                shown_by_latest,
                context.root,
                request_folder=request_folder,
                name=parsed.latest_name,
                snapshots=folders,
            )
        )
    return {folder for folder in shown if folder is not None}


def _refusals(requests: Sequence[RequestVerdicts]) -> dict[AccountName, str]:
    """Return the reason of each account whose data requests would lose too many snapshots."""
    refusals: dict[AccountName, str] = {}
    for request in requests:
        if request.is_too_much:
            message = (
                f"the retention policy would {_named(request)} of {len(request.verdicts)} snapshots of "
                f"{request.description!r} ({request.account}), more than 40 %"
            )
            refusals.setdefault(request.account, message)
    return refusals


def _refused(message: str) -> BrokenPart:
    hint = "check dcsync prune --dry-run. If you mean it, stop the daemon and run dcsync prune --force"
    # With a subject, because missing snapshots have the same code.
    return BrokenPart(code=AlertCode.M_MASS, subject="prune", message=message, hint=hint)


def _named(request: RequestVerdicts) -> str:
    counts = [(action, len(request.with_action(action))) for action in (Action.REMOVE, Action.REDUCE)]
    return " and ".join(f"{action.value} {count}" for action, count in counts if count)


async def _remove(context: MirrorContext, request: RequestVerdicts, snapshot: Dated) -> int:
    """Remove one snapshot and return the bytes that this freed."""
    context.root.check_still_there()
    return await finish(_remove_whole(context, request, snapshot))


async def _remove_whole(context: MirrorContext, request: RequestVerdicts, snapshot: Dated) -> int:
    """Rename the folder, write its line, record it, then delete the files. The next start finishes after a crash."""
    account, job = request.account, snapshot.job
    now = context.clock.now()
    record = await SnapshotRows(context.manifest).record(account, job)
    leaf = trash.trash_leaf(account, job)
    depth = len(context.settings.layout.request_segments)

    def discard() -> bool:
        try:
            trash.discard(context.root, snapshot.folder, leaf, depth=depth)
        except FileNotFoundError:
            # Something else removed it. Verify and the next start report it.
            return False
        if record is not None:
            try:
                trash.note_pruned(context.root, trash.Pruned(account=account, record=replace(record, pruned_at=now)))
            except DcsyncError:
                # On a full disk, for example: without its line the snapshot is not pruned.
                trash.restore(context.root, snapshot.folder, leaf)
                raise
        return True

    if not await context.disk.run(discard):
        log.warning("snapshot to be pruned is missing", account=account, job=job, folder=snapshot.folder)
        return 0
    await context.manifest.move(account, job, JobState.PRUNED, at=now)
    freed = await empty_trash(context, leaf)
    log.info("snapshot pruned", account=account, job=job, folder=snapshot.folder, freed_bytes=freed)
    return freed
