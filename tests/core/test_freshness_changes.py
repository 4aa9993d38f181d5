"""Missed slots when the schedule of a data request changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from dcsync.core.freshness import FreshnessState, MissedSlot, Sighting, missed_slots, request_freshness, still_owed
from dcsync.core.model import DataRequest
from dcsync.core.ports import KnownRequest
from tests.fakes import REQUEST_ID
from tests.rigs.slots import HOUR, MINUTE, SINCE, TAKES, history, known, make_daily, slot

S = FreshnessState
NIGHTLY = KnownRequest(id=REQUEST_ID, description="Nightly", slug="nightly", is_delta=False)


def owed_after(request: DataRequest, **changes: Any) -> MissedSlot | None:
    """Return what is owed when this data request takes the place of one whose slots 1 to 3 are missed."""
    sighting = Sighting(request=NIGHTLY, document=make_daily(updated_at=SINCE), polled_at=slot(3) + 2 * HOUR)
    past = history(known(0), **changes)
    before = request_freshness(sighting, past, slot(3) + 2 * HOUR)
    return still_owed(before, sighting, past, request)


@pytest.mark.parametrize(
    ("changes", "owed"),
    [
        ({}, None),
        ({"effective_to": slot(90)}, None),
        ({"effective_from": slot(10)}, slot(1)),
        ({"effective_from": slot(3)}, slot(1)),
        ({"schedule_interval": "WEEK"}, slot(1)),
        # The schedule was changed before slot 1 came due: it never promised slot 1.
        ({"schedule_interval": "WEEK", "updated_at": slot(0) + HOUR}, None),
        ({"schedule_interval": "WEEK", "updated_at": slot(2)}, slot(1)),
        ({"schedule_interval": "WEEK", "updated_at": slot(1) + TAKES}, slot(1)),
        ({"schedule_interval": "WEEK", "updated_at": slot(1) + TAKES - timedelta(seconds=1)}, None),
        # This time is that of an earlier change.
        ({"schedule_interval": "WEEK", "updated_at": SINCE}, slot(1)),
    ],
)
def test_a_slot_that_was_missed_before_the_schedule_changed_is_owed(
    changes: dict[str, Any], owed: datetime | None
) -> None:
    found = owed_after(make_daily(**changes))

    assert (None if found is None else found.queued_at) == owed


def test_nothing_is_owed_without_a_missed_slot() -> None:
    sighting = Sighting(request=NIGHTLY, document=make_daily(), polled_at=slot(0) + 2 * HOUR)
    before = request_freshness(sighting, history(known(0)), slot(0) + 2 * HOUR)

    assert still_owed(before, sighting, history(known(0)), make_daily(effective_from=slot(9))) is None
    changed = make_daily(effective_from=slot(9), updated_at=slot(0))
    assert still_owed(before, sighting, history(known(0)), changed) is None


@pytest.mark.parametrize("unknown", [{"document": None}, {"polled_at": None}])
def test_what_was_never_read_owes_nothing(unknown: dict[str, Any]) -> None:
    sighting = Sighting(request=NIGHTLY, document=make_daily(), polled_at=slot(3))
    before = request_freshness(sighting, history(known(0)), slot(3))
    assert before.missed

    moved = make_daily(effective_from=slot(9), updated_at=slot(2))
    assert still_owed(before, replace(sighting, **unknown), history(known(0)), moved) is None


def test_an_owed_slot_is_missed_until_an_extract_of_it_or_a_later_one_is_mirrored() -> None:
    moved = make_daily(effective_from=slot(10))
    owed = owed_after(moved)
    assert owed is not None
    sighting = Sighting(request=NIGHTLY, document=moved, polled_at=slot(5))

    late = request_freshness(sighting, history(known(0), owed=owed), slot(5))
    later = replace(sighting, polled_at=slot(11) + 2 * HOUR)
    both = request_freshness(later, history(known(0), owed=owed), slot(11) + 2 * HOUR)
    done = request_freshness(sighting, history(known(0), known(4), owed=owed), slot(5))

    assert (late.state, late.missed) == (S.LATE, (owed,))
    assert [missed.queued_at for missed in both.missed] == [slot(1), slot(10), slot(11)]
    assert (done.state, done.missed) == (S.OK, ())
    # A little before its slot, an extract is the slot's own.
    for after, is_satisfied in ((-30, True), (-31, False)):
        past = history(known(0), known(1, after=after * MINUTE), owed=owed)
        assert (missed_slots(moved, past, slot(5)) == ()) is is_satisfied
    # It is owed on until then, and not counted twice when the old schedule comes back.
    assert still_owed(late, sighting, history(known(0), owed=owed), moved) == owed
    back = replace(sighting, document=make_daily())
    again = missed_slots(make_daily(), history(known(0), owed=owed), slot(2) + 2 * HOUR)
    assert [missed.queued_at for missed in again] == [slot(1), slot(2)]
    assert still_owed(late, back, history(known(0), owed=owed), make_daily()) is None
