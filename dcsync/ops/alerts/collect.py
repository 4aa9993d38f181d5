"""The alerts of an account, from the manifest alone. Every reader and sender of alerts uses this module.

Status, health, metrics, the report page, the heartbeat, hooks and notifications therefore agree, whether the daemon
is running or not. The module imports neither the network nor the log, because `dcsync status` imports it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from dcsync.core.alerts import Alert, AlertCode, AlertScope, StandingAlert, with_history
from dcsync.core.events import EventKind
from dcsync.core.freshness import Expectation, Stage, expect
from dcsync.core.lifecycle import LOSS_HINTS, LOSSES, OPEN, JobState, nears_expiry
from dcsync.core.model import DataRequest, Job, JobId, JobPhase, Json, RequestId
from dcsync.core.ports import AccountFacts, KnownJob, KnownRequest
from dcsync.errors import DcsyncError
from dcsync.manifest import HookRun, HookRuns, PublishedRow, SqlManifest, StandingAlerts, StoredValues
from dcsync.manifest.damage import known_damage
from dcsync.manifest.refusal import refused_prune
from dcsync.ops.context import AccountSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """Facts of the run that just ended, which the manifest does not keep."""

    #: The error that stopped the run.
    error: DcsyncError | None = None
    #: The hints of the jobs that failed.
    hints: Mapping[JobId, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSources:
    """Everything except the manifest that decides which alerts an account has."""

    account: AccountSettings
    #: The mirror's folder. An event names a snapshot by its full path.
    root: Path
    #: The programs of the hooks that are configured now. Failures of other programs do not matter.
    hooks: Collection[tuple[str, ...]] = ()
    #: The alert about the refresh token, from the token store.
    token: Alert | None = None
    run: RunFacts = field(default_factory=RunFacts)


async def collect_alerts(
    manifest: SqlManifest, sources: AlertSources, now: datetime, *, jobs: Mapping[JobId, KnownJob] | None = None
) -> list[Alert]:
    """Return the alerts of an account, each key once. Without `jobs`, all jobs of the account are read."""
    account = sources.account
    jobs = await manifest.jobs(account.name) if jobs is None else jobs
    facts = await manifest.facts(account.name)
    requests = await manifest.requests(account.name)
    wanted = {request.id for request in requests.values() if account.wants_request(request)}
    mirrored = [known for known in jobs.values() if _is_mirrored(account, known, wanted)]
    found = [
        *([] if sources.token is None else [sources.token]),
        # After the token: the run may have met the same error, in other words.
        *_of_the_last_run(account.name, facts, sources.run.error),
        *_of_jobs(account.name, mirrored, sources.run.hints, now),
    ]
    # A manifest that is opened read-only may have an older schema, without the tables for the rest.
    if await manifest.is_current():
        found += await _of_requests(manifest, account, jobs.values(), wanted, facts)
        found += await _of_tables(manifest, sources, mirrored, requests)
        found += await _of_damage(manifest, account)
        found += await _of_prune(manifest, account)
        found += [
            hook_failed(account.name, run)
            for run in await HookRuns(manifest).failed(account.name)
            if run.argv in sources.hooks
        ]
    unique: dict[tuple[str, str, str], Alert] = {}
    for alert in found:
        unique.setdefault(alert.key, alert)
    return list(unique.values())


async def standing_alerts(manifest: SqlManifest, alerts: Sequence[Alert], now: datetime) -> tuple[StandingAlert, ...]:
    """Return these alerts with the history that the last run recorded. Nothing is written."""
    accounts = {alert.account for alert in alerts}
    known = await StandingAlerts(manifest).load(sorted(accounts)) if await manifest.is_current() else ()
    # A run knows better hints than the manifest, and records them.
    hints = {item.alert.key: item.alert.hint for item in known}
    alerts = [replace(alert, hint=hints.get(alert.key) or alert.hint) for alert in alerts]
    return tuple(with_history(alerts, known, now))


def hook_failed(account: str, run: HookRun) -> Alert:
    """Return the alert for a hook that failed on its last attempt."""
    event = f"{run.kind.value} {run.job or ''}".strip()
    message = f"the hook {run.argv[0]} failed for {event}: {run.error}"
    return Alert.of(AlertCode.H_FAILED, account=account, subject=run.argv[0], message=message, hint=hook_hint(run))


def hook_hint(run: HookRun) -> str:
    """Return the hint for a hook that failed on its last attempt."""
    if run.kind is EventKind.SNAPSHOT and run.job is not None:
        return f"fix the hook, then run: dcsync hooks rerun {run.job}"
    return "fix the hook; the next event runs it again"


def _is_mirrored(account: AccountSettings, known: KnownJob, wanted: Collection[RequestId]) -> bool:
    completed, start = known.job.completed_at, account.start
    return known.job.request_id in wanted and (start is None or completed is None or completed >= start)


def _of_the_last_run(account: str, facts: AccountFacts, error: DcsyncError | None) -> list[Alert]:
    if error is not None:
        return [Alert.of_error(error, account=account)]
    if facts.error_code is None:
        return []
    return [Alert.of(AlertCode.parse(facts.error_code), account=account, message=facts.error or "")]


def _of_jobs(account: str, jobs: Iterable[KnownJob], hints: Mapping[JobId, str], now: datetime) -> list[Alert]:
    """Return the alerts for jobs that failed, are lost, or whose extract Autodesk will soon delete.

    All known jobs count. A job that the last run did not try still has its alert.
    """
    alerts = []
    for known in sorted(jobs, key=lambda known: known.job.id):
        job = known.job.id
        code = None if known.reason_code is None else AlertCode.parse(known.reason_code)
        if known.state is JobState.FAILED and code is not None:
            message, hint = f"job {job} cannot be mirrored: {known.reason}", hints.get(job, "")
            failed = Alert.of(code, account=account, subject=job, message=message, hint=hint, may_pass=True)
            alerts.append(replace(failed, scope=AlertScope.JOB, job=job))
        elif known.state in LOSSES:
            message, hint = f"job {job} is {known.state.value}: {known.reason}", LOSS_HINTS[known.state]
            lost = Alert.of(code or AlertCode.L_LOST, account=account, subject=job, message=message, hint=hint)
            alerts.append(replace(lost, scope=AlertScope.JOB, job=job, may_pass=False, is_final=True))
        if known.state in OPEN and nears_expiry(known.job.completed_at, now):
            message = f"job {job} of {known.job.completed_at:%Y-%m-%d} is not mirrored yet; Autodesk deletes its "
            message += "extract 30 days after it was completed"
            expiring = Alert.of(AlertCode.L_EXPIRING, account=account, subject=job, message=message)
            alerts.append(replace(expiring, job=job))
    return alerts


async def _of_requests(
    manifest: SqlManifest,
    account: AccountSettings,
    jobs: Iterable[KnownJob],
    wanted: Collection[RequestId],
    facts: AccountFacts,
) -> list[Alert]:
    """Return the alerts for data requests that are mirrored: gone, inactive, failed the last time, or late."""
    unseen = set(json.loads(await StoredValues(manifest).load(f"gone:{account.name}") or "[]"))
    by_request: dict[RequestId, list[Job]] = {}
    for known in jobs:
        by_request.setdefault(known.job.request_id, []).append(known.job)
    alerts = []
    for request in (await manifest.request_documents(account.name)).values():
        if request.id not in wanted:
            continue
        its_jobs = by_request.get(request.id, [])
        failed = _failed_at_autodesk(its_jobs)
        if failed is not None:
            alerts.append(_extract_failed(account.name, request, failed))
        if request.id in unseen:
            alerts.append(_gone(account.name, request))
            continue
        if request.is_active is False and (request.schedule_interval or "").upper() != "ONE_TIME":
            alerts.append(_inactive(account.name, request))
        # As of the last poll. Without a poll, dcsync does not know whether the extract has arrived.
        if facts.last_poll_at is not None:
            expected = expect(request, its_jobs, facts.last_poll_at)
            if expected is not None and expected.stage in {Stage.LATE, Stage.SLOW}:
                alerts.append(_late(account.name, request, expected, facts.last_poll_at))
    return alerts


async def _of_tables(
    manifest: SqlManifest,
    sources: AlertSources,
    jobs: Iterable[KnownJob],
    requests: Mapping[RequestId, KnownRequest],
) -> list[Alert]:
    """Return the alerts for tables that look wrong in the latest snapshot of their data request."""
    latest: dict[RequestId, KnownJob] = {}
    for known in jobs:
        if known.state is JobState.PUBLISHED:
            other = latest.get(known.job.request_id)
            if other is None or _completed(known) > _completed(other):
                latest[known.job.request_id] = known
    rows = await manifest.history.published(sources.account.name, [known.job.id for known in latest.values()])
    return [_tables_look_wrong(sources, row, requests[row.request]) for row in rows if row.warnings]


def _completed(known: KnownJob) -> tuple[bool, float, str]:
    completed = known.job.completed_at
    return completed is not None, 0.0 if completed is None else completed.timestamp(), known.job.id


async def _of_damage(manifest: SqlManifest, account: AccountSettings) -> list[Alert]:
    known = await known_damage(manifest, account.name)
    damage, extra = [item for item in known if not item.is_extra], [item for item in known if item.is_extra]
    alerts = []
    if damage:
        files = "1 file in the mirror does" if len(damage) == 1 else f"{len(damage)} files in the mirror do"
        message = f"{files} not match what was published (first: {damage[0].path})"
        alerts.append(Alert.of(AlertCode.V_DAMAGED, account=account.name, message=message))
    if extra:
        files = "1 file was" if len(extra) == 1 else f"{len(extra)} files were"
        message = f"{files} added to published snapshots by another program (first: {extra[0].path})"
        alerts.append(Alert.of(AlertCode.V_EXTRA, account=account.name, message=message))
    return alerts


async def _of_prune(manifest: SqlManifest, account: AccountSettings) -> list[Alert]:
    refused = await refused_prune(manifest, account.name)
    if refused is None:
        return []
    hint = "check dcsync prune --dry-run. If you mean it, stop the daemon and run dcsync prune --force"
    # With a subject, because missing snapshots have the same code.
    return [Alert.of(AlertCode.M_MASS, account=account.name, subject="prune", message=refused, hint=hint)]


def _failed_at_autodesk(jobs: Sequence[Job]) -> Job | None:
    """Return the latest ended job if it failed at Autodesk, which means that day has no extract."""
    ended = [job for job in jobs if job.phase in {JobPhase.FAILED, JobPhase.SUCCEEDED} and job.created_at is not None]
    newest = max(ended, key=lambda job: (job.created_at, job.id), default=None)
    return newest if newest is not None and newest.phase is JobPhase.FAILED else None


def _extract_failed(account: str, request: DataRequest, job: Job) -> Alert:
    message = f"the extract of {job.created_at:%Y-%m-%d %H:%M}Z ({_named(request)}) failed at Autodesk: it has no files"
    return Alert.of(AlertCode.L_FAILED, account=account, subject=request.id, message=message)


def _gone(account: str, request: DataRequest) -> Alert:
    message = f"the data request {_named(request)} is no longer visible: it was deleted, or the permission was removed"
    return Alert.of(AlertCode.L_GONE, account=account, subject=request.id, message=message)


def _inactive(account: str, request: DataRequest) -> Alert:
    message = f"the data request {_named(request)} was set inactive: it produces no more extracts"
    return Alert.of(AlertCode.L_INACTIVE, account=account, subject=request.id, message=message)


def _late(account: str, request: DataRequest, expected: Expectation, now: datetime) -> Alert:
    hours = expected.late_by(now) / timedelta(hours=1)
    by = f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
    is_slow = expected.stage is Stage.SLOW
    why = "its job is still running" if is_slow else "Autodesk has started no job for it"
    message = f"Autodesk's extract of {expected.queued_at:%Y-%m-%d %H:%M}Z ({_named(request)}) is {by} overdue: {why}"
    code = AlertCode.L_SLOW if is_slow else AlertCode.L_LATE
    return Alert.of(code, account=account, subject=request.id, message=message)


def _tables_look_wrong(sources: AlertSources, row: PublishedRow, request: KnownRequest) -> Alert:
    first, more = row.warnings[0], len(row.warnings) - 1
    others = "" if not more else f", and {more} more tables look wrong"
    alert = Alert.of(
        AlertCode.parse(first.code),
        account=sources.account.name,
        subject=request.id,
        message=f"{first.table} {first.message}{others}",
        hint=f"compare: dcsync diff previous {row.job}",
    )
    tables: list[Json] = [
        {"code": warning.code, "table": warning.table, "message": warning.message} for warning in row.warnings
    ]
    return replace(alert, job=row.job, data={"folder": str(sources.root / row.folder), "tables": tables})


def _named(request: DataRequest) -> str:
    return request.description or request.id
