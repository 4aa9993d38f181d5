"""When a person is told of what stands, reminded of it, and told that it is over."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.events import Event, EventKind
from dcsync.core.standing import PATIENCE, REMIND_AFTER, StandingAlert, reconcile
from tests.fakes import NOON

SECOND = timedelta(seconds=1)


def make_alert(code: str = "A-DENIED", *, subject: str = "", passing: bool = False) -> Alert:
    message = f"{code} stands"
    return Alert.of(AlertCode(code), account="acme", message=message, subject=subject, may_pass=passing)


class Told:
    """A history of looks: what stands after each, and every event."""

    def __init__(self) -> None:
        self.standing: tuple[StandingAlert, ...] = ()

    def look(self, now: datetime, *alerts: Alert) -> list[tuple[EventKind, str]]:
        """Return kind and code of what is told at a look that finds these alerts."""
        result = reconcile(self.standing, alerts, now)
        self.standing = result.standing
        return [(event.kind, event.code) for event in result.events]


A, R = EventKind.ALERT, EventKind.RECOVERED

alerts = st.builds(
    make_alert,
    st.sampled_from(["A-DENIED", "A-NETWORK", "L-LATE"]),
    subject=st.sampled_from(["", "job"]),
    passing=st.booleans(),
)
moments = st.integers(-7200, 400_000).map(lambda seconds: NOON + timedelta(seconds=seconds))
looks = st.lists(st.tuples(moments, st.lists(alerts, max_size=4)), max_size=12)


def after(history: Sequence[tuple[datetime, Sequence[Alert]]]) -> Told:
    told = Told()
    for moment, found in history:
        told.look(moment, *found)
    return told


# --- the course of one alert ----------------------------------------------------------------------------------------


def test_what_stands_is_told_when_it_begins_once_a_day_and_when_it_is_over() -> None:
    told, alert = Told(), make_alert()

    assert told.look(NOON, alert) == [(A, "A-DENIED")]
    assert told.look(NOON + REMIND_AFTER - SECOND, alert) == []
    assert told.look(NOON + REMIND_AFTER, alert) == [(A, "A-DENIED")]
    assert told.look(NOON + 2 * REMIND_AFTER - SECOND, alert) == []
    assert told.look(NOON + 2 * REMIND_AFTER - SECOND) == [(R, "A-DENIED")]
    assert told.look(NOON + 2 * REMIND_AFTER) == []


def test_what_may_pass_by_itself_is_told_when_it_has_stood_for_a_while() -> None:
    told, alert = Told(), make_alert("A-NETWORK", passing=True)

    assert told.look(NOON, alert) == []
    assert told.look(NOON + PATIENCE - SECOND, alert) == []
    assert told.look(NOON + PATIENCE, alert) == [(EventKind.FAILURE, "A-NETWORK")]
    assert told.look(NOON + PATIENCE + SECOND, alert) == []


def test_what_passed_before_it_was_told_is_not_told_to_be_over_and_begins_anew() -> None:
    told, alert = Told(), make_alert("A-NETWORK", passing=True)
    told.look(NOON, alert)

    assert told.look(NOON + PATIENCE - SECOND) == []
    assert told.standing == ()
    assert told.look(NOON + PATIENCE, alert) == []


def test_a_reminder_comes_once_a_day_and_patience_lasts_an_hour() -> None:
    assert timedelta(hours=24) == REMIND_AFTER
    assert timedelta(minutes=60) == PATIENCE


def test_what_comes_back_is_told_again() -> None:
    told, alert = Told(), make_alert()
    told.look(NOON, alert)
    told.look(NOON + SECOND)

    assert told.look(NOON + 2 * SECOND, alert) == [(A, "A-DENIED")]


def test_subjects_of_one_code_stand_each_for_itself() -> None:
    told = Told()
    told.look(NOON, make_alert(subject="a"))

    events = reconcile(told.standing, [make_alert(subject="b")], NOON + SECOND).events

    assert [(event.kind, event.data["subject"]) for event in events] == [(A, "b"), (R, "a")]


def test_an_event_says_what_to_do_and_since_when() -> None:
    alert = Alert.of(AlertCode.L_FAILED, account="acme", message="m", hint="h", subject="s")
    told = reconcile((), [alert], NOON)
    over = reconcile(told.standing, [], NOON + timedelta(hours=2))

    (began,), (ended,) = told.events, over.events
    since = {"since": "2026-11-22T12:00:00.000Z", "subject": "s"}
    assert began == Event(
        kind=EventKind.FAILURE, account="acme", at=NOON, message="m", code="L-FAILED", hint="h", data=since
    )
    assert ended == Event(
        kind=R, account="acme", at=NOON + timedelta(hours=2), message="resolved: m", code="L-FAILED", data=since
    )


def test_what_may_pass_by_itself_is_a_failure_whatever_its_code_and_says_all_that_its_alert_does() -> None:
    alert = replace(make_alert(passing=True), data={"slots": 3})
    told = reconcile((), [alert], NOON)

    (began,) = reconcile(told.standing, [alert], NOON + PATIENCE).events

    assert began.kind is EventKind.FAILURE
    assert began.data == {"since": "2026-11-22T12:00:00.000Z", "subject": "", "slots": 3}


def test_a_message_that_changes_is_no_news_but_is_what_is_told_next() -> None:
    first = Alert.of(AlertCode.L_LATE, account="acme", message="3 h late")
    later = Alert.of(AlertCode.L_LATE, account="acme", message="27 h late")
    told = Told()
    told.look(NOON, first)

    assert told.look(NOON + SECOND, later) == []
    assert reconcile(told.standing, [later], NOON + REMIND_AFTER).events[0].message == "27 h late"
    assert reconcile(told.standing, [], NOON + REMIND_AFTER).events[0].message == "resolved: 27 h late"


# --- a final alert, a silent one, and what status shows ---------------------------------------------------------------


def test_a_job_that_is_lost_has_not_recovered_from_what_was_wrong_with_it() -> None:
    told = Told()
    told.look(NOON, make_alert("L-LATE", subject="job"), make_alert("L-LATE", subject="other"))

    found = told.look(NOON + SECOND, replace(make_alert("L-LOST", subject="job"), is_final=True, job="job"))

    assert found == [(EventKind.FAILURE, "L-LOST"), (R, "L-LATE")]


def test_an_alert_about_a_job_that_is_not_lost_hides_no_recovery() -> None:
    told = Told()
    told.look(NOON, make_alert("L-LATE", subject="job"), make_alert("L-SLOW", subject=""))

    failed = replace(make_alert("L-FAILED", subject="job"), job="job")
    final = replace(make_alert("L-EXPIRING", subject=""), is_final=True)
    found = told.look(NOON + SECOND, failed, final)

    assert [code for kind, code in found if kind is R] == ["L-LATE", "L-SLOW"]


def test_a_schedule_that_is_unknown_is_replaced_by_the_end_of_its_data_request_only() -> None:
    for after, recovers in (("L-GONE", False), ("L-INACTIVE", False), ("L-ENDED", True)):
        told = Told()
        told.look(NOON, make_alert("L-SCHEDULE", subject="one"))

        assert ((R, "L-SCHEDULE") in told.look(NOON + SECOND, make_alert(after, subject="one"))) is recovers


@pytest.mark.parametrize("before", ["L-LATE", "L-SLOW", "L-FAILED", "L-ENDS"])
@pytest.mark.parametrize("after", ["L-ENDED", "L-GONE", "L-INACTIVE"])
def test_a_data_request_that_became_worse_has_not_recovered(before: str, after: str) -> None:
    history = Told()
    history.look(NOON, make_alert(before, subject="one"), make_alert(before, subject="other"))

    found = history.look(NOON + SECOND, make_alert(after, subject="one"))

    assert found == [(A, after), (R, before)]
    assert history.look(NOON + 2 * SECOND) == [(R, after)]


def test_snapshots_without_tables_have_not_recovered_when_their_extracts_are_lost() -> None:
    history = Told()
    history.look(NOON, make_alert("M-EMPTY", subject="one"))

    lost = replace(make_alert("L-LOST", subject="one"), is_final=True)
    assert history.look(NOON + SECOND, lost) == [(EventKind.FAILURE, "L-LOST")]


def test_an_extract_that_came_is_a_recovery_although_the_schedule_ends_soon() -> None:
    history = Told()
    history.look(NOON, make_alert("L-LATE", subject="one"))

    assert history.look(NOON + SECOND, make_alert("L-ENDS", subject="one")) == [(A, "L-ENDS"), (R, "L-LATE")]


def test_a_final_alert_is_sent_once_and_never_again() -> None:
    history, alert = Told(), replace(make_alert("L-EXPIRING"), is_final=True)

    assert history.look(NOON, alert) == [(EventKind.FAILURE, "L-EXPIRING")]
    assert history.look(NOON + 3 * REMIND_AFTER, alert) == []


def test_an_alert_that_begins_silently_counts_as_sent() -> None:
    alert = make_alert()

    begun = reconcile((), [alert], NOON, silent=frozenset({alert.key}))
    later = reconcile(begun.standing, [alert], NOON + REMIND_AFTER)

    quiet = reconcile(begun.standing, [alert], NOON + REMIND_AFTER - SECOND, silent=frozenset({alert.key}))
    reminded = reconcile(quiet.standing, [alert], NOON + REMIND_AFTER, silent=frozenset({alert.key}))

    assert begun.events == ()
    assert (quiet.events, len(reminded.events)) == ((), 1)
    assert [item.notified_at for item in begun.standing] == [NOON]
    assert [event.kind for event in later.events] == [EventKind.ALERT]


def test_a_standing_alert_has_the_documented_keys() -> None:
    item = StandingAlert(alert=make_alert("L-LATE", subject="the request"), since=NOON, notified_at=None)

    assert item.json() == {
        "code": "L-LATE",
        "severity": "warning",
        "origin": "autodesk",
        "scope": "request",
        "subject": "the request",
        "message": "L-LATE stands",
        "hint": item.alert.hint,
        "since": "2026-11-22T12:00:00.000Z",
    }


# --- a clock that was wrong -------------------------------------------------------------------------------------------


def test_what_was_told_ahead_of_time_is_told_again_once() -> None:
    told, alert = Told(), make_alert()
    told.look(NOON + timedelta(days=900), alert)

    assert told.look(NOON, alert) == [(A, "A-DENIED")]
    assert told.look(NOON + SECOND, alert) == []
    assert told.look(NOON + REMIND_AFTER, alert) == [(A, "A-DENIED")]


def test_what_began_ahead_of_time_is_not_kept_back_for_years() -> None:
    told, alert = Told(), make_alert("A-NETWORK", passing=True)
    told.look(NOON + timedelta(days=900), alert)

    assert told.look(NOON, alert) == []
    assert told.look(NOON + PATIENCE, alert) == [(EventKind.FAILURE, "A-NETWORK")]


# --- what always holds ------------------------------------------------------------------------------------------------


@given(looks, moments, st.lists(alerts, max_size=4))
def test_looking_twice_at_one_moment_tells_nothing_the_second_time(
    history: list[tuple[datetime, list[Alert]]], moment: datetime, found: list[Alert]
) -> None:
    told = after(history)
    told.look(moment, *found)
    standing = told.standing

    assert told.look(moment, *found) == []
    assert told.standing == standing


@given(looks, moments, st.lists(alerts, max_size=4))
def test_what_stands_is_what_was_found_each_once_and_nothing_begins_later_than_now(
    history: list[tuple[datetime, list[Alert]]], moment: datetime, found: list[Alert]
) -> None:
    told = after(history)
    told.look(moment, *found)

    keys = [item.alert.key for item in told.standing]
    assert set(keys) == {alert.key for alert in found}
    assert len(set(keys)) == len(keys)
    assert all(item.since <= moment for item in told.standing)


@given(looks, moments, st.lists(alerts, max_size=4))
def test_only_what_was_told_is_told_to_be_over(
    history: list[tuple[datetime, list[Alert]]], moment: datetime, found: list[Alert]
) -> None:
    told = after(history)
    before = {item.alert.key: item.notified_at for item in told.standing}

    events = reconcile(told.standing, found, moment).events

    over = {key for key, told_at in before.items() if told_at is not None} - {alert.key for alert in found}
    recovered = [(event.account, event.code, event.data["subject"]) for event in events if event.kind is R]
    assert sorted(recovered) == sorted(over)


@given(st.lists(st.integers(1, 7200), min_size=1, max_size=200))
def test_of_one_concern_no_two_events_are_closer_than_a_day_while_it_stands(gaps: list[int]) -> None:
    told, now, told_at = Told(), NOON, []
    for gap in gaps:
        now += timedelta(seconds=gap)
        told_at += [now for _ in told.look(now, make_alert(passing=True))]

    assert all(later - earlier >= REMIND_AFTER for earlier, later in itertools.pairwise(told_at))
