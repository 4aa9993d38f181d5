"""Which slots of a data request are missed, and why."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.freshness import Cause, History, MissedSlot, missed_slots
from dcsync.core.lifecycle import WAS_PUBLISHED, JobState
from dcsync.core.model import DataRequest, JobId, JobPhase
from dcsync.core.ports import KnownJob
from tests.rigs.slots import (
    DAY,
    FIRST,
    HOUR,
    MINUTE,
    OVERDUE,
    SINCE,
    TAKES,
    failed,
    history,
    known,
    make_daily,
    make_once,
    running,
    slot,
)


def missed(request: DataRequest, past: History, as_of: datetime) -> list[tuple[int, Cause]]:
    """Return the numbers of the missed slots, and why."""
    return [((item.queued_at - FIRST) // DAY, item.cause) for item in missed_slots(request, past, as_of)]


def numbers(request: DataRequest, past: History, as_of: datetime) -> list[int]:
    return [number for number, _ in missed(request, past, as_of)]


# --- which slots are missed -------------------------------------------------------------------------------------------


def test_a_slot_is_missed_when_its_extract_is_overdue_and_not_before() -> None:
    past = history(known(0))

    assert missed_slots(make_daily(), past, slot(1) + OVERDUE - timedelta(seconds=1)) == ()
    assert missed_slots(make_daily(), past, slot(1) + OVERDUE) == (
        MissedSlot(queued_at=slot(1), due_at=slot(1) + TAKES, cause=Cause.NOT_STARTED, phase=None),
    )


def test_each_further_slot_is_missed_too_and_the_oldest_stays_the_first() -> None:
    past = history(known(0))

    assert [numbers(make_daily(), past, slot(day) + OVERDUE) for day in range(1, 4)] == [[1], [1, 2], [1, 2, 3]]


@pytest.mark.parametrize("state", [JobState.PUBLISHED, JobState.REDUCED, JobState.PRUNED])
def test_a_later_extract_in_the_mirror_satisfies_all_slots_before_it(state: JobState) -> None:
    assert numbers(make_daily(), history(known(0), known(5, state)), slot(7)) == [6]
    # Also one that was started between two slots, by hand.
    assert numbers(make_daily(), history(known(0), known(5, state, after=9 * HOUR)), slot(7)) == [6]


@pytest.mark.parametrize("state", sorted(set(JobState) - WAS_PUBLISHED))
def test_a_job_that_is_not_in_the_mirror_satisfies_no_slot(state: JobState) -> None:
    assert numbers(make_daily(), history(known(0), known(1, state)), slot(3)) == [1, 2]


def test_a_job_a_little_before_its_slot_satisfies_it() -> None:
    assert numbers(make_daily(), history(known(0), known(1, after=-30 * MINUTE)), slot(2)) == []
    assert numbers(make_daily(), history(known(0), known(1, after=-31 * MINUTE)), slot(2)) == [1]


def test_a_slot_that_was_due_before_dcsync_saw_the_data_request_does_not_count() -> None:
    due = slot(3) + 40 * MINUTE

    assert numbers(make_daily(), history(since=due), slot(5)) == [4]
    assert numbers(make_daily(), history(since=due - timedelta(microseconds=1)), slot(5)) == [3, 4]
    # Long before its first slot, all count. Without a time, only the last does.
    assert numbers(make_daily(), history(since=FIRST - 90 * DAY), slot(2)) == [0, 1]
    assert numbers(make_daily(), history(since=None), slot(5) + 2 * HOUR) == [5]
    assert numbers(make_daily(), history(since=None), FIRST - DAY) == []


def test_a_slot_before_the_configured_start_does_not_count() -> None:
    assert numbers(make_daily(), history(start=slot(3)), slot(5)) == [3, 4]
    assert numbers(make_daily(), history(start=slot(3) + timedelta(microseconds=1)), slot(5)) == [4]
    assert numbers(make_daily(), history(start=SINCE - DAY), slot(1)) == [0]


def test_after_the_end_of_the_schedule_there_are_no_slots() -> None:
    past = history(known(0))

    assert numbers(make_daily(effective_to=slot(3)), past, slot(9)) == [1, 2]
    assert numbers(make_daily(effective_to=slot(3) + MINUTE), past, slot(9)) == [1, 2, 3]


def test_a_snapshot_without_the_time_of_its_job_counts_by_its_end() -> None:
    undated = known(4, created_at=None)
    timeless = known(4, created_at=None, completed_at=None)

    assert numbers(make_daily(), history(undated), slot(6)) == [5]
    assert len(numbers(make_daily(), history(timeless), slot(6))) == 6


def test_a_snapshot_from_the_future_satisfies_nothing() -> None:
    nonsense = known(0, created_at=datetime.max.replace(tzinfo=UTC), completed_at=None)

    assert numbers(make_daily(), history(known(0), nonsense), slot(2)) == [1]
    now = slot(2) + 2 * HOUR
    assert numbers(make_daily(), history(known(0), known(3, after=2 * HOUR)), now) == [1, 2]
    assert numbers(make_daily(), history(known(0), known(3, after=2 * HOUR - timedelta(seconds=1))), now) == []


def test_a_slot_whose_jobs_are_usually_queued_later_is_missed_later() -> None:
    past = [known(number, after=2 * HOUR) for number in range(3)]
    due = slot(3) + 2 * HOUR + TAKES

    (item,) = missed_slots(make_daily(), history(*past), due + HOUR)

    assert (item.queued_at, item.due_at) == (slot(3) + 2 * HOUR, due)
    assert missed_slots(make_daily(), history(*past), due + HOUR - timedelta(seconds=1)) == ()
    # The times from which slots count are compared with these times too.
    assert numbers(make_daily(), history(*past, since=due - MINUTE), slot(5)) == [3, 4]
    assert numbers(make_daily(), history(*past, since=due), slot(5)) == [4]
    assert numbers(make_daily(), history(*past, start=slot(3) + 2 * HOUR), slot(5)) == [3, 4]
    assert numbers(make_daily(), history(*past, start=slot(3) + 2 * HOUR + MINUTE), slot(5)) == [4]


def test_the_slots_of_an_unknown_schedule_are_not_missed() -> None:
    assert missed_slots(make_daily(schedule_interval="FORTNIGHT"), history(), slot(9)) == ()
    assert missed_slots(make_daily(effective_from=None), history(), slot(9)) == ()


def test_a_clock_far_in_the_future_counts_no_more_slots_than_it_must() -> None:
    assert len(missed_slots(make_daily(), history(), FIRST + 300_000 * DAY)) == 1000


# --- why --------------------------------------------------------------------------------------------------------------

LATE_BY = OVERDUE + HOUR


@pytest.mark.parametrize(
    ("job", "cause", "phase"),
    [
        (running(1), Cause.SLOW, JobPhase.PENDING),
        (running(1, after=LATE_BY), Cause.NOT_STARTED, JobPhase.PENDING),
        (running(1, after=OVERDUE), Cause.NOT_STARTED, JobPhase.PENDING),
        (running(1, after=OVERDUE - MINUTE), Cause.SLOW, JobPhase.PENDING),
        # A little before its slot, a job is the slot's own.
        (running(1, after=-30 * MINUTE), Cause.SLOW, JobPhase.PENDING),
        (running(1, status="bogus"), Cause.SLOW, JobPhase.UNKNOWN),
        (failed(1), Cause.FAILED, JobPhase.FAILED),
        (failed(1, completed_at=None), Cause.FAILED, JobPhase.FAILED),
        (failed(1, completion_status="cancelled"), Cause.FAILED, JobPhase.CANCELLED),
        (failed(1, after=LATE_BY), Cause.NOT_STARTED, JobPhase.FAILED),
        # It was slow first. What it became later does not resolve that.
        (failed(1, completed_at=slot(1) + LATE_BY), Cause.SLOW, JobPhase.FAILED),
        (failed(1, completed_at=slot(1) + OVERDUE), Cause.SLOW, JobPhase.FAILED),
        (failed(1, completed_at=slot(1) + OVERDUE - MINUTE), Cause.FAILED, JobPhase.FAILED),
        (known(1, JobState.FAILED, completed_at=slot(1) + LATE_BY), Cause.SLOW, JobPhase.SUCCEEDED),
        (known(1, JobState.FAILED), Cause.NOT_MIRRORED, JobPhase.SUCCEEDED),
        (known(1, JobState.QUARANTINED), Cause.NOT_MIRRORED, JobPhase.SUCCEEDED),
        (known(1, JobState.SEEN, after=LATE_BY), Cause.NOT_STARTED, JobPhase.SUCCEEDED),
    ],
)
def test_the_cause_is_what_was_known_in_time(job: KnownJob, cause: Cause, phase: JobPhase) -> None:
    usual = [known(-number) for number in range(5)]

    (item,) = missed_slots(make_daily(), history(*usual, job), slot(1) + 5 * HOUR)

    assert (item.cause, item.phase) == (cause, phase)


def test_a_second_job_of_the_slot_that_still_runs_is_slow() -> None:
    jobs = [failed(1), running(1, after=HOUR)]

    (item,) = missed_slots(make_daily(), history(known(0), *jobs), slot(1) + 5 * HOUR)

    assert (item.cause, item.phase) == (Cause.SLOW, JobPhase.PENDING)
    assert item.jobs == tuple(known.job.id for known in jobs)


def test_each_missed_slot_has_its_own_cause() -> None:
    usual = [known(-number) for number in range(6)]
    jobs = [failed(1), running(3), known(4, JobState.FAILED)]

    assert missed(make_daily(), history(*usual, *jobs), slot(5)) == [
        (1, Cause.FAILED),
        (2, Cause.NOT_STARTED),
        (3, Cause.SLOW),
        (4, Cause.NOT_MIRRORED),
    ]


# --- properties -------------------------------------------------------------------------------------------------------

jobs_of_a_month = st.lists(
    st.builds(
        lambda minute, state, takes: known(
            0, state, after=minute * MINUTE, completed_at=FIRST + (minute + takes) * MINUTE
        ),
        st.integers(-3000, 40_000),
        st.sampled_from(JobState),
        st.integers(0, 2000),
    ),
    max_size=12,
    unique_by=lambda item: item.job.created_at,
).map(lambda jobs: [replace(item, job=replace(item.job, id=JobId(f"job-{n}"))) for n, item in enumerate(jobs)])
times = st.integers(-3000, 60_000).map(lambda minutes: FIRST + minutes * MINUTE)


@given(jobs_of_a_month, times, st.integers(0, 20_000))
def test_time_alone_resolves_no_missed_slot(jobs: list[KnownJob], as_of: datetime, later: int) -> None:
    before = missed_slots(make_daily(), history(*jobs), as_of)
    after = missed_slots(make_daily(), history(*jobs), as_of + later * MINUTE)
    # A job from more than a day ahead does not count, until it is no longer ahead.
    if all(item.job.created_at is not None and item.job.created_at < as_of for item in jobs):
        assert after[: len(before)] == before


@given(jobs_of_a_month, times)
def test_every_missed_slot_is_overdue_and_later_than_every_snapshot(jobs: list[KnownJob], as_of: datetime) -> None:
    found = missed_slots(make_daily(), history(*jobs), as_of)
    mirrored = [item.job.created_at for item in jobs if item.state in WAS_PUBLISHED]
    seen = [at for at in mirrored if at is not None and at < as_of + DAY]

    assert [item.queued_at for item in found] == sorted({item.queued_at for item in found})
    assert all(item.due_at + HOUR <= as_of for item in found)
    assert all(item.queued_at > max(seen) for item in found if seen)


@given(jobs_of_a_month, times)
def test_the_order_of_the_jobs_does_not_matter(jobs: list[KnownJob], as_of: datetime) -> None:
    assert missed_slots(make_daily(), history(*jobs), as_of) == missed_slots(make_daily(), history(*jobs[::-1]), as_of)


#: What a day brings: the slot's job, if there is one, some time after the slot.
fates = st.sampled_from(["published", "failed", "running", "not mirrored", "nothing"])


@given(st.lists(fates, max_size=40))
def test_simulated_days_are_missed_until_one_is_published(fates_of_days: list[str]) -> None:
    make = {
        "published": known,
        "failed": failed,
        "running": running,
        "not mirrored": lambda number: known(number, JobState.FAILED),
    }
    jobs: list[KnownJob] = []
    expected: list[int] = []
    for number, fate in enumerate(fates_of_days):
        jobs += [make[fate](number)] if fate in make else []
        expected = [] if fate == "published" else [*expected, number]

        assert numbers(make_daily(), history(*jobs), slot(number) + 12 * HOUR) == expected


# --- a data request that runs once ------------------------------------------------------------------------------------


def test_a_data_request_that_runs_once_is_late_after_a_day_without_a_job() -> None:
    overdue = FIRST + DAY + 40 * MINUTE

    assert numbers(make_once(), history(), overdue - timedelta(seconds=1)) == []
    assert missed(make_once(), history(), overdue) == [(0, Cause.NOT_STARTED)]
    assert missed(make_once(effective_from=None, created_at=FIRST), history(), overdue) == [(0, Cause.NOT_STARTED)]
    assert missed(make_once(effective_from=None), history(), overdue) == []


def test_a_data_request_that_runs_once_has_one_slot_whenever_its_job_comes() -> None:
    assert missed(make_once(), history(running(0, after=2 * HOUR)), slot(4)) == [(0, Cause.SLOW)]
    assert missed(make_once(), history(known(0, JobState.FAILED)), slot(4)) == [(0, Cause.NOT_MIRRORED)]
    assert missed(make_once(), history(failed(0)), slot(4)) == [(0, Cause.FAILED)]
    assert missed(make_once(), history(failed(-1)), slot(4)) == [(0, Cause.FAILED)]
    # Whenever it was made: one snapshot is all that was asked for.
    assert missed(make_once(), history(known(-3)), slot(9)) == []


def test_an_old_data_request_that_runs_once_had_its_job_before_dcsync_saw_it() -> None:
    assert numbers(make_once(), history(since=FIRST + 7 * DAY), slot(20)) == [0]
    assert numbers(make_once(), history(since=FIRST + 7 * DAY + MINUTE), slot(20)) == []
    assert numbers(make_once(), history(since=None), slot(20)) == []
    assert numbers(make_once(), history(start=FIRST), slot(20)) == [0]
    assert numbers(make_once(), history(start=FIRST + MINUTE), slot(20)) == []
