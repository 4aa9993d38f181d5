"""The days that the windows of an account's data requests cover, from the manifest alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from dcsync.core import coverage, remedies
from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.backfill import GROUP, GROUPS, missing_days
from dcsync.core.coverage import Coverage
from dcsync.core.freshness import FreshnessState
from dcsync.core.lifecycle import ON_DISK, WAS_PUBLISHED
from dcsync.core.model import AccountName, DataRequest, Job, Json, RequestId
from dcsync.core.schedule import runs_once
from dcsync.manifest import SqlManifest
from dcsync.ops.freshness import FollowedRequest


async def coverage_of(
    manifest: SqlManifest, account: AccountName, followed: Iterable[FollowedRequest], now: datetime
) -> Mapping[RequestId, Coverage]:
    """Return the coverage of each data request whose newest snapshot has window tables."""
    published: list[tuple[DataRequest, Sequence[Job]]] = []
    for item in followed:
        jobs = [known.job for known in item.history.jobs if known.state in ON_DISK]
        if item.sighting.document is not None and jobs:
            published.append((item.sighting.document, sorted(jobs, key=_age)))
    with_windows = await manifest.history.with_windows(account, [jobs[-1].id for _, jobs in published])
    windows = [(request, jobs) for request, jobs in published if jobs[-1].id in with_windows]
    recorded = await manifest.history.recorded_windows(account) if windows else {}
    return {
        request.id: coverage.coverage(request, jobs, now, others=windows, recorded=recorded)
        for request, jobs in windows
    }


async def replaced_requests(
    manifest: SqlManifest, account: AccountName, followed: Iterable[FollowedRequest]
) -> set[RequestId]:
    """Return the one-time data requests of activities that brought nothing, and whose days others brought."""
    followed = list(followed)
    failed = [
        (item, document)
        for item in followed
        if (document := item.sighting.document) is not None
        and runs_once(document)
        and document.service_groups == (GROUP,)
        and not item.history.is_mirrored
        and item.history.jobs
    ]
    if not failed:
        return set()
    recorded = await manifest.history.recorded_windows(account)
    found = set()
    for item, document in failed:
        wanted = coverage.window_of(document, item.history.jobs[0].job)
        others = [
            window
            for other in followed
            if (its := other.sighting.document) is not None
            and GROUPS & set(its.service_groups)
            and coverage.includes(its, [*document.project_ids])
            for known in other.history.jobs
            if known.state in WAS_PUBLISHED
            and (window := recorded.get(known.job.id) or coverage.window_of(its, known.job)) is not None
        ]
        if wanted is not None and not missing_days(wanted, others):
            found.add(document.id)
    return found


def gap_alerts(
    account: AccountName, followed: Iterable[FollowedRequest], found: Mapping[RequestId, Coverage], now: datetime
) -> list[Alert]:
    """Return the alerts for data requests whose windows leave out days that Autodesk still serves."""
    return [
        _gap(account, item, found[item.freshness.request], now)
        for item in followed
        if item.freshness.state is not FreshnessState.RETIRED
        and item.freshness.request in found
        and found[item.freshness.request].fillable(now)
    ]


def _gap(account: AccountName, item: FollowedRequest, found: Coverage, now: datetime) -> Alert:
    missing = found.fillable(now)
    days, first, last = sum(gap.count for gap in missing), missing[0].first, missing[-1].last
    which = f"of {first}" if days == 1 else f"of {days} days from {first} to {last}"
    message = f"no extract of {item.freshness.name} has the activities {which}"
    document = item.sighting.document
    fill = f"run a one-time data request over the missing days (at most {coverage.MAX_DAYS} at once)"
    if document is not None and GROUPS & set(document.service_groups):
        fill = f"run {remedies.backfill(coverage.Days(first=first, last=last))}"
    wider = None if document is None else coverage.wider_range(document)
    hint = fill if wider is None else f"set its date range in Autodesk's Data Connector to {wider}, and {fill}"
    alert = Alert.of(AlertCode.L_GAP, account=account, subject=item.freshness.request, message=message, hint=hint)
    data: dict[str, Json] = {"days": days, "first": first.isoformat(), "last": last.isoformat()}
    return replace(alert, data={**data, "gaps": found.json()["gaps"]})


def _age(job: Job) -> tuple[bool, float, str]:
    completed = job.completed_at
    return completed is not None, 0.0 if completed is None else completed.timestamp(), job.id
