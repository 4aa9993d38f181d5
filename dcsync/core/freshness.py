"""When the next extract is due, and whether it is late: from a request's schedule and its past jobs. Pure.

What `effectiveFrom` means to the minute is not documented, so the past says how long after its slot a job is queued,
and how long it takes.
"""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from dcsync.core.model import DataRequest, Job, JobPhase

#: How many of the newest jobs tell what is usual.
_RECENT = 7
#: Before there is a past: an extract took 5 to 40 minutes where somebody looked.
_FIRST_DURATION = timedelta(minutes=40)
#: An extract is called late only after this long, or half of its usual duration if that is longer.
_GRACE = timedelta(hours=1)
#: A job may be queued a little before its slot: clocks differ.
_EARLY = timedelta(minutes=30)
#: A job from further ahead than this tells nothing.
_AHEAD = timedelta(days=1)
#: From when it is due on, it is looked for more often, for this long.
_WATCH = timedelta(hours=2)
#: How often at most, whatever the interval.
_DENSE_MIN = timedelta(minutes=2)
_DENSE_SHARE = 5
#: Numbers and years beyond these are no schedule, and past what a date can hold.
_MOST_TIMES = 1000
_LAST_YEAR = 9000

_DAYS = {"DAY": 1, "WEEK": 7}
_MONTHS = {"MONTH": 1, "YEAR": 12}


class Stage(StrEnum):
    """Where the extract of a slot stands."""

    #: Its time has not come.
    UPCOMING = "upcoming"
    #: Its time has come, and it may still take as long as it usually does.
    DUE = "due"
    #: There is no job for it, long after there should be.
    LATE = "late"
    #: There is a job for it, which takes far longer than usual.
    SLOW = "slow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The next extract of a request: when its job is usually queued, and when it should be there."""

    queued_at: datetime
    due_at: datetime
    stage: Stage

    def late_by(self, now: datetime) -> timedelta:
        """Return how long after its time it is, not negative."""
        return max(now - self.due_at, timedelta(0))


def expect(request: DataRequest, jobs: Sequence[Job], now: datetime) -> Expectation | None:
    """Return what to expect of a request, given its jobs in any order.

    None for one that runs once, is inactive or over, or whose schedule is not known.
    """
    if request.is_active is False or (request.effective_to is not None and request.effective_to <= now):
        return None
    # A time far ahead of now is of a clock that is wrong.
    known = [(job.created_at, job) for job in jobs if job.created_at is not None and job.created_at < now + _AHEAD]
    # By the id where several were queued at once: the same ones are recent, whatever the order they come in.
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

    A poll that finds nothing costs one call, so looking every few minutes for two hours costs about 40.
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
    """Return how long after its slot a job is usually queued; a median, so that one started by hand does not count."""
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
    """Return the schedule's step in months and days; None for a request that runs once, or in some other way."""
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
    """Return the last slot at or before a moment; None before the first one, or without a schedule."""
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
    """Return the slot that follows one of a request with a schedule."""
    months, days = _step(request) or (0, 1)
    if days:
        return slot + timedelta(days=days)
    first = request.effective_from or slot
    passed = (slot.year - first.year) * 12 + slot.month - first.month
    return _months_after(first, passed + months)


def _months_after(first: datetime, months: int) -> datetime:
    """Return the same day some months later; the 31st is the last day of a shorter month."""
    year, month = divmod(first.year * 12 + first.month - 1 + months, 12)
    day = min(first.day, calendar.monthrange(year, month + 1)[1])
    return first.replace(year=year, month=month + 1, day=day)
