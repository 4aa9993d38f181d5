"""What can become of a job, and when it is tried again or given up."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core import lifecycle
from dcsync.core.lifecycle import TRANSITIONS, JobState
from dcsync.core.model import JobPhase
from tests.fakes import NOON, make_job

S, P = JobState, JobPhase
STATES, PHASES = st.sampled_from(JobState), st.sampled_from(JobPhase)


@pytest.mark.parametrize(
    ("hours", "due"), [(None, True), (-1, True), (0, True), (0.1, False), (6, False), (6.1, True), (87600, True)]
)
def test_a_job_is_due_when_its_time_has_come_or_is_one_that_no_clock_that_is_right_gave(
    hours: float | None, due: bool
) -> None:
    at = None if hours is None else NOON + timedelta(hours=hours)

    assert lifecycle.is_due(at, NOON) is due


@pytest.mark.parametrize("state", JobState)
def test_every_state_may_repeat_itself_and_has_a_way_on(state: JobState) -> None:
    assert lifecycle.may_go(state, state)
    assert state not in TRANSITIONS[state]
    assert TRANSITIONS[state]


def test_every_state_can_still_lead_to_a_published_snapshot() -> None:
    reached = {S.PUBLISHED}
    while more := {state for state in JobState if TRANSITIONS[state] & reached} - reached:
        reached |= more

    assert reached == set(JobState)


#: Written by hand: a state, and where it may go. What is not in it is a bug and must be refused.
EXPECTED = """
    waiting      seen empty expired
    seen         waiting listed failed expired quarantined published
    listed       seen staging failed expired quarantined published
    staging      seen listed failed expired quarantined published
    failed       waiting seen listed expired quarantined published
    published    seen reduced pruned expired
    reduced      seen expired
    pruned       seen
    empty        seen
    too_old      seen
    expired      seen too_old
    quarantined  seen expired
"""


def test_a_job_may_go_where_the_table_leads_and_nowhere_else() -> None:
    expected = {state: set(ways) for state, *ways in (line.split() for line in EXPECTED.strip().splitlines())}

    for current in JobState:
        may = {new.value for new in JobState if lifecycle.may_go(current, new)}
        assert may == expected[current.value] | {current.value}, current


def test_there_is_work_in_four_states_and_a_loss_in_two() -> None:
    assert {"seen", "listed", "staging", "failed"} == lifecycle.OPEN
    assert {"expired", "quarantined"} == lifecycle.LOSSES


def test_each_loss_has_a_hint() -> None:
    assert lifecycle.LOSS_HINTS.keys() == lifecycle.LOSSES


def test_wrong_content_is_tried_three_times_and_a_missing_listing_is_looked_for_during_a_day() -> None:
    assert (3, timedelta(days=1)) == (lifecycle.POISON_ATTEMPTS, lifecycle.LISTING_PATIENCE)


#: A job of each phase that ended at noon, or was created at noon and has no completion time.
JOBS = {
    P.SUCCEEDED: make_job(),
    P.FAILED: make_job(completion_status="failed"),
    P.CANCELLED: make_job(completion_status="cancelled"),
    P.PENDING: make_job(status="running", completion_status=None, created_at=NOON, completed_at=None),
    P.UNKNOWN: make_job(status="Archived", completion_status=None, created_at=NOON, completed_at=None),
}
FRESH, OVER = NOON + timedelta(days=30) - timedelta(seconds=1), NOON + timedelta(days=30)
MOMENTS = st.sampled_from([NOON, FRESH, OVER])


@pytest.mark.parametrize("known", [None, S.WAITING])
@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (P.SUCCEEDED, S.SEEN),
        (P.FAILED, S.EMPTY),
        (P.CANCELLED, S.EMPTY),
        (P.PENDING, S.WAITING),
        (P.UNKNOWN, S.WAITING),
    ],
)
def test_a_job_of_which_nothing_is_done_yet_is_as_autodesk_shows_it(
    phase: JobPhase, known: JobState | None, expected: JobState
) -> None:
    assert JOBS[phase].phase is phase
    assert lifecycle.state_for(JOBS[phase], known, FRESH) is expected


@pytest.mark.parametrize(
    ("phase", "first_seen", "waited"),
    [
        (P.SUCCEEDED, S.TOO_OLD, S.SEEN),
        (P.FAILED, S.EMPTY, S.EMPTY),
        (P.CANCELLED, S.EMPTY, S.EMPTY),
        (P.PENDING, S.TOO_OLD, S.EMPTY),
        (P.UNKNOWN, S.TOO_OLD, S.EXPIRED),
    ],
)
def test_after_30_days_a_new_job_is_too_old_and_one_that_waited_ends(
    phase: JobPhase, first_seen: JobState, waited: JobState
) -> None:
    assert lifecycle.state_for(JOBS[phase], None, OVER) is first_seen
    assert lifecycle.state_for(JOBS[phase], S.WAITING, OVER) is waited


@pytest.mark.parametrize("phase", JobPhase)
def test_a_quarantined_job_is_a_loss_once_its_extract_is_deleted(phase: JobPhase) -> None:
    assert lifecycle.state_for(JOBS[phase], S.QUARANTINED, FRESH) is S.QUARANTINED
    assert lifecycle.state_for(JOBS[phase], S.QUARANTINED, OVER) is S.EXPIRED


@pytest.mark.parametrize("phase", JobPhase)
@pytest.mark.parametrize("known", sorted(set(JobState) - {S.WAITING, S.EMPTY, S.TOO_OLD, S.QUARANTINED}))
@pytest.mark.parametrize("now", [FRESH, OVER])
def test_autodesk_never_undoes_what_is_done_here(phase: JobPhase, known: JobState, now: datetime) -> None:
    assert lifecycle.state_for(JOBS[phase], known, now) is known
    assert lifecycle.is_known_for_good(JOBS[phase], known, now)


@pytest.mark.parametrize("known", [S.EMPTY, S.TOO_OLD])
def test_a_job_that_was_given_up_and_is_then_complete_is_mirrored_after_all(known: JobState) -> None:
    assert lifecycle.state_for(JOBS[P.SUCCEEDED], known, FRESH) is S.SEEN
    assert not lifecycle.is_known_for_good(JOBS[P.SUCCEEDED], known, FRESH)
    assert lifecycle.state_for(JOBS[P.SUCCEEDED], known, OVER) is known


@pytest.mark.parametrize("phase", sorted(set(JobPhase) - {P.SUCCEEDED}))
@pytest.mark.parametrize("known", [S.EMPTY, S.TOO_OLD])
def test_a_job_that_was_given_up_stays_so_otherwise(phase: JobPhase, known: JobState) -> None:
    assert lifecycle.state_for(JOBS[phase], known, FRESH) is known
    assert lifecycle.is_known_for_good(JOBS[phase], known, FRESH)


@pytest.mark.parametrize("known", [None, S.WAITING])
@pytest.mark.parametrize("phase", JobPhase)
def test_a_new_or_waiting_job_keeps_the_poll_going(phase: JobPhase, known: JobState | None) -> None:
    assert not lifecycle.is_known_for_good(JOBS[phase], known, FRESH)


@given(PHASES, STATES, MOMENTS)
def test_what_the_list_shows_is_always_a_legal_step(phase: JobPhase, known: JobState, now: datetime) -> None:
    assert lifecycle.may_go(known, lifecycle.state_for(JOBS[phase], known, now))


@pytest.mark.parametrize(("first_seen_at", "was"), [(None, False), (FRESH, False), (OVER, True)])
def test_a_job_was_too_old_if_its_30_days_were_over_when_it_was_first_seen(
    first_seen_at: datetime | None, was: bool
) -> None:
    assert lifecycle.was_too_old(JOBS[P.SUCCEEDED], first_seen_at) is was


@pytest.mark.parametrize(
    ("status", "completion_status", "expected"),
    [
        ("Archived", None, "has the status 'Archived' and no completion status, which dcsync does not know"),
        ("", "odd", "has no status and the completion status 'odd', which dcsync does not know"),
    ],
)
def test_an_unknown_status_is_quoted(status: str, completion_status: str | None, expected: str) -> None:
    assert lifecycle.describe_status(make_job(status=status, completion_status=completion_status)) == expected


@pytest.mark.parametrize(
    ("completed_at", "near", "gone"),
    [
        (None, False, False),
        (NOON, False, False),
        (NOON - timedelta(days=20) + timedelta(seconds=1), False, False),
        (NOON - timedelta(days=20), True, False),
        (NOON - timedelta(days=30) + timedelta(seconds=1), True, False),
        (NOON - timedelta(days=30), True, True),
        (NOON + timedelta(days=40), False, False),
    ],
)
def test_an_extract_is_shouted_about_after_20_days_and_gone_after_30(
    completed_at: datetime | None, near: bool, gone: bool
) -> None:
    assert lifecycle.nears_expiry(completed_at, NOON) is near
    assert lifecycle.has_expired(completed_at, NOON) is gone


@pytest.mark.parametrize(
    ("attempts", "draw", "seconds"),
    [
        (0, 1.0, 60.0),
        (1, 0.0, 30.0),
        (1, 1.0, 60.0),
        (3, 1.0, 240.0),
        (9, 1.0, 15360.0),
        (10, 1.0, 21600.0),
        (1_000_000, 0.0, 10800.0),
    ],
)
def test_a_failed_job_waits_a_minute_to_six_hours_half_of_it_by_chance(
    attempts: int, draw: float, seconds: float
) -> None:
    assert lifecycle.next_try_after(attempts, asked_s=None, draw=draw) == timedelta(seconds=seconds)


def test_a_failed_job_waits_as_long_as_the_server_asked_for() -> None:
    assert lifecycle.next_try_after(9, asked_s=7.5, draw=0.3) == timedelta(seconds=7.5)


@given(st.integers(-5, 10**9), st.floats(0.0, 1.0))
def test_a_retry_never_comes_at_once_and_never_later_than_six_hours(attempts: int, draw: float) -> None:
    wait = lifecycle.next_try_after(attempts, asked_s=None, draw=draw)

    assert timedelta(seconds=30) <= wait <= timedelta(hours=6)


@pytest.mark.parametrize(("hours", "due"), [(24, False), (24.1, True), (-1, True)])
def test_a_job_that_is_tried_once_a_day_waits_longer(hours: float, due: bool) -> None:
    at = NOON + timedelta(hours=hours)

    assert lifecycle.is_due(at, NOON, longest=lifecycle.QUARANTINE_RETRY) is due
