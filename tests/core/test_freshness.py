"""Which slots of a data request are missed, why, and the state that every reader shows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.freshness import (
    Cause,
    FreshnessState,
    History,
    MissedSlot,
    RequestFreshness,
    Sighting,
    ends_soon,
    missed_slots,
    request_freshness,
    will_run,
)
from dcsync.core.lifecycle import WAS_PUBLISHED, JobState
from dcsync.core.model import DataRequest, JobId, JobPhase
from dcsync.core.ports import KnownJob, KnownRequest
from tests.fakes import REQUEST_ID, make_job, make_request

HOUR, MINUTE, DAY = timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)
#: Slot 0, and when dcsync first saw the data request: a day before it.
FIRST = datetime(2026, 11, 1, 2, 0, tzinfo=UTC)
SINCE = FIRST - DAY
TAKES = 30 * MINUTE
#: How long after its slot an extract is overdue.
OVERDUE = TAKES + HOUR


def make_daily(**changes: Any) -> DataRequest:
    return make_request(**{"schedule_interval": "DAY", "recurring_interval": 1, "effective_from": FIRST, **changes})


def make_once(**changes: Any) -> DataRequest:
    return make_daily(schedule_interval="ONE_TIME", **changes)


def slot(number: int) -> datetime:
    return FIRST + number * DAY


def known(
    number: int, state: JobState = JobState.PUBLISHED, *, after: timedelta = timedelta(0), **changes: Any
) -> KnownJob:
    """Return the job of a slot, queued that long after it."""
    created = slot(number) + after
    values = {"id": JobId(f"job-{created:%d%H%M}"), "created_at": created, "completed_at": created + TAKES}
    return KnownJob(job=make_job(**{**values, **changes}), state=state, folder=f"acme/x/{number}")


def running(number: int, **changes: Any) -> KnownJob:
    pending = {"status": "running", "completion_status": None, "completed_at": None}
    return known(number, JobState.WAITING, **{**pending, **changes})


def failed(number: int, **changes: Any) -> KnownJob:
    return known(number, JobState.EMPTY, **{"completion_status": "failed", **changes})


def history(*jobs: KnownJob, **changes: Any) -> History:
    return History(**{"jobs": jobs, "since": SINCE, **changes})


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
    assert numbers(make_daily(), history(since=due - timedelta(seconds=1)), slot(5)) == [3, 4]
    # Long before its first slot, all count. Without a time, only the last does.
    assert numbers(make_daily(), history(since=FIRST - 90 * DAY), slot(2)) == [0, 1]
    assert numbers(make_daily(), history(since=None), slot(5) + 2 * HOUR) == [5]
    assert numbers(make_daily(), history(since=None), FIRST - DAY) == []


def test_a_slot_before_the_configured_start_does_not_count() -> None:
    assert numbers(make_daily(), history(start=slot(3)), slot(5)) == [3, 4]
    assert numbers(make_daily(), history(start=slot(3) + MINUTE), slot(5)) == [4]
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
        (running(1, status="bogus"), Cause.SLOW, JobPhase.UNKNOWN),
        (failed(1), Cause.FAILED, JobPhase.FAILED),
        (failed(1, completed_at=None), Cause.FAILED, JobPhase.FAILED),
        (failed(1, completion_status="cancelled"), Cause.FAILED, JobPhase.CANCELLED),
        (failed(1, after=LATE_BY), Cause.NOT_STARTED, JobPhase.FAILED),
        # It was slow first. What it became later does not resolve that.
        (failed(1, completed_at=slot(1) + LATE_BY), Cause.SLOW, JobPhase.FAILED),
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

    assert missed(make_daily(), history(known(0), *jobs), slot(1) + 5 * HOUR) == [(1, Cause.SLOW)]


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
    # Whenever it was made: one snapshot is all that was asked for.
    assert missed(make_once(), history(known(-3)), slot(9)) == []


def test_an_old_data_request_that_runs_once_had_its_job_before_dcsync_saw_it() -> None:
    assert numbers(make_once(), history(since=FIRST + 7 * DAY), slot(20)) == [0]
    assert numbers(make_once(), history(since=FIRST + 7 * DAY + MINUTE), slot(20)) == []
    assert numbers(make_once(), history(since=None), slot(20)) == []
    assert numbers(make_once(), history(start=FIRST), slot(20)) == [0]
    assert numbers(make_once(), history(start=FIRST + MINUTE), slot(20)) == []


# --- the state --------------------------------------------------------------------------------------------------------

S = FreshnessState


def fresh(
    request: DataRequest | None, past: History, now: datetime, *, polled: datetime | None = None, **changes: Any
) -> RequestFreshness:
    seen = KnownRequest(id=REQUEST_ID, description="Nightly", slug="nightly", is_delta=False)
    values = {"request": seen, "document": request, "polled_at": now if polled is None else polled, **changes}
    return request_freshness(Sighting(**values), past, now)


def test_every_value_of_a_healthy_data_request() -> None:
    past = history(known(0), known(1), known(2, JobState.PRUNED))

    found = fresh(make_daily(effective_to=slot(30)), past, slot(2) + 9 * HOUR)

    assert found == RequestFreshness(
        request=REQUEST_ID,
        description="Nightly",
        state=S.OK,
        newest_folder="acme/x/1",
        newest_completed_at=slot(1) + TAKES,
        next_expected_at=slot(3) + TAKES,
        ends_at=slot(30),
    )
    assert (found.slots_missed, found.oldest_missed_at, found.name) == (0, None, "Nightly")
    assert replace(found, description="").name == REQUEST_ID


def test_the_values_of_a_late_data_request() -> None:
    found = fresh(make_daily(), history(known(0)), slot(3) + 9 * HOUR)

    assert (found.state, found.slots_missed, found.oldest_missed_at) == (S.LATE, 3, slot(1))
    assert found.next_expected_at == slot(4) + TAKES


def test_a_data_request_without_a_snapshot_has_none() -> None:
    found = fresh(make_daily(), history(), FIRST - HOUR)

    assert (found.state, found.newest_folder, found.newest_completed_at) == (S.OK, None, None)
    assert found.next_expected_at == FIRST + 40 * MINUTE


def test_an_undated_snapshot_is_the_newest_only_where_there_is_no_other() -> None:
    undated = known(9, completed_at=None)

    assert fresh(make_daily(), history(undated, known(0)), slot(9)).newest_folder == "acme/x/0"
    assert fresh(make_daily(), history(undated), slot(9)).newest_folder == "acme/x/9"


@pytest.mark.parametrize(
    ("minutes", "state"), [(-1, S.OK), (0, S.DUE), (30, S.DUE), (89, S.DUE), (90, S.LATE), (9000, S.LATE)]
)
def test_the_course_of_a_slot(minutes: int, state: FreshnessState) -> None:
    found = fresh(make_daily(), history(known(0)), slot(1) + minutes * MINUTE)

    assert found.state is state
    if state is not S.LATE:
        assert found.next_expected_at == slot(1) + TAKES


def test_what_is_missed_is_judged_as_of_the_last_poll() -> None:
    past, request = history(known(0)), make_daily()

    # It stood at the last poll, and stands.
    kept = fresh(request, past, slot(5), polled=slot(1) + 2 * HOUR)
    assert (kept.state, kept.slots_missed) == (S.LATE, 1)
    # Since the extract was due, nobody has polled, or not for a while.
    assert fresh(request, past, slot(5), polled=slot(1) - HOUR).state is S.UNKNOWN
    assert fresh(request, past, slot(5), polled=slot(1) - HOUR).missed == ()
    assert fresh(request, past, slot(1) + 3 * HOUR, polled=slot(1) + HOUR).state is S.UNKNOWN
    # The next poll decides in some minutes.
    assert fresh(request, past, slot(1) + OVERDUE + MINUTE, polled=slot(1) + OVERDUE - MINUTE).state is S.DUE
    # Without any poll, nothing is known.
    never = Sighting(
        request=KnownRequest(id=REQUEST_ID, description="", slug="x", is_delta=False), document=request, polled_at=None
    )
    assert request_freshness(never, past, slot(5)).state is S.UNKNOWN


def test_an_extract_that_is_there_and_not_mirrored_is_late_without_another_poll() -> None:
    past = history(known(0), known(1, JobState.STAGING))

    assert fresh(make_daily(), past, slot(1) + 9 * HOUR, polled=slot(1) + TAKES).state is S.LATE


@pytest.mark.parametrize(
    ("request_", "past", "changes", "state"),
    [
        (make_daily(), history(known(0)), {"is_retired": True}, S.RETIRED),
        (make_daily(is_active=False), history(known(0)), {"is_retired": True, "is_gone": True}, S.RETIRED),
        (make_daily(is_active=False), history(known(0)), {"is_gone": True}, S.GONE),
        (make_daily(is_active=False, effective_to=slot(1)), history(known(0)), {}, S.INACTIVE),
        (make_daily(is_active=None), history(known(8)), {}, S.OK),
        (make_daily(effective_to=slot(1)), history(known(0)), {}, S.ENDED),
        (make_daily(schedule_interval="FORTNIGHT"), history(known(0)), {}, S.UNKNOWN),
        (make_daily(schedule_interval=None, effective_to=slot(1)), history(known(0)), {}, S.ENDED),
        (None, history(known(0)), {}, S.UNKNOWN),
        (None, history(known(0)), {"is_gone": True}, S.GONE),
        (make_once(), history(known(0)), {"is_gone": True}, S.DONE),
        (make_once(is_active=False), history(known(0), failed(1)), {}, S.DONE),
        (make_once(is_active=False), history(), {}, S.INACTIVE),
        (make_once(), history(), {"is_gone": True}, S.GONE),
        (make_once(), history(), {}, S.LATE),
        (make_once(effective_to=slot(1)), history(), {}, S.LATE),
        (make_once(effective_from=slot(8)), history(), {}, S.DUE),
        (make_once(effective_from=slot(9)), history(), {}, S.OK),
        (make_once(), history(since=slot(8)), {}, S.DONE),
    ],
)
def test_the_state_of_each_kind_of_data_request(
    request_: DataRequest | None, past: History, changes: dict[str, Any], state: FreshnessState
) -> None:
    assert fresh(request_, past, slot(8) + 12 * HOUR, **changes).state is state


def test_what_is_expected_next_ends_with_the_schedule_and_with_the_only_run() -> None:
    now = slot(2) + 9 * HOUR

    assert fresh(make_daily(effective_to=slot(3)), history(known(2)), now).next_expected_at is None
    assert fresh(make_daily(effective_to=slot(3)), history(known(1)), slot(2)).next_expected_at == slot(2) + TAKES
    assert fresh(make_once(effective_from=slot(4)), history(), now).next_expected_at == slot(4) + 40 * MINUTE
    assert fresh(make_once(effective_from=slot(4)), history(), now).ends_at is None
    assert fresh(make_once(), history(), slot(9)).next_expected_at is None


def test_an_ended_schedule_still_misses_the_slots_before_its_end() -> None:
    found = fresh(make_daily(effective_to=slot(3)), history(known(1)), slot(5))

    assert (found.state, found.slots_missed, found.ends_at) == (S.ENDED, 1, slot(3))


@pytest.mark.parametrize(("days", "soon"), [(14, True), (14 + 1 / 1440, False), (0.01, True), (0, False), (-1, False)])
def test_an_end_is_near_from_fourteen_days_before_until_it_has_come(days: float, soon: bool) -> None:
    now = slot(5) + 9 * HOUR
    found = fresh(make_daily(effective_to=now + timedelta(days=days)), history(known(5)), now)

    assert ends_soon(found, now) is soon
    assert ends_soon(replace(found, ends_at=None), now) is False
    assert ends_soon(replace(found, state=S.RETIRED), now) is False


@pytest.mark.parametrize(
    ("request_", "runs"),
    [
        (make_daily(), True),
        (make_daily(is_active=None), True),
        (make_daily(is_active=False), False),
        (make_daily(effective_to=slot(9)), False),
        (make_daily(effective_to=slot(9) + MINUTE), True),
        (make_daily(schedule_interval="FORTNIGHT"), False),
        (make_once(effective_from=slot(2)), True),
        (make_once(effective_from=slot(2) - MINUTE), False),
        (make_once(effective_from=slot(12)), True),
        (make_once(effective_from=None, created_at=slot(2)), True),
        (make_once(effective_from=None), False),
        (make_once(is_active=False, effective_from=slot(9)), False),
    ],
)
def test_a_data_request_without_a_job_is_followed_if_it_should_get_one(request_: DataRequest, runs: bool) -> None:
    assert will_run(request_, slot(9)) is runs


# --- over before it was seen ------------------------------------------------------------------------------------------


def test_a_data_request_whose_extracts_were_all_deleted_before_it_was_seen_was_over() -> None:
    seen = slot(0) + TAKES + 30 * DAY
    old = known(0, JobState.EXPIRED)

    assert history(old, since=seen).was_over(None)
    assert history(known(0, JobState.EXPIRED, completed_at=None), since=seen).was_over(None)
    assert not history(old, since=seen - MINUTE).was_over(None)
    assert not history(old, known(1, JobState.EXPIRED), since=seen).was_over(None)
    assert not history(known(0), since=seen).was_over(None)
    assert not history(known(0, JobState.EXPIRED, completed_at=None, created_at=None), since=seen).was_over(None)
    assert not history(since=seen).was_over(None)
    assert not history(old, since=None).was_over(None)


def test_a_schedule_that_was_to_go_on_when_it_was_seen_was_not_over() -> None:
    seen = slot(0) + TAKES + 30 * DAY
    old = history(known(0, JobState.TOO_OLD), since=seen)

    assert not old.was_over(make_daily())
    assert not old.was_over(make_daily(effective_to=seen + MINUTE))
    assert old.was_over(make_daily(effective_to=seen))
    assert old.was_over(make_daily(is_active=False))


def test_the_freshness_of_a_data_request_has_the_documented_keys() -> None:
    missed = MissedSlot(queued_at=FIRST, due_at=FIRST + HOUR, cause=Cause.NOT_STARTED, phase=None)
    freshness = RequestFreshness(
        request=REQUEST_ID,
        description="Nightly",
        state=FreshnessState.LATE,
        newest_folder="acme/nightly/2026/11/21/020000Z-1",
        newest_completed_at=FIRST - DAY,
        next_expected_at=FIRST + DAY,
        missed=(missed,),
        ends_at=FIRST + 30 * DAY,
    )

    assert freshness.json() == {
        "id": REQUEST_ID,
        "description": "Nightly",
        "state": "late",
        "newest_snapshot": "acme/nightly/2026/11/21/020000Z-1",
        "newest_completed_at": "2026-10-31T02:00:00.000Z",
        "next_expected_at": "2026-11-02T02:00:00.000Z",
        "slots_missed": 1,
        "oldest_missed_at": "2026-11-01T02:00:00.000Z",
        "ends_at": "2026-12-01T02:00:00.000Z",
    }
