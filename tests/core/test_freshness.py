"""The state of each data request that every reader shows."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from dcsync.core.freshness import (
    Cause,
    FreshnessState,
    History,
    MissedSlot,
    RequestFreshness,
    Sighting,
    ends_soon,
    request_freshness,
    will_run,
)
from dcsync.core.lifecycle import JobState
from dcsync.core.model import DataRequest, JobId
from dcsync.core.ports import KnownRequest
from tests.fakes import REQUEST_ID
from tests.rigs.slots import (
    DAY,
    FIRST,
    HOUR,
    MINUTE,
    OVERDUE,
    TAKES,
    failed,
    history,
    known,
    make_daily,
    make_once,
    slot,
)

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


def test_the_newest_snapshot_is_that_of_the_newest_extract_whatever_its_id() -> None:
    older, newer = known(3, id=JobId("z")), known(4, id=JobId("a"))
    twin = replace(known(4, id=JobId("b")), folder="acme/x/twin")

    for jobs in ((older, newer), (newer, older)):
        assert fresh(make_daily(), history(*jobs), slot(5)).newest_folder == "acme/x/4"
    for jobs in ((twin, newer), (newer, twin)):
        assert fresh(make_daily(), history(*jobs), slot(5)).newest_folder == "acme/x/twin"


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
    # Before anything is overdue, a poll is not needed.
    assert fresh(request, past, slot(1) + MINUTE, polled=slot(1) - 5 * HOUR).state is S.DUE
    # An hour after the last poll, and not before.
    assert fresh(request, past, slot(1) + OVERDUE, polled=slot(1) + TAKES).state is S.DUE
    assert fresh(request, past, slot(1) + OVERDUE, polled=slot(1) + TAKES - MINUTE).state is S.UNKNOWN
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
    assert fresh(make_daily(), past, slot(1) + OVERDUE, polled=slot(1) + TAKES).state is S.LATE
    assert fresh(make_daily(), past, slot(1) + OVERDUE - MINUTE, polled=slot(1) + TAKES).state is S.DUE


@pytest.mark.parametrize("changes", [{"is_retired": True}, {"is_gone": True}])
def test_a_data_request_that_is_over_misses_no_slot_and_expects_none(changes: dict[str, Any]) -> None:
    found = fresh(make_daily(), history(known(0)), slot(8), **changes)

    assert (found.missed, found.next_expected_at) == ((), None)


def test_a_data_request_that_ran_once_is_done_without_any_poll() -> None:
    assert fresh(make_once(), history(known(0)), slot(8)).state is S.DONE
    seen = KnownRequest(id=REQUEST_ID, description="", slug="x", is_delta=False)
    never = Sighting(request=seen, document=make_once(), polled_at=None)
    assert request_freshness(never, history(known(0)), slot(8)).state is S.DONE


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
    once = make_once(effective_from=slot(4), effective_to=slot(4))
    assert fresh(once, history(), now).next_expected_at == slot(4) + 40 * MINUTE
    assert fresh(once, history(), now).ends_at is None
    assert fresh(make_once(), history(), slot(9)).next_expected_at is None
    assert fresh(make_once(effective_from=None, created_at=FIRST), history(), slot(9)).next_expected_at is None
    assert fresh(make_once(), history(start=FIRST + MINUTE), FIRST).next_expected_at is None
    assert fresh(make_once(), history(), FIRST).state is S.DUE
    assert fresh(make_once(), history(), FIRST - timedelta(seconds=1)).state is S.OK


def test_the_next_extract_is_that_of_the_current_slot_until_it_is_overdue() -> None:
    past = history(known(0))

    assert fresh(make_daily(), past, slot(1) + OVERDUE - MINUTE).next_expected_at == slot(1) + TAKES
    assert fresh(make_daily(), past, slot(1) + OVERDUE).next_expected_at == slot(2) + TAKES


def test_of_two_slots_that_wait_the_first_is_expected_next() -> None:
    past = [known(number, completed_at=slot(number) + 30 * HOUR) for number in range(-3, 1)]

    found = fresh(make_daily(effective_from=slot(-3)), history(*past), slot(2) + HOUR)

    assert (found.state, found.next_expected_at) == (S.DUE, slot(1) + 30 * HOUR)


def test_what_is_usually_queued_after_its_slot_is_not_due_before() -> None:
    past = history(*(known(number, after=2 * HOUR) for number in range(3)))

    before = fresh(make_daily(), past, slot(3) + HOUR)
    after = fresh(make_daily(), past, slot(3) + 2 * HOUR)

    assert (before.state, before.next_expected_at) == (S.OK, slot(3) + 2 * HOUR + TAKES)
    assert (after.state, after.next_expected_at) == (S.DUE, slot(3) + 2 * HOUR + TAKES)


def test_an_ended_schedule_still_misses_the_slots_before_its_end() -> None:
    found = fresh(make_daily(effective_to=slot(3)), history(known(1)), slot(5))

    assert (found.state, found.slots_missed, found.ends_at) == (S.ENDED, 1, slot(3))


@pytest.mark.parametrize(("days", "soon"), [(14, True), (14 + 1 / 1440, False), (0.01, True), (0, False), (-1, False)])
def test_an_end_is_near_from_fourteen_days_before_until_it_has_come(days: float, soon: bool) -> None:
    now = slot(5) + 9 * HOUR
    found = fresh(make_daily(effective_to=now + timedelta(days=days)), history(known(5)), now)

    assert ends_soon(found, now) is soon
    assert ends_soon(replace(found, ends_at=None), now) is False


def test_only_what_still_runs_ends_soon() -> None:
    now = slot(5) + 9 * HOUR
    found = fresh(make_daily(effective_to=now + DAY), history(known(5)), now)

    assert {state for state in S if ends_soon(replace(found, state=state), now)} == {S.OK, S.DUE, S.LATE, S.UNKNOWN}


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
    assert history(old, since=seen - MINUTE).was_over(None) is False
    assert history(old, known(1, JobState.EXPIRED), since=seen).was_over(None) is False
    assert history(known(0), since=seen).was_over(None) is False
    assert history(known(0, JobState.EXPIRED, completed_at=None, created_at=None), since=seen).was_over(None) is False
    assert history(since=seen).was_over(None) is False
    assert history(old, since=None).was_over(None) is False


def test_a_schedule_that_was_to_go_on_when_it_was_seen_was_not_over() -> None:
    seen = slot(0) + TAKES + 30 * DAY
    old = history(known(0, JobState.TOO_OLD), since=seen)

    assert old.was_over(make_daily()) is False
    assert old.was_over(make_daily(effective_to=seen + MINUTE)) is False
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
