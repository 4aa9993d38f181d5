"""When the next extract is due, whether it is late, and when to look for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dcsync.core.model import DataRequest, Job, JobId
from dcsync.core.next_poll import Expectation, Stage, expect, next_poll
from tests.fakes import NOON
from tests.rigs.slots import DAY, HOUR, MINUTE, SCHEDULED, TODAY, days, made, make_daily


def running(created_at: datetime) -> Job:
    return made(created_at, status="running", completion_status=None, completed_at=None)


def expected(request: DataRequest, jobs: list[Job], now: datetime = NOON) -> Expectation:
    found = expect(request, jobs, now)
    assert found is not None
    return found


# --- which requests have an expectation -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"is_active": False},
        {"schedule_interval": "ONE_TIME"},
        {"schedule_interval": "FORTNIGHT"},
        {"schedule_interval": None},
        {"effective_from": None},
        {"effective_to": NOON},
        {"effective_to": NOON - DAY},
    ],
)
def test_of_a_request_that_is_over_or_has_no_known_schedule_nothing_is_expected(changes: dict[str, Any]) -> None:
    request = make_daily(**changes)

    assert expect(request, [], NOON) is None
    assert expect(request, days(3), NOON) is None


@pytest.mark.parametrize(
    "changes", [{"is_active": None}, {"effective_to": NOON + MINUTE}, {"schedule_interval": "day"}]
)
def test_what_is_not_said_to_be_over_is_expected(changes: dict[str, Any]) -> None:
    assert expect(make_daily(**changes), days(3), NOON) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"recurring_interval": 10**12},
        {"schedule_interval": "YEAR", "recurring_interval": 10**6},
        {"effective_from": datetime.max.replace(tzinfo=UTC)},
    ],
)
def test_a_schedule_beyond_all_calendars_is_none(changes: dict[str, Any]) -> None:
    request = make_daily(**changes)

    assert expect(request, [], NOON) is None
    assert expect(request, days(3), NOON) is None


def test_a_schedule_as_old_as_dates_are_and_a_job_from_their_end_are_no_error() -> None:
    ever = make_daily(effective_from=datetime.min.replace(tzinfo=UTC))
    nonsense = made(datetime.max.replace(tzinfo=UTC), takes=timedelta(0))

    assert expected(ever, []).queued_at == NOON.replace(hour=0)
    assert expected(make_daily(), [nonsense, *days(3)]) == expected(make_daily(), days(3))


# --- the course of a slot ---------------------------------------------------------------------------------------------


def test_before_its_first_slot_an_extract_is_upcoming() -> None:
    assert expected(make_daily(effective_from=NOON + HOUR), []) == Expectation(
        queued_at=NOON + HOUR, due_at=NOON + HOUR + 40 * MINUTE, stage=Stage.UPCOMING
    )


def test_a_slot_with_its_job_done_gives_way_to_the_next() -> None:
    found = expected(make_daily(), [made(TODAY), *days(3)])

    assert found == Expectation(queued_at=TODAY + DAY, due_at=TODAY + DAY + 30 * MINUTE, stage=Stage.UPCOMING)


@pytest.mark.parametrize(
    ("after_the_slot", "stage"),
    [
        (timedelta(0), Stage.DUE),
        (30 * MINUTE, Stage.DUE),
        (90 * MINUTE - timedelta(seconds=1), Stage.DUE),
        (90 * MINUTE, Stage.LATE),
        (20 * HOUR, Stage.LATE),
    ],
)
def test_a_slot_without_a_job_is_due_for_as_long_as_it_takes_and_an_hour_and_then_late(
    after_the_slot: timedelta, stage: Stage
) -> None:
    found = expected(make_daily(), days(3), TODAY + after_the_slot)

    assert found == Expectation(queued_at=TODAY, due_at=TODAY + 30 * MINUTE, stage=stage)


def test_a_slot_whose_job_still_runs_is_slow_and_not_late() -> None:
    jobs = [running(TODAY), *days(3)]

    assert expected(make_daily(), jobs, TODAY + 90 * MINUTE - timedelta(seconds=1)).stage is Stage.DUE
    assert expected(make_daily(), jobs, TODAY + 90 * MINUTE).stage is Stage.SLOW


def test_an_extract_that_usually_takes_long_has_half_of_that_for_grace() -> None:
    jobs = [made(TODAY - number * DAY, takes=6 * HOUR) for number in range(1, 4)]

    assert expected(make_daily(), jobs, TODAY + 9 * HOUR - MINUTE).stage is Stage.DUE
    assert expected(make_daily(), jobs, TODAY + 9 * HOUR).stage is Stage.LATE


@pytest.mark.parametrize("changes", [{"completion_status": "failed"}, {"completion_status": "cancelled"}])
def test_a_job_that_failed_upstream_came_all_the_same(changes: dict[str, Any]) -> None:
    assert expected(make_daily(), [made(TODAY, **changes), *days(3)]).stage is Stage.UPCOMING


# --- what the past tells ----------------------------------------------------------------------------------------------


def test_without_a_past_an_extract_is_queued_at_its_slot_and_takes_forty_minutes() -> None:
    assert expected(make_daily(), [], TODAY + MINUTE) == Expectation(
        queued_at=TODAY, due_at=TODAY + 40 * MINUTE, stage=Stage.DUE
    )


def test_what_is_usually_queued_some_time_after_its_slot_is_expected_then() -> None:
    jobs = days(5, after=2 * HOUR)

    assert expected(make_daily(), jobs, TODAY + HOUR).queued_at == TODAY - DAY + 2 * HOUR + DAY
    assert expected(make_daily(), jobs, TODAY + HOUR).stage is Stage.UPCOMING
    assert expected(make_daily(), jobs, TODAY + 2 * HOUR).stage is Stage.DUE


@pytest.mark.parametrize(("before", "stage"), [(10, Stage.UPCOMING), (30, Stage.UPCOMING), (31, Stage.LATE)])
def test_a_job_up_to_half_an_hour_before_its_slot_is_the_slot_s_own(before: int, stage: Stage) -> None:
    found = expected(make_daily(), [made(TODAY - before * MINUTE), *days(4)])

    assert (found.queued_at, found.stage) == (TODAY + DAY if stage is Stage.UPCOMING else TODAY, stage)


jobs_of_a_while = st.lists(
    st.builds(
        lambda at, takes, status: made(
            NOON - timedelta(minutes=at),
            takes=timedelta(minutes=takes),
            status=status,
            completion_status="success" if status == "complete" else None,
        ),
        st.integers(0, 60 * 24 * 40),
        st.integers(-10, 60 * 30),
        st.sampled_from(["complete", "running", "bogus"]),
    ),
    max_size=10,
).map(lambda jobs: [replace(job, id=JobId(f"job-{number}")) for number, job in enumerate(jobs)])


@given(SCHEDULED, jobs_of_a_while, st.integers(-2000, 2000))
def test_an_expectation_is_told_in_the_stage_it_is_in(request: DataRequest, jobs: list[Job], minutes: int) -> None:
    now = NOON + timedelta(minutes=minutes)
    found = expect(request, jobs, now)
    assume(found is not None)

    assert found is not None
    assert found.due_at >= found.queued_at
    if found.stage is Stage.UPCOMING:
        assert found.queued_at > now
    else:
        assert found.queued_at <= now
    if found.stage in {Stage.LATE, Stage.SLOW}:
        assert now - found.due_at >= HOUR


@given(SCHEDULED, jobs_of_a_while)
def test_the_order_of_the_jobs_does_not_matter(request: DataRequest, jobs: list[Job]) -> None:
    assert expect(request, jobs, NOON) == expect(request, jobs[::-1], NOON)


def test_of_more_jobs_at_once_than_tell_what_is_usual_the_same_ones_do_in_any_order() -> None:
    jobs = [made(TODAY, takes=(1 + number // 4) * HOUR, id=JobId(f"job-{number}")) for number in range(8)]

    assert expected(make_daily(), jobs) == expected(make_daily(), jobs[::-1])


# --- when to look -----------------------------------------------------------------------------------------------------

QUARTER = timedelta(minutes=15)


def due_in(wait: timedelta, stage: Stage = Stage.DUE) -> Expectation:
    return Expectation(queued_at=NOON + wait - HOUR, due_at=NOON + wait, stage=stage)


@pytest.mark.parametrize(
    ("expectations", "wait"),
    [
        ([], QUARTER),
        ([due_in(HOUR, Stage.UPCOMING)], QUARTER),
        # Just when it should be there, and then every few minutes for two hours.
        ([due_in(10 * MINUTE)], 10 * MINUTE),
        ([due_in(1 * MINUTE)], 3 * MINUTE),
        ([due_in(timedelta(0))], 3 * MINUTE),
        ([due_in(-HOUR, Stage.LATE)], 3 * MINUTE),
        ([due_in(-119 * MINUTE, Stage.SLOW)], 3 * MINUTE),
        ([due_in(-2 * HOUR, Stage.LATE)], QUARTER),
        ([due_in(-2 * HOUR + timedelta(seconds=1), Stage.LATE)], 3 * MINUTE),
        # The soonest of several.
        ([due_in(10 * MINUTE), due_in(5 * MINUTE)], 5 * MINUTE),
        ([due_in(5 * MINUTE), due_in(10 * MINUTE)], 5 * MINUTE),
        ([due_in(5 * MINUTE), due_in(-HOUR)], 3 * MINUTE),
        ([due_in(-HOUR), due_in(5 * MINUTE)], 3 * MINUTE),
    ],
)
def test_what_is_due_is_looked_for_more_often_for_two_hours(expectations: list[Expectation], wait: timedelta) -> None:
    assert next_poll(expectations, NOON, QUARTER) == wait


@pytest.mark.parametrize(
    ("interval", "wait"),
    [
        (timedelta(seconds=30), timedelta(seconds=30)),
        (5 * MINUTE, 2 * MINUTE),
        (10 * MINUTE, 2 * MINUTE),
        (HOUR, 12 * MINUTE),
        (DAY, timedelta(hours=4, minutes=48)),
    ],
)
def test_how_often_is_a_fifth_of_the_interval_but_not_below_two_minutes(interval: timedelta, wait: timedelta) -> None:
    assert next_poll([due_in(timedelta(0))], NOON, interval) == wait


@given(
    st.lists(
        st.builds(due_in, st.integers(-(10**5), 10**5).map(lambda s: timedelta(seconds=s)), st.sampled_from(Stage)),
        max_size=6,
    ),
    st.integers(30, 10**6).map(lambda seconds: timedelta(seconds=seconds)),
)
def test_a_wait_is_never_above_the_interval_nor_below_its_share(
    expectations: list[Expectation], interval: timedelta
) -> None:
    wait = next_poll(expectations, NOON, interval)

    assert max(interval / 5, min(2 * MINUTE, interval)) <= wait <= interval
    assert next_poll(expectations[::-1], NOON, interval) == wait
