"""When the next extract is due, and whether it is overdue. Pure.

Both follow from the data request's schedule and its past jobs. Autodesk does not document `effectiveFrom` to the
minute, so past jobs show how long after its slot a job is queued, and how long it takes.
"""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from dcsync.core.model import DataRequest, Job, JobPhase

#: The number of newest jobs from which the usual times are taken.
_RECENT = 7
#: The assumption without past jobs. Observed extracts took 5 to 40 minutes.
_FIRST_DURATION = timedelta(minutes=40)
#: An extract is overdue only after this long, or after half of its usual duration if that is longer.
_GRACE = timedelta(hours=1)
#: A job may be queued a little before its slot, because clocks differ.
_EARLY = timedelta(minutes=30)
#: A job that was created further in the future than this is ignored: its clock was wrong.
_AHEAD = timedelta(days=1)
#: How long dcsync polls more often after an extract is due.
_WATCH = timedelta(hours=2)
#: The shortest interval between these polls, whatever the configured one.
_DENSE_MIN = timedelta(minutes=2)
_DENSE_SHARE = 5
#: Numbers and years beyond these are not a schedule, and exceed the range of a date.
_MOST_TIMES = 1000
_LAST_YEAR = 9000

_DAYS = {"DAY": 1, "WEEK": 7}
_MONTHS = {"MONTH": 1, "YEAR": 12}


class Stage(StrEnum):
    """The progress of a slot's extract."""

    #: The slot is in the future.
    UPCOMING = "upcoming"
    #: The extract is expected, and has not yet taken longer than usual.
    DUE = "due"
    #: The extract is overdue, and Autodesk has no job for it.
    LATE = "late"
    #: The extract is overdue, and its job is still running.
    SLOW = "slow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The next extract of a data request: when its job is usually queued, and when the extract should be complete."""

    queued_at: datetime
    due_at: datetime
    stage: Stage

    def late_by(self, now: datetime) -> timedelta:
        """Return how long the extract is overdue, never negative."""
        return max(now - self.due_at, timedelta(0))


def expect(request: DataRequest, jobs: Sequence[Job], now: datetime) -> Expectation | None:
    """Return the next extract of a data request, given its jobs in any order.

    None for a data request that runs once, is inactive, has ended, or has an unknown schedule.
    """
    if request.is_active is False or (request.effective_to is not None and request.effective_to <= now):
        return None
    # A time far in the future comes from a wrong clock.
    known = [(job.created_at, job) for job in jobs if job.created_at is not None and job.created_at < now + _AHEAD]
    # Jobs that were queued at the same time are ordered by ID, so that the result does not depend on their order.
    past = sorted(known, key=lambda pair: (pair[0], pair[1].id))
    recent = [job for _, job in past[-_RECENT:]]
    offset, usual = _usual_offset(request, recent), _usual_duration(recent)
    slot = _slot_before(request, now - offset)
    if slot is None:
        first = request.effective_from if _step(request) is not None else None
        return None if first is None else _expectation(first + offset, usual, Stage.UPCOMING)
    grace = max(_GRACE, usual / 2)
    queued_at = slot + offset
    of_slot = [job for created_at, job in past if created_at >= queued_at - _EARLY]
    if any(job.phase is not JobPhase.PENDING for job in of_slot):
        return _expectation(_slot_after(request, slot) + offset, usual, Stage.UPCOMING)
    if now < queued_at + usual + grace:
        return _expectation(queued_at, usual, Stage.DUE)
    return _expectation(queued_at, usual, Stage.SLOW if of_slot else Stage.LATE)


def next_poll(expectations: Sequence[Expectation], now: datetime, interval: timedelta) -> timedelta:
    """Return how long to wait until the next poll: the interval, or less when an extract is due.

    A poll that finds nothing new costs one call, so polling every few minutes for two hours costs about 40 calls.
    """
    dense = max(interval / _DENSE_SHARE, min(_DENSE_MIN, interval))
    wait = interval
    for expected in expectations:
        until = expected.due_at - now
        if timedelta(0) < until < wait:
            wait = max(until, dense)
        elif until <= timedelta(0) and -until < _WATCH and expected.stage is not Stage.UPCOMING:
            wait = min(wait, dense)
    return wait


def _expectation(queued_at: datetime, usual: timedelta, stage: Stage) -> Expectation:
    return Expectation(queued_at=queued_at, due_at=queued_at + usual, stage=stage)


def _usual_duration(jobs: Sequence[Job]) -> timedelta:
    spans = [
        job.completed_at - job.created_at
        for job in jobs
        if job.phase is JobPhase.SUCCEEDED and job.created_at is not None and job.completed_at is not None
    ]
    return max(_middle(spans), timedelta(0)) if spans else _FIRST_DURATION


def _usual_offset(request: DataRequest, jobs: Sequence[Job]) -> timedelta:
    """Return how long after its slot a job is usually queued. A median ignores a job that was started by hand."""
    offsets = []
    for job in jobs:
        slot = None if job.created_at is None else _slot_before(request, job.created_at + _EARLY)
        if slot is not None and job.created_at is not None:
            offsets.append(max(job.created_at - slot, timedelta(0)))
    return _middle(offsets) if offsets else timedelta(0)


def _middle(spans: Sequence[timedelta]) -> timedelta:
    """Return the lower median."""
    return sorted(spans)[(len(spans) - 1) // 2]


def _step(request: DataRequest) -> tuple[int, int] | None:
    """Return the schedule's step in months and days. None for a data request that runs once or in an unknown way."""
    interval, first = (request.schedule_interval or "").upper(), request.effective_from
    times = max(request.recurring_interval or 1, 1)
    if times > _MOST_TIMES or (first is not None and first.year > _LAST_YEAR):
        return None
    if interval in _MONTHS:
        return _MONTHS[interval] * times, 0
    if interval in _DAYS:
        return 0, _DAYS[interval] * times
    return None


def _slot_before(request: DataRequest, moment: datetime) -> datetime | None:
    """Return the last slot at or before a moment. None before the first slot, or without a schedule."""
    step, first = _step(request), request.effective_from
    if step is None or first is None or moment < first:
        return None
    months, days = step
    if days:
        return first + (moment - first) // timedelta(days=days) * timedelta(days=days)
    number = ((moment.year - first.year) * 12 + moment.month - first.month) // months
    slot = _months_after(first, number * months)
    return slot if slot <= moment else _months_after(first, (number - 1) * months)


def _slot_after(request: DataRequest, slot: datetime) -> datetime:
    """Return the slot after `slot`. The data request has a schedule."""
    months, days = _step(request) or (0, 1)
    if days:
        return slot + timedelta(days=days)
    first = request.effective_from or slot
    passed = (slot.year - first.year) * 12 + slot.month - first.month
    return _months_after(first, passed + months)


def _months_after(first: datetime, months: int) -> datetime:
    """Return the same day some months later. In a shorter month, the 31st becomes the last day."""
    year, month = divmod(first.year * 12 + first.month - 1 + months, 12)
    day = min(first.day, calendar.monthrange(year, month + 1)[1])
    return first.replace(year=year, month=month + 1, day=day)
