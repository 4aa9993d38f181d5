"""Past slots that brought nothing are found, and a schedule that was different once is not taken for missing days."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from dcsync.core.model import DataRequest, Job, JobId
from dcsync.core.skipped_slots import skipped_slots
from tests.fakes import NOON, make_job, make_request


def nightly(**changes: Any) -> DataRequest:
    values: dict[str, Any] = {
        "schedule_interval": "DAY",
        "recurring_interval": 1,
        "effective_from": NOON - timedelta(days=400),
        "effective_to": None,
    }
    return make_request(**{**values, **changes})


def jobs(*days_ago: float) -> list[Job]:
    return [
        make_job(
            id=JobId(f"job-{days}"),
            created_at=NOON - timedelta(days=days),
            completed_at=NOON - timedelta(days=days) + timedelta(minutes=30),
        )
        for days in days_ago
    ]


def days_ago(found: Sequence[datetime]) -> list[float]:
    return [(NOON + timedelta(minutes=30) - at) / timedelta(days=1) for at in found]


def skipped(request: DataRequest, *filled: float) -> list[float]:
    return days_ago(skipped_slots(request, jobs(*filled), NOON))


def test_a_day_without_an_extract_between_others_is_skipped() -> None:
    assert skipped(nightly(), 9, 8, 7, 5, 4, 3) == [6]


def test_an_outage_is_as_many_days_as_it_lasted() -> None:
    assert skipped(nightly(), 20, 19, 18, 10, 9, 8) == [17, 16, 15, 14, 13, 12, 11]


def test_what_is_missing_now_or_was_before_the_first_is_not_its_business() -> None:
    assert skipped(nightly(), 9, 8, 7) == []
    assert skipped(nightly()) == []


def test_a_schedule_that_was_weekly_once_missed_nothing() -> None:
    assert skipped(nightly(), 49, 42, 35, 28, 21, 20, 19, 18, 17) == []


def test_a_week_missed_by_a_weekly_request_is_one_slot() -> None:
    assert skipped(nightly(schedule_interval="WEEK", effective_from=NOON - timedelta(days=70)), 35, 28, 14, 7) == [21]


def test_a_gap_is_compared_with_up_to_three_others_on_each_side_and_with_two_at_least() -> None:
    # The gaps are 6, 0, 6 and 6 days. The third has one neighbour after it, and the middle of those before it is 0.
    assert skipped(nightly(), 30, 23, 22, 15, 8) == [21, 20, 19, 18, 17, 16]


def test_the_extract_of_a_skipped_slot_was_due_when_it_is_usually_complete() -> None:
    two_hours = 2 / 24

    found = skipped(nightly(), *(number - two_hours for number in (9, 8, 7, 5, 4, 3)))

    assert found == pytest.approx([6 - two_hours])


def test_two_snapshots_alone_are_believed() -> None:
    assert skipped(nightly(), 4, 2) == [3]


def test_without_a_schedule_nothing_is_skipped() -> None:
    assert skipped(nightly(schedule_interval="ONE_TIME"), 9, 5, 1) == []


def test_a_pause_of_years_has_an_end() -> None:
    assert len(skipped(nightly(effective_from=NOON - timedelta(days=4000)), 3990, 2)) == 366
