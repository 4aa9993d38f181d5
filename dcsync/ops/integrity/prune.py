"""Prune: remove the snapshots that the retention policy does not keep, or reduce them to rows that only they have.

Each is removed or reduced in one step. The newest snapshot of a data request always stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from dcsync.core.alerts import AlertCode
from dcsync.core.model import AccountName, JobId, Json
from dcsync.core.reduction import Division, rows_of, without_windows
from dcsync.core.retention import (
    Action,
    Dated,
    KeepPolicy,
    Verdict,
    unproved,
)
from dcsync.core.wire import time_json
from dcsync.errors import (
    DcsyncError,
    DiskError,
    DiskReadOnly,
    ExitStatus,
    MassChange,
    MirrorTampered,
)
from dcsync.manifest import SnapshotRows
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.mirror import reduce
from dcsync.mirror.nesting import refuse_of_other
from dcsync.ops.context import AccountSettings, MirrorContext
from dcsync.ops.integrity.reduce import reduce_snapshot
from dcsync.ops.integrity.remove import AT_ONCE, remove_snapshots
from dcsync.ops.integrity.verdicts import RequestVerdicts, judge
from dcsync.ops.integrity.window_tables import ALL_STAY, WindowTables

log = structlog.get_logger(__name__)

#: The codes of the alerts that each prune records or resolves.
PRUNE_CODES = (AlertCode.M_MASS, AlertCode.M_PRUNE)

MASS_HINT = "check dcsync prune --dry-run. If you mean it, run dcsync prune --force"


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
                    "snapshots": [self._verdict_json(verdict) for verdict in request.every],
                }
                for request in self.requests
            ],
        }

    def _count(self, action: Action) -> int:
        return sum(
            verdict.action is action and verdict.snapshot.job not in self.failed
            for request in self.requests
            for verdict in request.every
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
    windows: WindowTables = ALL_STAY,
) -> PruneReport:
    """Remove the published snapshots that the policy does not keep, but no rows that exist nowhere else.

    A snapshot with window or delta tables is reduced to them. A window table of it goes too if `windows` proves it,
    also of a snapshot that was reduced before. A dry run proves nothing, and believes what is recorded. Raises
    `MassChange`, having removed nothing, when more than 40 % of a request's snapshots would be removed or reduced
    without `force` or `dry_run`. The refusal is an alert until a prune passes. A single snapshot may always be removed.
    A read-only disk ends the pruning, and the snapshots removed until then are removed completely. After any other
    error of one snapshot, the others follow. Such a snapshot is an alert until a prune removes or keeps it. Cancelling
    is safe: each snapshot stays, or is recorded as pruned. The next start removes what is left of it.
    """
    judged = [judged for account in accounts for judged in await judge(context, account.name, policy, windows)]
    requests = [verdicts for verdicts, _ in judged]
    if dry_run:
        requests = [_as_recorded(request) for request in requests]
        freed, failed = await _would_free(context, requests)
        return PruneReport(dry_run=True, requests=tuple(requests), freed=freed, failed=failed)
    refusals = {} if force else _refusals(requests)
    for account in accounts:
        refused = [refusals[account.name]] if account.name in refusals else []
        await BrokenParts(context.manifest, account.name).replace([AlertCode.M_MASS], [*map(_refused, refused)])
    if refusals:
        raise MassChange(next(iter(refusals.values())), hint=MASS_HINT)
    failures = _Failures()
    failures.unread = [(verdicts, error) for verdicts, error in judged if error is not None]
    try:
        freed, divisions = await _remove_all(context, requests, failures, windows)
    finally:
        for account in accounts:
            await BrokenParts(context.manifest, account.name).replace([AlertCode.M_PRUNE], failures.of(account.name))
    done = tuple(_as_done(request, divisions, failures.by_job) for request in requests)
    report = PruneReport(dry_run=False, requests=done, freed=freed, failed=failures.by_job)
    if freed:
        log.info(
            "snapshots pruned",
            removed=report.removed,
            reduced=report.reduced,
            kept=report.kept,
            freed_bytes=report.freed_bytes,
            in_result="prune",
        )
    return report


@dataclass(slots=True)
class _Failures:
    """What a prune could not do, each with its error."""

    by_job: dict[JobId, DcsyncError] = field(default_factory=dict)
    snapshots: list[tuple[AccountName, Dated, DcsyncError]] = field(default_factory=list)
    #: The data requests whose `latest` cannot be read. All their snapshots are kept.
    unread: list[tuple[RequestVerdicts, DcsyncError]] = field(default_factory=list)

    def add(self, account: AccountName, snapshot: Dated, error: DcsyncError) -> None:
        """Add a snapshot that stays whole. Raises `DiskReadOnly`: the next snapshot would fail as well."""
        if isinstance(error, DiskReadOnly):
            raise error
        log.warning(
            "snapshot not pruned",
            account=account,
            folder=snapshot.folder,
            error=error.message,
            hint=error.advice,
            in_result="prune",
        )
        self.by_job[snapshot.job] = error
        self.snapshots.append((account, snapshot, error))

    def of(self, account: AccountName) -> list[BrokenPart]:
        """Return the alerts of an account."""
        parts = [
            _not_pruned(snapshot.job, snapshot.folder, error)
            for owner, snapshot, error in self.snapshots
            if owner == account
        ]
        return parts + [
            _not_pruned(verdicts.request, f"the data request {verdicts.description!r}", error)
            for verdicts, error in self.unread
            if verdicts.account == account
        ]


def _not_pruned(subject: str, what: str, error: DcsyncError) -> BrokenPart:
    hint = f"{error.advice}. " if error.advice else ""
    return BrokenPart(
        code=AlertCode.M_PRUNE,
        subject=subject,
        message=f"{what} cannot be pruned: {error.message}",
        hint=f"{hint}dcsync tries again at the next prune, every night while the daemon runs",
    )


async def _remove_all(
    context: MirrorContext, requests: Sequence[RequestVerdicts], failures: _Failures, windows: WindowTables
) -> tuple[dict[JobId, int], dict[JobId, Division]]:
    """Remove or reduce each snapshot that does not stay whole. Return the bytes that each freed, and what stayed."""
    freed: dict[JobId, int] = {}
    divisions: dict[JobId, Division] = {}
    to_do = _to_do(requests)
    for account in dict.fromkeys(request.account for request in requests):
        removed = [
            verdict.snapshot for request, verdict in to_do if request.account == account and verdict.division is None
        ]
        for start in range(0, len(removed), AT_ONCE):
            removal = await remove_snapshots(context, account, removed[start : start + AT_ONCE])
            freed |= removal.freed
            for snapshot, error in removal.failed:
                failures.add(account, snapshot, error)
    for request, verdict in to_do:
        job = verdict.snapshot.job
        if verdict.division is None:
            continue
        try:
            await context.disk.run(refuse_of_other, context.root, verdict.snapshot.folder)
            async with windows.proved(context, request.account, request.request, job) as proved:
                division = without_windows(verdict.division, proved)
                if not division.frees_tables:
                    continue
                freed[job] = await reduce_snapshot(context, request.account, verdict.snapshot, division)
            divisions[job] = division
        except (MirrorTampered, DiskError) as error:
            failures.add(request.account, verdict.snapshot, error)
    if freed:
        await SnapshotRows(context.manifest).forget_unused()
    return freed, divisions


def _as_done(
    request: RequestVerdicts, divisions: Mapping[JobId, Division], failed: Mapping[JobId, DcsyncError]
) -> RequestVerdicts:
    """Return the verdicts as they were carried out."""

    def done(verdict: Verdict) -> Verdict:
        job, division = verdict.snapshot.job, verdict.division
        if job in divisions:
            return replace(verdict, division=divisions[job])
        return verdict if division is None or job in failed else unproved(verdict)

    again = tuple(done(verdict) for verdict in request.again)
    return replace(
        request,
        verdicts=tuple(done(verdict) for verdict in request.verdicts),
        again=tuple(verdict for verdict in again if not verdict.keep),
    )


def _as_recorded(request: RequestVerdicts) -> RequestVerdicts:
    """Return the verdicts as they would be carried out if every table were proved that is recorded."""

    def expected(verdict: Verdict) -> Verdict:
        if verdict.division is None:
            return verdict
        recorded = request.recorded.get(verdict.snapshot.job, ())
        return replace(verdict, division=without_windows(verdict.division, recorded))

    verdicts, again = ([expected(verdict) for verdict in found] for found in (request.verdicts, request.again))
    return replace(request, verdicts=tuple(verdicts), again=tuple(again))


def _to_do(requests: Sequence[RequestVerdicts]) -> list[tuple[RequestVerdicts, Verdict]]:
    return [(request, verdict) for request in requests for verdict in request.every if not verdict.keep]


async def _would_free(
    context: MirrorContext, requests: Sequence[RequestVerdicts]
) -> tuple[dict[JobId, int], dict[JobId, DcsyncError]]:
    """Return the bytes that each removal would free, in the order of a prune, and the snapshots that cannot be read."""
    snapshots = [verdict for _, verdict in _to_do(requests)]
    removals = [
        (
            verdict.snapshot.folder,
            frozenset() if verdict.division is None else frozenset(stored.name for stored in verdict.division.kept),
        )
        for verdict in snapshots
    ]
    freed = await context.disk.run(reduce.freed_bytes, context.root, removals)
    sizes: dict[JobId, int] = {}
    failed: dict[JobId, DcsyncError] = {}
    for verdict, size in zip(snapshots, freed, strict=True):
        if isinstance(size, DcsyncError):
            failed[verdict.snapshot.job] = size
        else:
            sizes[verdict.snapshot.job] = size
    return sizes, failed


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
    # With a subject, because missing snapshots have the same code.
    return BrokenPart(code=AlertCode.M_MASS, subject="prune", message=message, hint=MASS_HINT)


def _named(request: RequestVerdicts) -> str:
    counts = [(action, len(request.with_action(action))) for action in (Action.REMOVE, Action.REDUCE)]
    return " and ".join(f"{action.value} {count}" for action, count in counts if count)
