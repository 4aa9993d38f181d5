"""The alerts of data requests: late, slow, failed at Autodesk, inactive, ended, gone, or with an unknown schedule."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from dcsync.core import remedies
from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.freshness import Cause, FreshnessState, History, MissedSlot, RequestFreshness, ends_soon
from dcsync.core.lifecycle import ROOM_CODES, WAS_PUBLISHED, JobState
from dcsync.core.model import Job, JobId, JobPhase
from dcsync.core.ports import KnownJob
from dcsync.core.schedule import has_slots, runs_once
from dcsync.core.wire import time_json
from dcsync.errors import ExitStatus
from dcsync.ops.alerts.job_alerts import has_failed
from dcsync.ops.freshness import FollowedRequest

#: Codes of failed jobs that are one alert for all of them.
_SHARED_CODES = ROOM_CODES | {AlertCode.C_NOTABLES}
#: How long the schedule of a data request may be unknown. The list of data requests is read once in this time.
_UNFOLLOWED_AFTER = timedelta(days=1)
_OVER = "If it is over on purpose, name it in [[account]] retired"


def with_red_alert(alerts: Iterable[Alert], jobs: Iterable[KnownJob]) -> Collection[JobId]:
    """Return the jobs that have an alert which makes `status --check` fail, alone or for several jobs."""
    red = {alert.job for alert in alerts if alert.kind.exit_status is not ExitStatus.DONE}
    return {
        known.job.id
        for known in jobs
        if known.job.id in red or (has_failed(known) and known.reason_code in _SHARED_CODES)
    }


def request_alerts(
    account: str, followed: Iterable[FollowedRequest], red: Collection[JobId], now: datetime
) -> list[Alert]:
    """Return the alerts for data requests: gone, inactive, ended, failed the last time, late or slow.

    `red` are the jobs whose own alert makes `status --check` fail. Their slots need no second one.
    """
    alerts = []
    for item in followed:
        found, history = item.freshness, item.history
        is_done = found.state is FreshnessState.DONE and history.is_mirrored
        if is_done or found.state is FreshnessState.RETIRED or history.was_over(item.sighting.document):
            continue
        failed = _failed_at_autodesk(history)
        if failed is not None:
            alerts.append(_extract_failed(account, found, failed))
        alerts += [*_of_the_schedule(account, item, now), *_of_missed_slots(account, item, failed, red)]
    return alerts


def _of_the_schedule(account: str, item: FollowedRequest, now: datetime) -> list[Alert]:
    found, document = item.freshness, item.sighting.document
    if found.state is FreshnessState.GONE:
        return [_gone(account, found)]
    if found.state is FreshnessState.INACTIVE and document is not None and not runs_once(document):
        return [_inactive(account, found)]
    if found.state is FreshnessState.ENDED:
        return [_ended(account, found)]
    if _is_unfollowed(item, now):
        return [_schedule_unknown(account, found, is_visible=document is not None)]
    return [_ends(account, found)] if ends_soon(found, now) else []


def _of_missed_slots(account: str, item: FollowedRequest, failed: Job | None, red: Collection[JobId]) -> list[Alert]:
    found, polled_at = item.freshness, item.sighting.polled_at
    if polled_at is None:
        # Without a poll, dcsync does not know whether an extract has arrived, and no slot is missed.
        return []
    causes = {slot.cause for slot in found.missed if not _has_other_alert(slot, failed, red)}
    alerts = [_overdue(account, AlertCode.L_LATE, found, polled_at)] if causes - {Cause.SLOW} else []
    return [*alerts, _overdue(account, AlertCode.L_SLOW, found, polled_at)] if Cause.SLOW in causes else alerts


def _has_other_alert(slot: MissedSlot, failed: Job | None, red: Collection[JobId]) -> bool:
    """Whether another alert than `L-LATE` and `L-SLOW` says that the extract of a missed slot is not in the mirror."""
    if slot.cause is Cause.NOT_MIRRORED:
        return any(job in red for job in slot.jobs)
    # A cancelled job has no alert of its own.
    return slot.cause is Cause.FAILED and failed is not None


def _is_unfollowed(item: FollowedRequest, now: datetime) -> bool:
    """Whether the schedule of a data request is still unknown a day after dcsync first saw it."""
    document, since = item.sighting.document, item.history.since
    is_known = document is not None and (runs_once(document) or has_slots(document))
    is_unknown = item.freshness.state is FreshnessState.UNKNOWN and not is_known
    return is_unknown and since is not None and now - since >= _UNFOLLOWED_AFTER


def _failed_at_autodesk(history: History) -> Job | None:
    """Return the latest job that failed or never ended at Autodesk, unless a later extract is in the mirror."""
    ended = [
        known
        for known in history.jobs
        if known.job.created_at is not None
        and (_has_failed(known) or known.state in WAS_PUBLISHED)
        and (history.start is None or known.job.created_at >= history.start)
    ]
    newest = max(ended, key=lambda known: (known.job.created_at, known.job.id), default=None)
    return newest.job if newest is not None and _has_failed(newest) else None


def _has_failed(known: KnownJob) -> bool:
    never_ended = known.state is JobState.EMPTY and known.job.phase is JobPhase.PENDING
    return known.job.phase is JobPhase.FAILED or never_ended


def _extract_failed(account: str, request: RequestFreshness, job: Job) -> Alert:
    message = f"the extract of {job.created_at:%Y-%m-%d %H:%M}Z ({request.name}) failed at Autodesk: it has no files"
    return Alert.of(AlertCode.L_FAILED, account=account, subject=request.request, message=message)


def _gone(account: str, request: RequestFreshness) -> Alert:
    message = f"the data request {request.name} is no longer visible: it was deleted, or the permission was removed"
    return Alert.of(AlertCode.L_GONE, account=account, subject=request.request, message=message)


def _schedule_unknown(account: str, request: RequestFreshness, *, is_visible: bool) -> Alert:
    if is_visible:
        why, hint = "dcsync does not know its interval", "update dcsync, or report its schedule as a problem"
    else:
        why, hint = "Autodesk has never shown the data request to the signed-in user", ""
    message = f"the schedule of {request.name} is unknown, so a missing extract raises no alert: {why}"
    return Alert.of(AlertCode.L_SCHEDULE, account=account, subject=request.request, message=message, hint=hint)


def _inactive(account: str, request: RequestFreshness) -> Alert:
    message = f"the data request {request.name} was set inactive: it produces no more extracts"
    hint = f"run {remedies.activate(request.request)}. {_OVER}"
    return Alert.of(AlertCode.L_INACTIVE, account=account, subject=request.request, message=message, hint=hint)


def _ends(account: str, request: RequestFreshness) -> Alert:
    message = f"the schedule of {request.name} ends on {request.ends_at:%Y-%m-%d %H:%M}Z: no extract comes after that"
    hint = f"run {remedies.extend(request.request)}. dcsync notices the change within a day. {_OVER}"
    return Alert.of(AlertCode.L_ENDS, account=account, subject=request.request, message=message, hint=hint)


def _ended(account: str, request: RequestFreshness) -> Alert:
    message = f"the schedule of {request.name} ended on {request.ends_at:%Y-%m-%d %H:%M}Z: it produces no more extracts"
    hint = f"run {remedies.extend(request.request)}. dcsync notices the change within a day. {_OVER}"
    return Alert.of(AlertCode.L_ENDED, account=account, subject=request.request, message=message, hint=hint)


_REASONS = {
    None: "Autodesk has started no job for it",
    JobPhase.PENDING: "its job is still running",
    JobPhase.UNKNOWN: "its job has an unknown status",
    JobPhase.SUCCEEDED: "its job was late and is not mirrored yet",
    JobPhase.FAILED: "its job failed at Autodesk",
    JobPhase.CANCELLED: "its job was cancelled at Autodesk",
}
_NOT_MIRRORED = "Autodesk completed it in time, and it is not in the mirror"


def _overdue(account: str, code: AlertCode, request: RequestFreshness, as_of: datetime) -> Alert:
    """Return the alert for missed slots. It counts from the oldest one, whatever its cause."""
    oldest, count = request.missed[0], request.slots_missed
    hours = max(as_of - oldest.due_at, timedelta(0)) / timedelta(hours=1)
    by, when = f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days", f"{oldest.queued_at:%Y-%m-%d %H:%M}Z"
    why = _NOT_MIRRORED if oldest.cause is Cause.NOT_MIRRORED else _REASONS[oldest.phase]
    if count == 1:
        message = f"Autodesk's extract of {when} ({request.name}) is {by} overdue: {why}"
    else:
        message = f"{count} extracts of {request.name} are missing. The oldest, of {when}, is {by} overdue: {why}"
    alert = Alert.of(code, account=account, subject=request.request, message=message)
    return replace(alert, data={"slots_missed": count, "oldest_missed_at": time_json(oldest.queued_at)})
