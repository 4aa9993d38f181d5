"""The slots of a schedule, and the usual times that past jobs show."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.model import DataRequest, Job, JobId
from dcsync.core.schedule import UsualTimes, dated_jobs, has_slots, runs_once, slot_after, slot_before, usual_times
from tests.fakes import NOON, make_job, make_request
from tests.rigs.slots import DAY, HOUR, MINUTE, SCHEDULED, TODAY, days, made, make_daily, make_once

SECOND = timedelta(seconds=1)


def usual(jobs: list[Job], request: DataRequest | None = None) -> UsualTimes:
    return usual_times(request or make_daily(), dated_jobs(jobs, NOON))


# --- slots ------------------------------------------------------------------------------------------------------------


def day(year: int, month: int, number: int) -> datetime:
    return datetime(year, month, number, 2, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("interval", "times", "first", "now", "before", "after"),
    [
        ("DAY", 1, day(2026, 1, 1), day(2026, 3, 5), day(2026, 3, 5), day(2026, 3, 6)),
        ("DAY", 3, day(2026, 1, 1), day(2026, 1, 6), day(2026, 1, 4), day(2026, 1, 7)),
        ("WEEK", 1, day(2026, 1, 5), day(2026, 1, 18), day(2026, 1, 12), day(2026, 1, 19)),
        ("WEEK", 2, day(2026, 1, 5), day(2026, 1, 18), day(2026, 1, 5), day(2026, 1, 19)),
        ("MONTH", 1, day(2026, 1, 15), day(2026, 3, 14), day(2026, 2, 15), day(2026, 3, 15)),
        ("MONTH", 1, day(2026, 1, 15), day(2026, 3, 15), day(2026, 3, 15), day(2026, 4, 15)),
        # The 31st is the last day of a shorter month, and the 31st again after it.
        ("MONTH", 1, day(2026, 1, 31), day(2026, 2, 27), day(2026, 1, 31), day(2026, 2, 28)),
        ("MONTH", 1, day(2026, 1, 31), day(2026, 3, 1), day(2026, 2, 28), day(2026, 3, 31)),
        ("MONTH", 1, day(2026, 1, 31), day(2026, 4, 30), day(2026, 4, 30), day(2026, 5, 31)),
        ("MONTH", 1, day(2026, 12, 31), day(2027, 1, 30), day(2026, 12, 31), day(2027, 1, 31)),
        ("MONTH", 3, day(2026, 1, 31), day(2026, 5, 20), day(2026, 4, 30), day(2026, 7, 31)),
        ("MONTH", 5, day(2026, 10, 1), day(2027, 3, 1), day(2027, 3, 1), day(2027, 8, 1)),
        ("YEAR", 1, day(2024, 2, 29), day(2025, 3, 1), day(2025, 2, 28), day(2026, 2, 28)),
        ("YEAR", 1, day(2024, 2, 29), day(2028, 2, 28), day(2027, 2, 28), day(2028, 2, 29)),
        ("YEAR", 2, day(2024, 6, 1), day(2026, 5, 31), day(2024, 6, 1), day(2026, 6, 1)),
        # What is no number of times is once.
        ("DAY", 0, day(2026, 1, 1), day(2026, 1, 2), day(2026, 1, 2), day(2026, 1, 3)),
        ("DAY", None, day(2026, 1, 1), day(2026, 1, 2), day(2026, 1, 2), day(2026, 1, 3)),
        ("WEEK", -3, day(2026, 1, 5), day(2026, 1, 18), day(2026, 1, 12), day(2026, 1, 19)),
    ],
)
def test_slots_follow_each_other_as_the_schedule_says(
    interval: str, times: int | None, first: datetime, now: datetime, before: datetime, after: datetime
) -> None:
    request = make_request(schedule_interval=interval, recurring_interval=times, effective_from=first)

    assert slot_before(request, now) == before
    assert slot_after(request, before) == after


def test_before_its_first_slot_a_schedule_has_none() -> None:
    assert slot_before(make_daily(effective_from=TODAY), TODAY) == TODAY
    assert slot_before(make_daily(effective_from=TODAY), TODAY - SECOND) is None
    assert slot_before(make_daily(effective_from=TODAY, schedule_interval="MONTH"), TODAY - SECOND) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"schedule_interval": "week"}, True),
        ({"schedule_interval": "MONTH"}, True),
        ({"schedule_interval": "Year"}, True),
        ({"schedule_interval": "ONE_TIME"}, False),
        ({"schedule_interval": "FORTNIGHT"}, False),
        ({"schedule_interval": None}, False),
        ({"effective_from": None}, False),
        # Beyond these, neither the number nor its sum with a date is one.
        ({"recurring_interval": 1000}, True),
        ({"recurring_interval": 1001}, False),
        ({"schedule_interval": "YEAR", "recurring_interval": 1001}, False),
        ({"effective_from": datetime(9000, 12, 31, tzinfo=UTC)}, True),
        ({"effective_from": datetime(9001, 1, 1, tzinfo=UTC)}, False),
    ],
)
def test_a_data_request_has_slots_if_its_schedule_is_known(changes: dict[str, Any], expected: bool) -> None:
    request = make_daily(**changes)

    assert has_slots(request) is expected
    assert (slot_before(request, datetime(9001, 1, 1, tzinfo=UTC)) is not None) is expected
    if not expected:
        with pytest.raises(ValueError, match="has no slots"):
            slot_after(request, TODAY)


def test_a_data_request_without_a_schedule_runs_once() -> None:
    assert runs_once(make_once())
    assert runs_once(make_daily(schedule_interval="one_time"))
    assert not runs_once(make_daily())
    assert runs_once(make_daily(schedule_interval=None)) is False


moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - bounds


@given(SCHEDULED, moments)
def test_every_moment_lies_between_two_slots(request: DataRequest, moment: datetime) -> None:
    slot = slot_before(request, moment)

    assert request.effective_from is not None
    if slot is None:
        assert moment < request.effective_from
    else:
        after = slot_after(request, slot)
        assert request.effective_from <= slot <= moment < after
        # And nothing lies between: the one before the next is this one.
        assert slot_before(request, after) == after
        assert slot_before(request, after - timedelta(microseconds=1)) == slot


# --- what past jobs show ----------------------------------------------------------------------------------------------


def test_without_past_jobs_an_extract_takes_forty_minutes_and_an_hour_of_grace() -> None:
    assert usual([]) == UsualTimes(offset=timedelta(0), duration=40 * MINUTE, grace=HOUR)


def test_the_middle_of_the_newest_seven_jobs_is_usual() -> None:
    # From the newest to the oldest. The middle of seven is 4 hours, that of six and of eight 3 hours.
    takes = [1, 7, 2, 6, 3, 5, 4, 0, 9]
    jobs = [made(TODAY - number * DAY, takes=hours * HOUR) for number, hours in enumerate(takes)]

    assert usual(jobs).duration == 4 * HOUR
    assert usual(jobs[::-1]).duration == 4 * HOUR
    assert usual(jobs[:6]).duration == 3 * HOUR


@pytest.mark.parametrize(
    ("takes", "duration"),
    [([5], 5), ([5, 1], 1), ([5, 1, 3], 3), ([5, 1, 3, 9], 3), ([5, 1, 3, 9, 9], 5)],
)
def test_of_an_even_number_the_lower_middle_is_usual(takes: list[int], duration: int) -> None:
    jobs = [made(TODAY - number * DAY, takes=hours * HOUR) for number, hours in enumerate(takes)]

    assert usual(jobs).duration == duration * HOUR


def test_a_job_without_an_extract_or_its_time_does_not_count() -> None:
    failed = [made(TODAY - number * DAY, takes=MINUTE, completion_status="failed") for number in range(4)]
    unfinished = [made(TODAY - number * DAY, id=JobId(f"u{number}"), completed_at=None) for number in range(3)]

    assert usual([*failed, *days(3)]).duration == 30 * MINUTE
    assert usual([*unfinished, *days(3)]).duration == 30 * MINUTE
    assert usual(unfinished).duration == 40 * MINUTE


def test_a_server_whose_clock_runs_backwards_gives_no_negative_duration() -> None:
    assert usual([made(TODAY - number * DAY, takes=-HOUR) for number in range(1, 4)]).duration == timedelta(0)


@pytest.mark.parametrize(
    ("takes", "grace"),
    [(30 * MINUTE, HOUR), (2 * HOUR, HOUR), (2 * HOUR + 2 * MINUTE, 61 * MINUTE), (6 * HOUR, 3 * HOUR)],
)
def test_an_extract_has_half_of_its_duration_for_grace_but_not_below_an_hour(
    takes: timedelta, grace: timedelta
) -> None:
    assert usual([made(TODAY, takes=takes)]).grace == grace


@pytest.mark.parametrize(
    ("after", "offset"),
    [
        (timedelta(0), timedelta(0)),
        (2 * HOUR, 2 * HOUR),
        # Up to half an hour before a slot, a job is that slot's own, and on time.
        (-10 * MINUTE, timedelta(0)),
        (-30 * MINUTE, timedelta(0)),
        (-31 * MINUTE, 23 * HOUR + 29 * MINUTE),
    ],
)
def test_the_time_from_a_slot_to_its_job_is_usual(after: timedelta, offset: timedelta) -> None:
    assert usual(days(5, after=after)).offset == offset


def test_a_job_before_the_first_slot_belongs_to_none() -> None:
    request = make_daily(effective_from=TODAY - DAY)

    assert usual([*days(6, until=TODAY - DAY, after=5 * HOUR), made(TODAY + HOUR)], request).offset == HOUR
    assert usual(days(6, until=TODAY - DAY, after=5 * HOUR), request).offset == timedelta(0)


def test_a_job_started_by_hand_shifts_nothing() -> None:
    by_hand = made(TODAY - DAY + 13 * HOUR, takes=5 * MINUTE)

    assert usual([by_hand, *days(4)]) == usual(days(4))
    assert usual([made(TODAY - DAY + 9 * HOUR), made(TODAY)]).offset == timedelta(0)


def test_one_very_long_extract_changes_nothing() -> None:
    jobs = [made(TODAY - DAY, takes=20 * HOUR), *days(5, until=TODAY - DAY)]

    assert usual(jobs) == usual(days(5))


def test_a_data_request_that_runs_once_has_a_day_for_grace_and_no_usual_offset() -> None:
    late = [made(TODAY + 5 * HOUR, takes=6 * HOUR)]

    assert usual(late, make_once()) == UsualTimes(offset=timedelta(0), duration=6 * HOUR, grace=timedelta(hours=24))


def test_jobs_are_ordered_by_time_then_by_id_and_those_without_a_known_time_are_left_out() -> None:
    late, early = made(TODAY), made(TODAY - DAY)
    second, first = made(TODAY - HOUR, id=JobId("b")), made(TODAY - HOUR, id=JobId("a"))
    undated = make_job(created_at=None, completed_at=TODAY)

    assert dated_jobs([late, second, undated, first, early], NOON) == [
        (TODAY - DAY, early),
        (TODAY - HOUR, first),
        (TODAY - HOUR, second),
        (TODAY, late),
    ]


def test_a_job_from_a_day_ahead_or_more_is_left_out() -> None:
    ahead = [made(NOON + timedelta(hours=24) - SECOND), made(NOON + timedelta(hours=24))]

    assert [created_at for created_at, _ in dated_jobs(ahead, NOON)] == [NOON + timedelta(hours=24) - SECOND]
    assert usual([make_job(created_at=datetime.max.replace(tzinfo=UTC)), *days(3)]) == usual(days(3))


def test_of_more_jobs_at_once_than_tell_what_is_usual_the_same_ones_do_in_any_order() -> None:
    jobs = [made(TODAY, takes=(1 + number // 4) * HOUR, id=JobId(f"job-{number}")) for number in range(8)]

    assert usual(jobs) == usual(jobs[::-1])
