"""A calendar of snapshots."""

from __future__ import annotations

from datetime import date

from dcsync.core.calendar import Day, Event, Mark, months


def event(day: str, mark: Mark = Mark.SNAPSHOT, target: str | None = "./x/", words: str = "w") -> Event:
    return Event(day=date.fromisoformat(day), mark=mark, target=target, words=words)


def day_of(events: list[Event], number: int) -> Day:
    (month,) = months(events)
    (found,) = [day for week in month.weeks for day in week if day is not None and day.number == number]
    return found


def test_nothing_has_no_months() -> None:
    assert months([]) == ()


def test_months_without_an_event_are_left_out_and_the_newest_is_first() -> None:
    found = months([event("2025-12-31"), event("2026-02-01")])

    assert [(month.year, month.name) for month in found] == [(2026, "February 2026"), (2025, "December 2025")]


def test_weeks_begin_on_monday_and_days_of_other_months_are_not_shown() -> None:
    (month,) = months([event("2026-11-22")])

    assert [len(week) for week in month.weeks] == [7] * 6
    assert month.weeks[0][:6] == (None,) * 6
    assert month.weeks[0][6] == Day(number=1)
    assert month.weeks[3][6] == Day(number=22, mark=Mark.SNAPSHOT, target="./x/", words="w", count=1)


def test_a_day_of_several_leads_to_the_newest_and_shows_what_matters_most() -> None:
    events = [
        event("2026-11-22", Mark.WARNED, "./a/", "a"),
        event("2026-11-22", Mark.SNAPSHOT, "./b/", "b"),
        event("2026-11-22", Mark.PRUNED, None, "c"),
        event("2026-11-22", Mark.LOST, None, "d"),
    ]

    assert day_of(events, 22) == Day(number=22, mark=Mark.LOST, target="./b/", words="b; c; d", count=2)


def test_a_pruned_day_leads_nowhere() -> None:
    assert day_of([event("2026-11-22", Mark.PRUNED, None)], 22) == Day(number=22, mark=Mark.PRUNED, words="w")
