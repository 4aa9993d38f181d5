"""The alerts of an account, from the manifest alone. Every reader and sender of alerts uses this module.

Status, health, metrics, the report page, the heartbeat, hooks and notifications therefore agree, whether the daemon
is running or not. The module imports neither the network nor the log, because `dcsync status` imports it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from dcsync.core.alerts import Alert, AlertCode, AlertScope
from dcsync.core.anomaly import TableWarning, worst_first
from dcsync.core.completeness import ZIP_CODES
from dcsync.core.coverage import Coverage
from dcsync.core.events import EventKind
from dcsync.core.freshness import ends_soon
from dcsync.core.lifecycle import JobState, has_expired
from dcsync.core.model import JobId, JobPhase, Json, RequestId
from dcsync.core.ports import AccountFacts, KnownJob, KnownRequest
from dcsync.core.standing import StandingAlert, with_history
from dcsync.errors import DcsyncError
from dcsync.manifest import HookRun, HookRuns, PublishedRow, SqlManifest, StandingAlerts
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.manifest.damage import known_damage
from dcsync.manifest.hollow import hollow_snapshots
from dcsync.ops.alerts.job_alerts import job_alerts
from dcsync.ops.alerts.list_alerts import list_alerts
from dcsync.ops.alerts.request_alerts import request_alerts, with_red_alert
from dcsync.ops.context import AccountSettings
from dcsync.ops.coverage import coverage_of, gap_alerts, replaced_requests
from dcsync.ops.freshness import FollowedRequest, KnownAccount, follow_requests, known_account
from dcsync.ops.observed import Observations

#: How many jobs a hint names. The next alert names the others.
_MOST_NAMED = 10


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The alerts of an account, each key once, and what they follow from."""

    known: KnownAccount
    alerts: Sequence[Alert]
    #: The broken parts of the account, and those that all accounts share.
    broken: Sequence[BrokenPart]
    followed: Sequence[FollowedRequest] = ()
    coverage: Mapping[RequestId, Coverage] = field(default_factory=dict)


async def collect_alerts(manifest: SqlManifest, sources: AlertSources, now: datetime) -> Collected:
    """Return the alerts of an account."""
    account, known = sources.account, await known_account(manifest, sources.account.name)
    requests = known.requests
    wanted = {request.id for request in requests.values() if account.wants_request(request)}
    mirrored = [job for job in known.jobs.values() if _is_mirrored(account, job, wanted)]
    observed = Observations(manifest, account.name)
    listed = await observed.listings([job.job for job in mirrored if job.job.phase is JobPhase.UNKNOWN])
    broken = [part for owner in (account.name, None) for part in await BrokenParts(manifest, owner).load()]
    followed: Sequence[FollowedRequest] = ()
    coverage: Mapping[RequestId, Coverage] = {}
    found = [
        *([] if sources.token is None else [sources.token]),
        # After the token: the run may have met the same error, in other words.
        *_of_the_last_run(account.name, known.facts, sources.run.error),
        *job_alerts(account.name, mirrored, now, hints=sources.run.hints, listed=listed),
        *await list_alerts(observed, account, requests.values()),
        *_of_broken_parts(account, broken),
    ]
    # A manifest that is opened read-only may have an older schema, without the tables for the rest.
    if await manifest.is_current():
        followed = await follow_requests(manifest, account, known, now)
        ending = {item.freshness.request for item in followed if ends_soon(item.freshness, now)}
        # The daemon recorded why it could not extend them. Others may have been extended by hand since.
        found = [alert for alert in found if alert.code is not AlertCode.L_ENDS or alert.subject in ending]
        replaced = await replaced_requests(manifest, account.name, followed)
        promising = [item for item in followed if item.freshness.request not in replaced]
        found += request_alerts(account.name, promising, with_red_alert(found, mirrored), now)
        coverage = await coverage_of(manifest, account.name, followed, now)
        found += gap_alerts(account.name, followed, coverage, now)
        found += await _of_hollow(manifest, account, mirrored, requests, now)
        found += await _of_tables(manifest, sources, mirrored, requests)
        found += await _of_damage(manifest, account)
        found += [
            hook_failed(account.name, run)
            for run in await HookRuns(manifest).failed(account.name)
            if run.argv in sources.hooks
        ]
    unique: dict[tuple[str, str, str], Alert] = {}
    for alert in found:
        unique.setdefault(alert.key, alert)
    return Collected(known=known, alerts=list(unique.values()), broken=broken, followed=followed, coverage=coverage)


async def standing_alerts(manifest: SqlManifest, found: Collected, now: datetime) -> tuple[StandingAlert, ...]:
    """Return the alerts of an account with the history that the last run recorded. Nothing is written."""
    accounts = {alert.account for alert in found.alerts}
    known = await StandingAlerts(manifest).load(sorted(accounts)) if await manifest.is_current() else ()
    current = {(part.code, part.subject) for part in found.broken}
    # A run knows better hints than the manifest, and records them. Only that of a broken part may be newer.
    hints = {item.alert.key: item.alert.hint for item in known if item.alert.key[1:] not in current}
    alerts = [replace(alert, hint=hints.get(alert.key) or alert.hint) for alert in found.alerts]
    return tuple(with_history(alerts, known, now))


def hook_failed(account: str, run: HookRun) -> Alert:
    """Return the alert for a hook that failed on its last attempt."""
    event = f"{run.kind.value} {run.job or ''}".strip()
    message = f"the hook {run.argv[0]} failed for {event}: {run.error}"
    return Alert.of(AlertCode.H_FAILED, account=account, subject=run.argv[0], message=message, hint=hook_hint(run))


def hook_hint(run: HookRun) -> str:
    """Return the hint for a hook that failed on its last attempt."""
    if run.kind is EventKind.SNAPSHOT and run.job is not None:
        return f"fix the hook. Its next success makes up for this snapshot. To run it now: dcsync hooks rerun {run.job}"
    return "fix the hook. The next event runs it again"


def _is_mirrored(account: AccountSettings, known: KnownJob, wanted: Collection[RequestId]) -> bool:
    completed, start = known.job.completed_at, account.start
    return known.job.request_id in wanted and (start is None or completed is None or completed >= start)


def _of_the_last_run(account: str, facts: AccountFacts, error: DcsyncError | None) -> list[Alert]:
    if error is not None:
        alert = Alert.of_error(error, account=account)
    elif facts.error_code is not None:
        alert = Alert.of(AlertCode.parse(facts.error_code), account=account, message=facts.error or "")
    else:
        return []
    # It stopped the account, even if its code is usually that of a job.
    return [alert if alert.scope is AlertScope.MIRROR else replace(alert, scope=AlertScope.ACCOUNT)]


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
    alerts = []
    for row in rows:
        apart = [warning for warning in row.warnings if warning.code in ZIP_CODES]
        others = tuple(warning for warning in row.warnings if warning.code not in ZIP_CODES)
        alerts += [_zip_not_extracted(sources, row, warning) for warning in apart]
        if others:
            alerts.append(_tables_look_wrong(sources, replace(row, warnings=others), requests[row.request]))
    return alerts


async def _of_hollow(
    manifest: SqlManifest,
    account: AccountSettings,
    jobs: Iterable[KnownJob],
    requests: Mapping[RequestId, KnownRequest],
    now: datetime,
) -> list[Alert]:
    """Return the alerts for snapshots without tables, which earlier versions published: one per data request.

    They can be downloaded again until Autodesk deletes the extracts. After that, they are final losses.
    """
    hollow = await hollow_snapshots(manifest, account.name)
    by_request: dict[tuple[RequestId, bool], list[KnownJob]] = {}
    for known in sorted((known for known in jobs if known.job.id in hollow), key=_completed):
        is_lost = has_expired(known.job.completed_at, now)
        by_request.setdefault((known.job.request_id, is_lost), []).append(known)
    return [
        _published_hollow(account.name, requests[request], known, is_lost=is_lost)
        for (request, is_lost), known in by_request.items()
    ]


def _published_hollow(account: str, request: KnownRequest, jobs: Sequence[KnownJob], *, is_lost: bool) -> Alert:
    snapshots = "1 snapshot" if len(jobs) == 1 else f"{len(jobs)} snapshots"
    holds = "holds" if len(jobs) == 1 else "hold"
    message = f"{snapshots} of {request.description or request.id} {holds} no table (first: {jobs[0].folder})"
    if is_lost:
        message += ". Autodesk has deleted the extract" + ("" if len(jobs) == 1 else "s")
        lost = Alert.of(AlertCode.L_LOST, account=account, subject=request.id, message=message)
        return replace(lost, scope=AlertScope.REQUEST, is_final=True)
    named = " ".join(f"--job {known.job.id}" for known in jobs[:_MOST_NAMED])
    hint = f"run dcsync sync {named}, before Autodesk deletes the extracts after 30 days"
    return Alert.of(AlertCode.M_EMPTY, account=account, subject=request.id, message=message, hint=hint)


def _completed(known: KnownJob) -> tuple[bool, float, str]:
    completed = known.job.completed_at
    return completed is not None, 0.0 if completed is None else completed.timestamp(), known.job.id


async def _of_damage(manifest: SqlManifest, account: AccountSettings) -> list[Alert]:
    known = await known_damage(manifest, account.name)
    histories = [item for item in known if item.is_history]
    damage = [item for item in known if not (item.is_extra or item.is_history)]
    extra = [item for item in known if item.is_extra]
    alerts = []
    if histories:
        files = "1 file of a row history does" if len(histories) == 1 else f"{len(histories)} files of row histories do"
        message = f"{files} not match what was recorded (first: {histories[0].path})"
        hint = "run dcsync history --rebuild. If it says that no snapshot has some rows, restore the file from a backup"
        alerts.append(
            Alert.of(AlertCode.V_DAMAGED, account=account.name, subject="history", message=message, hint=hint)
        )
    if damage:
        files = "1 file in the mirror does" if len(damage) == 1 else f"{len(damage)} files in the mirror do"
        message = f"{files} not match what was published (first: {damage[0].path})"
        alerts.append(Alert.of(AlertCode.V_DAMAGED, account=account.name, message=message))
    if extra:
        files = "1 file was" if len(extra) == 1 else f"{len(extra)} files were"
        message = f"{files} added to published snapshots by another program (first: {extra[0].path})"
        alerts.append(Alert.of(AlertCode.V_EXTRA, account=account.name, message=message))
    return alerts


def _of_broken_parts(account: AccountSettings, parts: Iterable[BrokenPart]) -> list[Alert]:
    """Return an alert for each part that does not work."""
    return [
        Alert.of(part.code, account=account.name, subject=part.subject, message=part.message, hint=part.hint)
        for part in parts
    ]


def _tables_look_wrong(sources: AlertSources, row: PublishedRow, request: KnownRequest) -> Alert:
    warnings = worst_first(row.warnings)
    first, more = warnings[0], len(warnings) - 1
    others = (
        "" if not more else ", and 1 more table looks wrong" if more == 1 else f", and {more} more tables look wrong"
    )
    alert = Alert.of(
        AlertCode.parse(first.code),
        account=sources.account.name,
        subject=request.id,
        message=f"{first.table} {first.message}{others}",
        hint=f"compare: dcsync diff previous {row.job}",
    )
    tables: list[Json] = [
        {"code": warning.code, "table": warning.table, "message": warning.message} for warning in warnings
    ]
    return replace(alert, job=row.job, data={"folder": str(sources.root / row.folder), "tables": tables})


def _zip_not_extracted(sources: AlertSources, row: PublishedRow, warning: TableWarning) -> Alert:
    alert = Alert.of(
        AlertCode.parse(warning.code),
        account=sources.account.name,
        subject=row.request,
        message=f"{warning.table} {warning.message}",
    )
    return replace(alert, job=row.job, data={"folder": str(sources.root / row.folder)})
