"""The alerts of jobs: not mirrored, lost, about to expire, or with a status that dcsync does not know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from dcsync.core.alerts import Alert, AlertCode, AlertScope
from dcsync.core.lifecycle import (
    EXTRACT_LIFE,
    LOSS_HINTS,
    LOSSES,
    OPEN,
    ROOM_CODES,
    JobState,
    describe_status,
    nears_expiry,
)
from dcsync.core.model import Job, JobId, JobPhase
from dcsync.core.ports import KnownJob


def has_failed(known: KnownJob) -> bool:
    """Whether the last attempt failed. A job keeps the reason while it is tried again."""
    return known.state is JobState.FAILED or (known.state in OPEN and known.attempts > 0)


def job_alerts(
    account: str,
    jobs: Iterable[KnownJob],
    now: datetime,
    *,
    hints: Mapping[JobId, str],
    listed: Mapping[JobId, bool],
) -> list[Alert]:
    """Return the alerts for the jobs of an account. A job that the last run did not try still has its alert.

    `hints` are those of the jobs that failed in the run that just ended. `listed` says which jobs with an unknown
    status have a data listing.
    """
    ordered = sorted(jobs, key=lambda known: known.job.id)
    alerts, filtered = _waiting_for_room(account, ordered), []
    for known in ordered:
        job = known.job.id
        code = None if known.reason_code is None else AlertCode.parse(known.reason_code)
        if has_failed(known) and code is AlertCode.C_NOTABLES:
            filtered.append(job)
        elif has_failed(known) and code is not None and code not in ROOM_CODES:
            message, hint = f"job {job} cannot be mirrored: {known.reason}", hints.get(job, "")
            if known.next_try_at is not None:
                message += f". The next attempt is due at {known.next_try_at:%Y-%m-%d %H:%M}Z"
            failed = Alert.of(code, account=account, subject=job, message=message, hint=hint, may_pass=True)
            alerts.append(replace(failed, scope=AlertScope.JOB, job=job))
        elif known.state in LOSSES:
            alerts.append(_lost(account, known, code))
        elif known.state is JobState.WAITING and known.job.phase is JobPhase.UNKNOWN:
            alerts.append(_unclear(account, known.job, is_listed=listed.get(job, False)))
        if known.state in OPEN and nears_expiry(known.job.dated_at, now):
            message = f"job {job} of {known.job.dated_at:%Y-%m-%d} is not mirrored yet. Autodesk deletes its "
            message += "extract 30 days after it was completed"
            expiring = Alert.of(AlertCode.L_EXPIRING, account=account, subject=job, message=message)
            alerts.append(replace(expiring, job=job))
    if filtered:
        alerts.append(_without_tables(account, filtered))
    return alerts


def _without_tables(account: str, jobs: Sequence[JobId]) -> Alert:
    """Return the alert for extracts of which the configuration selects no table. It may concern every extract."""
    extracts = "1 extract" if len(jobs) == 1 else f"{len(jobs)} extracts"
    message = f"include and exclude in [[account]] leave no table of {extracts} (first: job {jobs[0]})"
    return replace(Alert.of(AlertCode.C_NOTABLES, account=account, message=message), scope=AlertScope.ACCOUNT)


def _waiting_for_room(account: str, jobs: Sequence[KnownJob]) -> list[Alert]:
    """Return one alert for all jobs that wait for space on the disk."""
    waiting = [known for known in jobs if known.state is JobState.FAILED and known.reason_code in ROOM_CODES]
    if not waiting:
        return []
    first = min(waiting, key=lambda known: (known.job.dated_at is None, known.job.dated_at, known.job.id))
    count = "1 extract waits" if len(waiting) == 1 else f"{len(waiting)} extracts wait"
    code = AlertCode.parse(first.reason_code or "")
    alert = Alert.of(code, account=account, message=f"{first.reason}; {count} for space")
    return [replace(alert, scope=AlertScope.MIRROR)]


def _lost(account: str, known: KnownJob, code: AlertCode | None) -> Alert:
    # An expired job may have the code of why it was not mirrored in time, or of how dcsync noticed the loss.
    if code in {None, AlertCode.DCSYNC} or known.state is JobState.EXPIRED:
        code = AlertCode.L_LOST
    message = f"job {known.job.id} is {known.state.value}: {known.reason}"
    hint = LOSS_HINTS[known.state]
    lost = Alert.of(code, account=account, subject=known.job.id, message=message, hint=hint)
    return replace(
        lost, scope=AlertScope.JOB, job=known.job.id, may_pass=False, is_final=known.state is JobState.EXPIRED
    )


def _unclear(account: str, job: Job, *, is_listed: bool) -> Alert:
    """Return the alert for a job whose status says neither that it has an extract nor that it has none."""
    of = "" if job.dated_at is None else f" of {job.dated_at:%Y-%m-%d %H:%M}Z"
    message, hint = f"job {job.id}{of} {describe_status(job)}, so it is not mirrored", ""
    if is_listed:
        message += ". Its data listing can be read"
        hint = f"if its extract is complete, mirror it with dcsync sync --job {job.id}. "
        hint += f"Autodesk deletes it after {EXTRACT_LIFE.days} days"
    alert = Alert.of(AlertCode.L_STATUS, account=account, subject=job.id, message=message, hint=hint)
    return replace(alert, job=job.id)
