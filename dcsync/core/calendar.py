"""A calendar of snapshots: months of weeks of days, newest month first. Pure."""

from __future__ import annotations

import calendar
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum


class Mark(StrEnum):
    """What a day shows; of several, the one further down here."""

    PRUNED = "pruned"
    SNAPSHOT = "snapshot"
    WARNED = "warned"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something of a day: a snapshot, or the lack of one. `target` is where its link leads, if anywhere."""

    day: date
    mark: Mark
    target: str | None
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A day of the calendar. `count` is how many snapshots it has."""

    number: int
    mark: Mark | None = None
    target: str | None = None
    words: str = ""
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """Weeks from Monday to Sunday; None stands for a day of another month."""

    year: int
    name: str
    weeks: tuple[tuple[Day | None, ...], ...]


_ORDER = list(Mark)


def months(events: Sequence[Event]) -> tuple[Month, ...]:
    """Return the months that have an event, newest first. Events are in order of time: a day leads to its newest."""
    by_day: defaultdict[date, list[Event]] = defaultdict(list)
    for event in events:
        by_day[event.day].append(event)
    wanted = sorted({(day.year, day.month) for day in by_day}, reverse=True)
    return tuple(_month(year, month, by_day) for year, month in wanted)


def _month(year: int, month: int, by_day: dict[date, list[Event]]) -> Month:
    weeks = calendar.Calendar().monthdayscalendar(year, month)
    return Month(
        year=year,
        name=f"{calendar.month_name[month]} {year}",
        weeks=tuple(
            tuple(_day(number, by_day.get(date(year, month, number), [])) if number else None for number in week)
            for week in weeks
        ),
    )


def _day(number: int, events: Sequence[Event]) -> Day:
    if not events:
        return Day(number=number)
    primary_error = max(events, key=lambda event: _ORDER.index(event.mark))
    targets = [event.target for event in events if event.target is not None]
    return Day(
        number=number,
        mark=primary_error.mark,
        target=targets[-1] if targets else None,
        words="; ".join(event.words for event in events[-_SAID:]),
        count=sum(event.mark in {Mark.SNAPSHOT, Mark.WARNED} for event in events),
    )


#: 24 jobs a day is the API's limit; a tooltip of so many lines is no help.
_SAID = 3
