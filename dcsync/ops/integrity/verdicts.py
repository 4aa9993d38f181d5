"""Which snapshots the retention policy keeps, and what stays of the others. Nothing is changed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dcsync.core.lifecycle import JobState
from dcsync.core.model import ARCHIVE_NAME, AccountName, DataRequest, JobId, RequestId, Snapshot
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.core.reduction import divide, full_tables
from dcsync.core.retention import (
    Action,
    Dated,
    KeepPolicy,
    Verdict,
    apply_policy,
    removes_too_much,
    spare_tables,
)
from dcsync.errors import DcsyncError, DiskError, MirrorTampered
from dcsync.manifest import SnapshotRows
from dcsync.mirror import reduce
from dcsync.mirror.latest import shown_by_latest
from dcsync.ops.context import MirrorContext

_LATEST = "latest"
_UNKNOWN_LATEST = "latest cannot be read"


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


async def judge(
    context: MirrorContext, account: AccountName, policy: KeepPolicy
) -> list[tuple[RequestVerdicts, DcsyncError | None]]:
    """Return the verdicts on each data request. With an error, `latest` cannot be read, and every snapshot is kept."""
    requests = await context.manifest.requests(account)
    # Reduced snapshots are not among them: no rule counts them, and nothing more is removed from them.
    published: dict[RequestId, list[KnownJob]] = {}
    for known in (await context.manifest.jobs(account, states={JobState.PUBLISHED})).values():
        if known.folder is not None:
            published.setdefault(known.job.request_id, []).append(known)
    judged = []
    for identifier in sorted(published):
        request = requests.get(identifier)
        error: DcsyncError | None = None
        try:
            shown = await _shown(context, account, identifier, published[identifier])
            held = (_LATEST,)
        except (DiskError, MirrorTampered) as unread:
            error, held = unread, (_UNKNOWN_LATEST,)
            shown = {known.folder for known in published[identifier] if known.folder is not None}
        snapshots = [
            Dated(
                job=known.job.id,
                folder=known.folder or "",
                completed_at=known.job.completed_at,
                held=held if known.folder in shown else (),
            )
            for known in published[identifier]
        ]
        # A request that cannot be read may be a delta.
        is_delta = request is None or not request.is_described or _has_only_deltas(request)
        document = None if request is None else request.document
        verdicts = apply_policy(snapshots, policy, context.settings.zone, is_delta=is_delta)
        decided = RequestVerdicts(
            account=account,
            request=identifier,
            description="" if request is None else request.description,
            is_delta=is_delta,
            document=document,
            verdicts=tuple(await _spare_all(context, account, document, verdicts)),
        )
        judged.append((decided, error))
    return judged


def _has_only_deltas(request: KnownRequest) -> bool:
    if request.document is None:
        return request.is_delta
    return request.is_delta and all(group.lower().startswith("cdc") for group in request.document.service_groups)


async def _spare_all(
    context: MirrorContext, account: AccountName, request: DataRequest | None, verdicts: Sequence[Verdict]
) -> list[Verdict]:
    """Decide what stays of each snapshot that no rule keeps. The verdicts are those of one request, newest first."""
    rows = SnapshotRows(context.manifest)
    spared, newer, kept = [], set[str](), list[JobId]()
    found = await rows.snapshots(account, [verdict.snapshot.job for verdict in verdicts if not verdict.keep])
    for verdict in verdicts:
        job = verdict.snapshot.job
        if not verdict.keep and kept:
            newer |= full_tables(await rows.kinds(account, kept), request)
            kept.clear()
        decided = await _spare(context, found[job][0] if job in found else None, request, verdict, newer)
        # A snapshot without a date comes first, and may be older than all others.
        if decided.keep and verdict.snapshot.completed_at is not None:
            kept.append(job)
        spared.append(decided)
    return spared


async def _spare(
    context: MirrorContext,
    snapshot: Snapshot | None,
    request: DataRequest | None,
    verdict: Verdict,
    newer: Collection[str],
) -> Verdict:
    """Decide what stays of a snapshot that no rule keeps. `newer` has the full tables of newer whole snapshots."""
    if verdict.keep or snapshot is None:
        return verdict
    repeats = False
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
