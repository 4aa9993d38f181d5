"""The slots of a data request: the times at which its schedule promises an extract. Pure.

Autodesk does not document `effectiveFrom` to the minute, so past jobs show how long after its slot a job is queued,
and how long it takes.
"""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from dcsync.core.model import DataRequest, Job, JobPhase

#: The number of newest jobs from which the usual times are taken.
_RECENT = 7
#: The assumption without past jobs. Observed extracts took 5 to 40 minutes.
_FIRST_DURATION = timedelta(minutes=40)
#: An extract is overdue only after this long, or after half of its usual duration if that is longer.
GRACE = timedelta(hours=1)
#: The same for a data request that runs once. Autodesk does not say when it runs.
_GRACE_ONCE = timedelta(days=1)
#: A job may be queued a little before its slot, because clocks differ.
EARLY = timedelta(minutes=30)
#: A job that was created further in the future than this is ignored: its clock was wrong.
AHEAD = timedelta(days=1)
#: Numbers and years beyond these are not a schedule, and exceed the range of a date.
_MOST_TIMES = 1000
_LAST_YEAR = 9000

_DAYS = {"DAY": 1, "WEEK": 7}
_MONTHS = {"MONTH": 1, "YEAR": 12}


@dataclass(frozen=True, slots=True, kw_only=True)
class UsualTimes:
    """How the jobs of a data request usually run."""

    #: The time from a slot until its job is queued.
    offset: timedelta
    #: The time from then until the extract is complete.
    duration: timedelta
    #: How long after that an extract becomes overdue.
    grace: timedelta


def runs_once(request: DataRequest) -> bool:
    """Say whether a data request has no schedule and runs once."""
    return (request.schedule_interval or "").upper() == "ONE_TIME"


def has_slots(request: DataRequest) -> bool:
    """Say whether a data request has a schedule that dcsync knows, with a first slot."""
    return _steps(request) is not None


def dated_jobs(jobs: Sequence[Job], now: datetime) -> list[tuple[datetime, Job]]:
    """Return the jobs with the times at which they were queued, in order. Without a time, a job says nothing."""
    known = [(job.created_at, job) for job in jobs if job.created_at is not None and job.created_at < now + AHEAD]
    # Jobs that were queued at the same time are ordered by ID, so that the result does not depend on their order.
    return sorted(known, key=lambda pair: (pair[0], pair[1].id))


def usual_times(request: DataRequest, past: Sequence[tuple[datetime, Job]]) -> UsualTimes:
    """Return the usual times from the newest of these jobs, which are in order."""
    recent = past[-_RECENT:]
    duration = _usual_duration(recent)
    if runs_once(request):
        return UsualTimes(offset=timedelta(0), duration=duration, grace=_GRACE_ONCE)
    offset = _usual_offset(request, [created_at for created_at, _ in recent])
    return UsualTimes(offset=offset, duration=duration, grace=max(GRACE, duration / 2))


def slot_before(request: DataRequest, moment: datetime) -> datetime | None:
    """Return the last slot at or before a moment. None before the first slot, or without a schedule."""
    steps = _steps(request)
    if steps is None or moment < steps[0]:
        return None
    first, step = steps
    if isinstance(step, timedelta):
        return first + (moment - first) // step * step
    number = _months_between(first, moment) // step
    slot = _months_after(first, number * step)
    return slot if slot <= moment else _months_after(first, (number - 1) * step)


def slot_after(request: DataRequest, slot: datetime) -> datetime:
    """Return the slot after `slot`. Raises `ValueError` for a data request without slots."""
    steps = _steps(request)
    if steps is None:
        msg = "a data request without a schedule has no slots"
        raise ValueError(msg)
    first, step = steps
    if isinstance(step, timedelta):
        return slot + step
    return _months_after(first, _months_between(first, slot) + step)


def _usual_duration(jobs: Sequence[tuple[datetime, Job]]) -> timedelta:
    spans = [
        job.completed_at - created_at
        for created_at, job in jobs
        if job.phase is JobPhase.SUCCEEDED and job.completed_at is not None
    ]
    return max(_middle(spans), timedelta(0)) if spans else _FIRST_DURATION


def _usual_offset(request: DataRequest, times: Sequence[datetime]) -> timedelta:
    """Return how long after its slot a job is usually queued. A median ignores a job that was started by hand."""
    offsets = [
        max(created_at - slot, timedelta(0))
        for created_at in times
        if (slot := slot_before(request, created_at + EARLY)) is not None
    ]
    return _middle(offsets) if offsets else timedelta(0)


def _middle(spans: Sequence[timedelta]) -> timedelta:
    """Return the lower median."""
    return sorted(spans)[(len(spans) - 1) // 2]


def _steps(request: DataRequest) -> tuple[datetime, timedelta | int] | None:
    """Return the first slot, and the step from one to the next as a time or a number of months.

    None for a data request that runs once, or has no schedule that dcsync knows.
    """
    interval, first = (request.schedule_interval or "").upper(), request.effective_from
    times = max(request.recurring_interval or 1, 1)
    if first is None or first.year > _LAST_YEAR or times > _MOST_TIMES:
        return None
    if interval in _MONTHS:
        return first, _MONTHS[interval] * times
    if interval in _DAYS:
        return first, timedelta(days=_DAYS[interval]) * times
    return None


def _months_between(first: datetime, moment: datetime) -> int:
    return (moment.year - first.year) * 12 + moment.month - first.month


def _months_after(first: datetime, months: int) -> datetime:
    """Return the same day some months later. In a shorter month, the 31st becomes the last day."""
    year, month = divmod(first.year * 12 + first.month - 1 + months, 12)
    day = min(first.day, calendar.monthrange(year, month + 1)[1])
    return first.replace(year=year, month=month + 1, day=day)
