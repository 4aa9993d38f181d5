"""Remove snapshots by the retention policy: each in one rename, and never the newest of a data request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, Json, RequestId
from dcsync.core.ports import KnownJob
from dcsync.core.retention import Dated, KeepPolicy, Verdict, apply_policy, removes_too_much
from dcsync.core.wire import time_json
from dcsync.errors import DcsyncError, MassChange
from dcsync.manifest import SnapshotRows
from dcsync.manifest.refusal import record_prune
from dcsync.mirror import trash
from dcsync.mirror.latest import shown_by_latest
from dcsync.ops.context import AccountSettings, MirrorContext
from dcsync.ops.integrity.missing import empty_trash
from dcsync.tasks import finish

log = structlog.get_logger(__name__)

_LATEST = "latest"
MASS_HINT = "check dcsync prune --dry-run; if you mean it, run dcsync prune --force"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestVerdicts:
    """The verdicts on the snapshots of one data request, newest first."""

    account: AccountName
    request: RequestId
    description: str
    is_delta: bool
    verdicts: tuple[Verdict, ...]

    @property
    def removed(self) -> tuple[Verdict, ...]:
        """The snapshots that are removed."""
        return tuple(verdict for verdict in self.verdicts if not verdict.keep)

    @property
    def is_too_much(self) -> bool:
        """Whether the removal needs `--force`, because it is unusually large."""
        return removes_too_much(self.verdicts)


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport:
    """What was pruned, or would be. `freed_bytes` counts the files that no other snapshot shares."""

    dry_run: bool
    requests: tuple[RequestVerdicts, ...]
    freed_bytes: int = 0

    @property
    def removed(self) -> int:
        """How many snapshots are removed."""
        return sum(len(request.removed) for request in self.requests)

    @property
    def kept(self) -> int:
        """How many snapshots are kept."""
        return sum(len(request.verdicts) for request in self.requests) - self.removed

    def json(self) -> dict[str, Json]:
        """Return the report for programs."""
        return {
            "dry_run": self.dry_run,
            "removed": self.removed,
            "kept": self.kept,
            "freed_bytes": self.freed_bytes,
            "requests": [
                {
                    "account": request.account,
                    "request": request.request,
                    "description": request.description,
                    "delta": request.is_delta,
                    "too_much": request.is_too_much,
                    "snapshots": [
                        {
                            "job": verdict.snapshot.job,
                            "folder": verdict.snapshot.folder,
                            "completed_at": time_json(verdict.snapshot.completed_at),
                            "keep": verdict.keep,
                            "reasons": list(verdict.reasons),
                        }
                        for verdict in request.verdicts
                    ],
                }
                for request in self.requests
            ],
        }


async def prune(
    context: MirrorContext,
    accounts: Sequence[AccountSettings],
    policy: KeepPolicy,
    *,
    dry_run: bool = False,
    force: bool = False,
) -> PruneReport:
    """Remove the published snapshots that the policy does not keep.

    Raises `MassChange`, having removed nothing, when more than 40 % of a request's snapshots would be removed without
    `force` or `dry_run`. The refusal is an alert until a prune passes. A single snapshot may always be removed. A
    `DiskError` ends the pruning, and the snapshots removed until then are removed completely. Cancelling is safe: it
    takes effect between two snapshots.
    """
    requests = [verdicts for account in accounts for verdicts in await _judge(context, account.name, policy)]
    report = PruneReport(dry_run=dry_run, requests=tuple(requests))
    if dry_run:
        return report
    refusals = {} if force else _refusals(requests)
    for account in accounts:
        await record_prune(context.manifest, account.name, refused=refusals.get(account.name))
    if refusals:
        raise MassChange(next(iter(refusals.values())), hint=MASS_HINT)
    freed = 0
    for request in requests:
        for verdict in request.removed:
            freed += await _remove(context, request, verdict.snapshot)
    return replace(report, freed_bytes=freed)


async def _judge(context: MirrorContext, account: AccountName, policy: KeepPolicy) -> list[RequestVerdicts]:
    requests = await context.manifest.requests(account)
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
        is_delta = request is None or request.is_delta or not request.is_described
        judged.append(
            RequestVerdicts(
                account=account,
                request=identifier,
                description="" if request is None else request.description,
                is_delta=is_delta,
                verdicts=tuple(apply_policy(snapshots, policy, context.settings.zone, is_delta=is_delta)),
            )
        )
    return judged


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
                f"the retention policy would remove {len(request.removed)} of {len(request.verdicts)} snapshots of "
                f"{request.description!r} ({request.account}), more than 40 %"
            )
            refusals.setdefault(request.account, message)
    return refusals


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
