"""Which days windows cover, where they leave gaps, and which gaps can still be filled."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.coverage import (
    MAX_DAYS,
    SERVED_DAYS,
    Coverage,
    Days,
    coverage,
    includes,
    parse_days,
    promised_from,
    wider_range,
    window_of,
)
from dcsync.core.model import DataRequest, Job, JobId, Json, RequestId
from tests.fakes import make_job, make_request

#: A Sunday.
TODAY = date(2026, 11, 22)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def day(number: int) -> date:
    """Return a day by its distance from today."""
    return TODAY + timedelta(days=number)


def moment(number: int, hour: int = 2) -> datetime:
    return datetime.combine(day(number), datetime.min.time(), UTC) + timedelta(hours=hour)


def days(first: int, last: int) -> Days:
    return Days(first=day(first), last=day(last))


def asks(**changes: Any) -> DataRequest:
    return make_request(**{"service_groups": ("all",), "schedule_interval": "DAY", **changes})


def job(number: int, **changes: Any) -> Job:
    """Return a job of a day by its distance from today."""
    values = {"created_at": moment(number), "completed_at": moment(number, 3), **changes}
    return make_job(id=JobId(f"j{number}"), **values)


def numbers(found: tuple[Days, ...]) -> list[tuple[int, int]]:
    return [((item.first - TODAY).days, (item.last - TODAY).days) for item in found]


@pytest.mark.parametrize(
    ("request_", "job_", "window"),
    [
        (asks(), job(0), days(-1, -1)),
        (asks(date_range="YESTERDAY"), job(0), days(-1, -1)),
        (asks(date_range="past_7_days"), job(0), days(-7, -1)),
        # A day that is not over is not covered.
        (asks(date_range="TODAY"), job(0), days(0, -1)),
        (asks(date_range="MONTH_TO_DATE"), job(0), days(-21, -1)),
        (asks(date_range="MONTH_TO_DATE"), job(-21), days(-21, -22)),
        (asks(date_range="LAST_MONTH"), job(0), Days(first=date(2026, 10, 1), last=date(2026, 10, 31))),
        (asks(date_range="NEXT_YEAR"), job(0), None),
        # Dates of the data request, and of the job, which go first.
        (asks(start_date=moment(-9, 0), end_date=moment(-5, 0)), job(0), days(-9, -5)),
        (asks(date_range="CUSTOM", start_date=moment(-9), end_date=moment(-5)), job(0), days(-9, -5)),
        (asks(date_range="YESTERDAY", start_date=moment(-9), end_date=moment(-5)), job(0), days(-1, -1)),
        # One date alone counts for both.
        (asks(start_date=moment(-9)), job(0), days(-9, -9)),
        (asks(end_date=moment(-9)), job(0), days(-9, -9)),
        # A period of more than 31 days gives the default period.
        (asks(start_date=moment(-31), end_date=moment(-1)), job(0), days(-31, -1)),
        (asks(start_date=moment(-32), end_date=moment(-1)), job(0), days(-1, -1)),
        (asks(start_date=moment(-9), end_date=moment(-9, 5)), job(0), days(-9, -9)),
        (asks(start_date=moment(-9), end_date=moment(-10)), job(0), None),
        (asks(start_date=moment(-9)), job(0, created_at=None, completed_at=None), days(-9, -9)),
        (asks(), job(0, start_date=moment(-4), end_date=moment(-3)), days(-4, -3)),
        (asks(date_range="YESTERDAY"), job(0, start_date=moment(-4)), days(-4, -4)),
        (asks(date_range="YESTERDAY"), job(0, end_date=moment(-4)), days(-4, -4)),
        (asks(date_range="CUSTOM"), job(0), None),
        # The day on which the job began, or else the next time that is known.
        (asks(), job(0, created_at=moment(0, -1)), days(-2, -2)),
        (asks(), job(0, created_at=None), days(-1, -1)),
        (asks(), job(0, created_at=None, started_at=moment(-1)), days(-2, -2)),
        (asks(), job(0, created_at=None, completed_at=None), None),
    ],
)
def test_the_window_of_a_job_has_whole_days(request_: DataRequest, job_: Job, window: Days | None) -> None:
    assert window_of(request_, job_) == window


def test_daily_extracts_with_the_default_period_cover_every_day() -> None:
    found = coverage(asks(), [job(number) for number in (-2, 0, -1)], NOW)

    assert found == Coverage(covered=(days(-3, -1),), gaps=())


def test_a_weekly_extract_with_the_default_period_covers_one_day_in_seven() -> None:
    found = coverage(asks(schedule_interval="WEEK"), [job(-8), job(-1)], NOW)

    assert numbers(found.covered) == [(-9, -9), (-2, -2)]
    # Yesterday too: the next extract covers only the day before itself.
    assert numbers(found.gaps) == [(-8, -3), (-1, -1)]


def test_the_gap_is_known_after_the_first_extract() -> None:
    found = coverage(asks(schedule_interval="WEEK"), [job(-4)], NOW)

    assert numbers(found.gaps) == [(-4, -1)]
    assert numbers(coverage(asks(schedule_interval="WEEK"), [job(-40)], NOW).gaps) == [(-40, -35)]
    assert coverage(asks(schedule_interval="WEEK", date_range="PAST_7_DAYS"), [job(-4)], NOW).gaps == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"is_active": False},
        {"effective_to": moment(-1)},
        {"effective_to": NOW},
        {"schedule_interval": "ONE_TIME"},
        {"schedule_interval": None},
        {"recurring_interval": 1001},
        {"date_range": "MONTH_TO_DATE"},
    ],
)
def test_without_a_next_extract_nothing_is_foreseen(changes: dict[str, Any]) -> None:
    assert coverage(asks(**{"schedule_interval": "WEEK", **changes}), [job(-4)], NOW).gaps == ()


def test_a_schedule_that_ends_later_still_has_a_next_extract() -> None:
    assert coverage(asks(schedule_interval="WEEK", effective_to=moment(9)), [job(-4)], NOW).gaps != ()
    assert numbers(coverage(asks(recurring_interval=3), [job(-9)], NOW).gaps) == [(-9, -8)]


@pytest.mark.parametrize(
    ("interval", "times", "end"),
    [
        # The next extract of a monthly schedule comes 28 to 31 days after the last one, and covers the day before.
        ("MONTH", 1, -402 + 28),
        ("YEAR", 1, -402 + 365),
        ("WEEK", 3, -402 + 21),
        ("DAY", 1000, -1),
        # What is no number of times is once.
        ("WEEK", 0, -402 + 7),
        ("WEEK", -3, -402 + 7),
        ("WEEK", None, -402 + 7),
    ],
)
def test_a_day_before_the_next_extract_can_come_is_foreseen_as_missing(
    interval: str, times: int | None, end: int
) -> None:
    request = asks(schedule_interval=interval, recurring_interval=times)

    assert numbers(coverage(request, [job(-400)], NOW).gaps) == [(-400, end)]


def test_windows_that_meet_or_overlap_are_one() -> None:
    found = coverage(asks(), [job(number) for number in (-9, -7, -5, -4, -3, -1)], NOW)

    assert numbers(found.covered) == [(-10, -10), (-8, -8), (-6, -4), (-2, -2)]


def test_a_missed_extract_leaves_a_gap_as_soon_as_the_next_one_is_there() -> None:
    assert coverage(asks(), [job(-5)], NOW).gaps == ()
    assert numbers(coverage(asks(), [job(-5), job(-2)], NOW).gaps) == [(-5, -4)]


def test_another_data_request_fills_a_gap_if_it_has_the_projects() -> None:
    request = asks(project_id="p1")
    jobs = [job(-9), job(0)]
    assert numbers(coverage(request, jobs, NOW).gaps) == [(-9, -2)]

    def with_other(**changes: Any) -> list[tuple[int, int]]:
        values = {"id": RequestId("r2"), "start_date": moment(-8), "end_date": moment(-3), **changes}
        return numbers(coverage(request, jobs, NOW, others=[(make_request(**values), [job(0)])]).gaps)

    assert with_other() == [(-9, -9), (-2, -2)]
    assert with_other(start_date=moment(-30)) == [(-2, -2)]
    assert with_other(start_date=moment(-9), end_date=moment(9)) == []
    assert with_other(project_ids=("p1", "p2")) == [(-9, -9), (-2, -2)]
    assert with_other(project_id="p1") == [(-9, -9), (-2, -2)]
    assert with_other(project_id="p2") == [(-9, -2)]
    # The data request itself, and an extract of one project for a data request of all, fill nothing.
    assert with_other(id=request.id) == [(-9, -2)]
    whole = asks()
    narrow = make_request(id=RequestId("r2"), project_id="p1", start_date=moment(-9), end_date=moment(0))
    assert numbers(coverage(whole, jobs, NOW, others=[(narrow, [job(0)])]).gaps) == [(-9, -2)]


def test_an_earlier_window_of_another_data_request_makes_no_gap_before_the_first_one() -> None:
    other = make_request(id=RequestId("r2"), start_date=moment(-40), end_date=moment(-35))

    found = coverage(asks(), [job(0)], NOW, others=[(other, [job(-34)])])

    assert found.gaps == ()
    assert numbers(found.covered) == [(-40, -35), (-1, -1)]


def test_a_later_window_of_another_data_request_makes_no_gap_after_the_last_one() -> None:
    other = make_request(id=RequestId("r2"), start_date=moment(-3), end_date=moment(-2))

    assert coverage(asks(), [job(-9)], NOW, others=[(other, [job(0)])]).gaps == ()
    weekly = coverage(asks(schedule_interval="WEEK"), [job(-9)], NOW, others=[(other, [job(0)])])
    assert numbers(weekly.gaps) == [(-9, -4)]


def test_without_a_known_window_there_is_neither_coverage_nor_gap() -> None:
    assert coverage(asks(), [], NOW) == Coverage(covered=(), gaps=())
    assert coverage(asks(), [job(0, created_at=None, completed_at=None)], NOW).gaps == ()
    undated = job(0, created_at=None, completed_at=None, start_date=moment(-3), end_date=moment(-2))
    assert coverage(asks(schedule_interval="WEEK"), [undated], NOW).gaps == ()


def test_a_period_without_a_whole_day_covers_no_day_from_its_first_extract_on() -> None:
    today = asks(date_range="TODAY")

    assert numbers(coverage(today, [job(-2), job(-1)], NOW).gaps) == [(-2, -1)]
    assert coverage(today, [job(0)], NOW).gaps == ()
    # The days after the last extract are another alert's, and so is the end of the schedule.
    assert numbers(coverage(today, [job(-5)], NOW).gaps) == [(-5, -5)]
    assert coverage(asks(date_range="TODAY", schedule_interval="ONE_TIME"), [job(-2)], NOW).gaps == ()
    # The first extract of a month has no day. The next one has all.
    assert coverage(asks(date_range="MONTH_TO_DATE"), [job(-21)], NOW) == Coverage(covered=(), gaps=())
    other = make_request(id=RequestId("r2"), date_range="PAST_7_DAYS")
    assert coverage(today, [job(-2), job(-1)], NOW, others=[(other, [job(0)])]).gaps == ()


def test_a_recorded_window_stays_when_the_data_request_gets_another_period() -> None:
    jobs, recorded = [job(-8), job(-1)], {JobId("j-8"): days(-9, -9), JobId("j-1"): days(-2, -2)}
    weekly = asks(schedule_interval="WEEK", date_range="PAST_7_DAYS")
    assert coverage(weekly, jobs, NOW).gaps == ()

    found = coverage(weekly, jobs, NOW, recorded=recorded)

    assert numbers(found.gaps) == [(-8, -3)]
    daily = coverage(asks(), jobs, NOW, recorded={JobId("j-8"): days(-15, -9), JobId("j-1"): days(-8, -2)})
    assert daily == Coverage(covered=(days(-15, -2),), gaps=())
    # An empty one too: the days that `TODAY` lost are not forgotten.
    lost = {JobId("j-8"): days(-8, -9)}
    assert numbers(coverage(asks(), jobs, NOW, recorded=lost).gaps) == [(-8, -3)]


FIRST_YEAR, LAST_YEAR = Days(first=date(1900, 1, 1), last=TODAY), Days(first=TODAY, last=date(4999, 12, 31))


@pytest.mark.parametrize("window", [days(-9, -3), days(0, 0), days(0, -1), FIRST_YEAR, LAST_YEAR])
def test_a_recorded_window_is_read_as_it_was_written(window: Days) -> None:
    assert parse_days(window.text) == window


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "",
        "2026-11-22",
        "2026-11-22/",
        "x/2026-11-22",
        "2026-11-22/2026-11-20",
        "0001-01-01/2026-11-22",
        "1899-12-31/2026-11-22",
        "2026-11-22/5000-01-01",
        "2026-11-22/9999-12-31",
    ],
)
def test_a_malformed_window_counts_as_not_recorded(value: Json) -> None:
    assert parse_days(value) is None


def test_one_extract_has_a_month_of_activities_and_autodesk_serves_a_year() -> None:
    assert MAX_DAYS == 31
    assert SERVED_DAYS == 365


def test_only_what_autodesk_still_serves_can_be_filled() -> None:
    old = Coverage(covered=(), gaps=(days(-500, -400), days(-SERVED_DAYS - 5, -300), days(-3, -2)))

    assert numbers(old.fillable(NOW)) == [(-SERVED_DAYS, -300), (-3, -2)]
    assert [gap.count for gap in old.fillable(NOW)] == [66, 2]
    assert numbers(Coverage(covered=(), gaps=(days(-400, -SERVED_DAYS),)).fillable(NOW)) == [(-365, -365)]
    assert Coverage(covered=(), gaps=(days(-400, -SERVED_DAYS - 1),)).fillable(NOW) == ()


def test_programs_get_days() -> None:
    assert Coverage(covered=(days(-9, -8),), gaps=(days(-7, -7),)).json() == {
        "covered": ["2026-11-13/2026-11-14"],
        "gaps": ["2026-11-15/2026-11-15"],
    }


@pytest.mark.parametrize(
    ("changes", "wider"),
    [
        ({}, None),
        ({"date_range": "TODAY"}, "YESTERDAY"),
        ({"schedule_interval": "WEEK"}, "PAST_7_DAYS"),
        ({"schedule_interval": "WEEK", "date_range": "PAST_7_DAYS"}, None),
        ({"schedule_interval": "WEEK", "recurring_interval": 2}, "PAST_7_DAYS, with a weekly schedule"),
        ({"schedule_interval": "MONTH"}, "LAST_MONTH"),
        ({"schedule_interval": "MONTH", "recurring_interval": 2}, "PAST_7_DAYS, with a weekly schedule"),
        ({"schedule_interval": "MONTH", "date_range": "LAST_MONTH"}, None),
        ({"schedule_interval": "YEAR"}, "PAST_7_DAYS, with a weekly schedule"),
        ({"schedule_interval": "ONE_TIME"}, None),
        ({"schedule_interval": "WEEK", "start_date": NOW}, None),
    ],
)
def test_the_range_that_would_cover_every_day(changes: dict[str, Any], wider: str | None) -> None:
    assert wider_range(asks(**changes)) == wider


OFFSETS = st.sets(st.integers(-60, 0), max_size=20)
RANGES = st.sampled_from([None, "YESTERDAY", "PAST_7_DAYS", "TODAY", "MONTH_TO_DATE", "LAST_MONTH"])


@given(OFFSETS, RANGES, st.sampled_from(["DAY", "WEEK", "MONTH", "YEAR", "ONE_TIME"]), st.integers(1, 3), OFFSETS)
def test_each_day_from_the_first_window_on_is_covered_or_missing_and_never_both(
    offsets: set[int], date_range: str | None, interval: str, times: int, others: set[int]
) -> None:
    request = asks(date_range=date_range, schedule_interval=interval, recurring_interval=times)
    other = make_request(id=RequestId("r2"))
    jobs = [job(number) for number in offsets]

    found = coverage(request, jobs, NOW, others=[(other, [job(number) for number in others])])

    covered = {first for window in found.covered for first in every_day(window)}
    missing = [first for gap in found.gaps for first in every_day(gap)]
    own = {first for item in jobs if (window := window_of(request, item)) is not None for first in every_day(window)}
    assert own <= covered or not own
    assert missing == sorted(set(missing))
    assert not covered & set(missing)
    starts = [window.first for item in jobs if (window := window_of(request, item)) is not None]
    assert all(min(starts) <= first < TODAY for first in missing)
    if own:
        assert set(every_day(Days(first=min(starts), last=max(own)))) <= covered | set(missing)


def every_day(window: Days) -> list[date]:
    return [window.first + timedelta(days=number) for number in range(window.count)]


@pytest.mark.parametrize(
    ("changes", "jobs", "found"),
    [
        ({}, (-2, -1), -1),
        ({"date_range": "PAST_7_DAYS"}, (-2,), -2),
        # The first job after now has the day before it, or the seven days before it.
        ({}, (), -1),
        ({"effective_from": moment(-90)}, (), -1),
        ({"effective_from": moment(10)}, (), 9),
        ({"effective_from": moment(10), "date_range": "PAST_7_DAYS", "schedule_interval": "WEEK"}, (), 3),
        ({"effective_to": NOW + timedelta(hours=1)}, (-1,), -1),
        # Without every day, nothing is promised.
        ({"schedule_interval": "WEEK"}, (-1,), None),
        ({"date_range": "TODAY"}, (-1,), None),
        ({"schedule_interval": "ONE_TIME"}, (-1,), None),
        ({"date_range": "LAST_MONTH"}, (-1,), None),
        ({"is_active": False}, (-1,), None),
        ({"effective_to": NOW}, (-1,), None),
    ],
)
def test_a_schedule_promises_the_days_after_its_last_extract(
    changes: dict[str, Any], jobs: tuple[int, ...], found: int | None
) -> None:
    promised = promised_from(
        asks(**{"effective_to": None, "effective_from": None, **changes}), list(map(job, jobs)), {}, NOW
    )

    assert promised == (None if found is None else day(found))


def test_a_recorded_window_decides_what_is_promised() -> None:
    recorded = {JobId("j-1"): days(-9, -5)}

    assert promised_from(asks(effective_to=None), [job(-1)], recorded, NOW) == day(-4)


@pytest.mark.parametrize(
    ("own", "project", "wanted", "found"),
    [
        ((), None, (), True),
        ((), None, ("a",), True),
        (("a", "b"), None, ("a",), True),
        (("a",), "b", ("a", "b"), True),
        (("a",), None, ("a", "b"), False),
        (("a",), None, (), False),
    ],
)
def test_a_data_request_includes_projects(
    own: tuple[str, ...], project: str | None, wanted: tuple[str, ...], found: bool
) -> None:
    assert includes(asks(project_ids=own, project_id=project), wanted) is found
