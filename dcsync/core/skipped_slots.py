"""Slots of the past that brought nothing, although later ones did. Pure.

`core/freshness.py` knows the slots that are still missing. A later extract satisfies them, and the calendar of the
report page shows that their day is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median_low

from dcsync.core.model import DataRequest, Job
from dcsync.core.schedule import EARLY, dated_jobs, slot_after, slot_before, usual_times

#: A gap is compared with this many gaps before it, and after it.
_NEIGHBOURS = 3
#: Longer gaps are a pause rather than missing days.
_MOST = 366


def skipped_slots(request: DataRequest, jobs: Sequence[Job], now: datetime) -> tuple[datetime, ...]:
    """Return when the extracts of skipped slots should have been complete, oldest first.

    `jobs` are those that filled their slot. Autodesk does not say when a schedule was changed. A gap that is as long as
    most of those before it, or after it, is therefore the schedule of that time.
    """
    past = dated_jobs(jobs, now)
    usual = usual_times(request, past)
    filled = sorted({slot for at, _ in past if (slot := slot_before(request, at + EARLY)) is not None})
    gaps = [_between(request, *pair) for pair in pairwise(filled)]
    return tuple(
        slot + usual.offset + usual.duration
        for place, gap in enumerate(gaps)
        if not _is_habit([len(other) for other in gaps], place)
        for slot in gap
    )


def _between(request: DataRequest, first: datetime, last: datetime) -> list[datetime]:
    slots: list[datetime] = []
    slot = slot_after(request, first)
    while slot < last and len(slots) < _MOST:
        slots.append(slot)
        slot = slot_after(request, slot)
    return slots


def _is_habit(lengths: Sequence[int], place: int) -> bool:
    before, after = lengths[max(0, place - _NEIGHBOURS) : place], lengths[place + 1 : place + 1 + _NEIGHBOURS]
    return any(len(side) > 1 and lengths[place] <= median_low(side) for side in (before, after))
