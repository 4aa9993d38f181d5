"""Which snapshots the retention policy keeps, and what stays of the others. Nothing is changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dcsync.core.lifecycle import JobState
from dcsync.core.model import ARCHIVE_NAME, AccountName, DataRequest, JobId, RequestId, Snapshot
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.core.reduction import Division, divide, full_tables, recorded_windows
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
from dcsync.ops.integrity.window_tables import ALL_STAY, Recorded, WindowTables

_LATEST = "latest"
_UNKNOWN_LATEST = "latest cannot be read"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestVerdicts:
    """The verdicts on the snapshots of one data request, newest first.

    `again` has those on snapshots that were reduced before, and that have window tables that may go now. `recorded` has
    the names of the window tables that the row history records, by job.
    """

    account: AccountName
    request: RequestId
    description: str
    is_delta: bool
    document: DataRequest | None
    verdicts: tuple[Verdict, ...]
    again: tuple[Verdict, ...] = ()
    recorded: Mapping[JobId, frozenset[str]] = field(default_factory=dict)

    @property
    def every(self) -> tuple[Verdict, ...]:
        """All verdicts."""
        return (*self.verdicts, *self.again)

    def with_action(self, action: Action) -> tuple[Verdict, ...]:
        """Return the verdicts with this action."""
        return tuple(verdict for verdict in self.verdicts if verdict.action is action)

    @property
    def is_too_much(self) -> bool:
        """Whether the removal needs `--force`, because it is unusually large."""
        return removes_too_much(self.verdicts)


async def judge(
    context: MirrorContext, account: AccountName, policy: KeepPolicy, windows: WindowTables = ALL_STAY
) -> list[tuple[RequestVerdicts, DcsyncError | None]]:
    """Return the verdicts on each data request. With an error, `latest` cannot be read, and every snapshot is kept."""
    requests = await context.manifest.requests(account)
    published = await _by_request(context, account, JobState.PUBLISHED)
    # No rule counts them.
    reduced = await _by_request(context, account, JobState.REDUCED)
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
        snapshots = [_dated(known, held if known.folder in shown else ()) for known in published[identifier]]
        # A request that cannot be read may be a delta.
        is_delta = request is None or not request.is_described or _has_only_deltas(request)
        document = None if request is None else request.document
        verdicts = apply_policy(snapshots, policy, context.settings.zone, is_delta=is_delta)
        recorded = () if policy.keeps_everything else await windows.recorded(context, account, identifier)
        names: dict[JobId, frozenset[str]] = {}
        decided = RequestVerdicts(
            account=account,
            request=identifier,
            description="" if request is None else request.description,
            is_delta=is_delta,
            document=document,
            verdicts=tuple(await _spare_all(context, account, document, verdicts, recorded, names)),
            again=tuple(await _reduce_again(context, account, reduced.get(identifier, ()), recorded, names)),
            recorded=names,
        )
        judged.append((decided, error))
    return judged


async def _by_request(
    context: MirrorContext, account: AccountName, state: JobState
) -> Mapping[RequestId, list[KnownJob]]:
    found: dict[RequestId, list[KnownJob]] = {}
    for known in (await context.manifest.jobs(account, states={state})).values():
        if known.folder is not None:
            found.setdefault(known.job.request_id, []).append(known)
    return found


def _dated(known: KnownJob, held: tuple[str, ...] = ()) -> Dated:
    return Dated(job=known.job.id, folder=known.folder or "", completed_at=known.job.completed_at, held=held)


async def _reduce_again(
    context: MirrorContext,
    account: AccountName,
    reduced: Iterable[KnownJob],
    recorded: Recorded,
    names: dict[JobId, frozenset[str]],
) -> list[Verdict]:
    """Return verdicts on the reduced snapshots that have window tables that the row history records."""
    jobs = {job for job, _, _ in recorded}
    there = {known.job.id: known for known in reduced if known.job.id in jobs}
    verdicts = []
    for job, (snapshot, _) in (await SnapshotRows(context.manifest).snapshots(account, list(there))).items():
        windows = recorded_windows(snapshot.files, job, recorded)
        if windows:
            names[job] = windows
            division = Division(kept=snapshot.files, removed=())
            verdicts.append(Verdict(snapshot=_dated(there[job]), reasons=(), division=division))
    return verdicts


def _has_only_deltas(request: KnownRequest) -> bool:
    if request.document is None:
        return request.is_delta
    return request.is_delta and all(group.lower().startswith("cdc") for group in request.document.service_groups)


async def _spare_all(
    context: MirrorContext,
    account: AccountName,
    request: DataRequest | None,
    verdicts: Sequence[Verdict],
    recorded: Recorded,
    names: dict[JobId, frozenset[str]],
) -> list[Verdict]:
    """Decide what stays of each snapshot that no rule keeps. The verdicts are those of one request, newest first.

    Adds the window tables of each that the row history records to `names`.
    """
    rows = SnapshotRows(context.manifest)
    spared, newer, kept = [], set[str](), list[JobId]()
    found = await rows.snapshots(account, [verdict.snapshot.job for verdict in verdicts if not verdict.keep])
    for verdict in verdicts:
        job = verdict.snapshot.job
        if not verdict.keep and kept:
            newer |= full_tables(await rows.kinds(account, kept), request)
            kept.clear()
        snapshot = found[job][0] if job in found else None
        if snapshot is not None:
            names[job] = recorded_windows(snapshot.files, job, recorded)
        decided = await _spare(context, snapshot, request, verdict, newer, names.get(job, ()))
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
    recorded: Collection[str],
) -> Verdict:
    """Decide what stays of a snapshot that no rule keeps. `newer` has the full tables of newer whole snapshots."""
    if verdict.keep or snapshot is None:
        return verdict
    repeats = False
    archive = next((stored for stored in snapshot.files if stored.original == ARCHIVE_NAME), None)
    if archive is not None:
        repeats = await context.disk.run(reduce.archive_repeats, context.root, snapshot.folder, archive, snapshot.files)
    return spare_tables(verdict, divide(snapshot.files, request, archive_repeats=repeats, newer=newer), recorded)


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
