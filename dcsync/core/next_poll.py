"""When to poll next: at the interval, or more often while an extract is due. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from dcsync.core.model import DataRequest, Job, JobPhase
from dcsync.core.schedule import EARLY, UsualTimes, dated_jobs, has_slots, slot_after, slot_before, usual_times

#: How long dcsync polls more often after an extract is due.
_WATCH = timedelta(hours=2)
#: The shortest interval between these polls, whatever the configured one.
_DENSE_MIN = timedelta(minutes=2)
_DENSE_SHARE = 5


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


def expect(request: DataRequest, jobs: Sequence[Job], now: datetime) -> Expectation | None:
    """Return the next extract of a data request, given its jobs in any order. It decides when to poll.

    None for a data request that runs once, is inactive, has ended, or has an unknown schedule.
    """
    if request.is_active is False or (request.effective_to is not None and request.effective_to <= now):
        return None
    past = dated_jobs(jobs, now)
    usual = usual_times(request, past)
    slot = slot_before(request, now - usual.offset)
    if slot is None:
        first = request.effective_from if has_slots(request) else None
        return None if first is None else _expectation(first, usual, Stage.UPCOMING)
    queued_at = slot + usual.offset
    of_slot = [job for created_at, job in past if created_at >= queued_at - EARLY]
    if any(job.phase is not JobPhase.PENDING for job in of_slot):
        return _expectation(slot_after(request, slot), usual, Stage.UPCOMING)
    if now < queued_at + usual.duration + usual.grace:
        return _expectation(slot, usual, Stage.DUE)
    return _expectation(slot, usual, Stage.SLOW if of_slot else Stage.LATE)


def next_poll(expectations: Sequence[Expectation], now: datetime, interval: timedelta) -> timedelta:
    """Return how long to wait until the next poll: the interval, or less when an extract is due.

    A poll that finds nothing new costs one call, so polling every few minutes for two hours costs about 40 calls.
    """
    dense = max(interval / _DENSE_SHARE, min(_DENSE_MIN, interval))
    wait = interval
    for expected in expectations:
        until = expected.due_at - now
        if -_WATCH < until < wait:
            wait = max(until, dense)
    return wait


def _expectation(slot: datetime, usual: UsualTimes, stage: Stage) -> Expectation:
    queued_at = slot + usual.offset
    return Expectation(queued_at=queued_at, due_at=queued_at + usual.duration, stage=stage)
