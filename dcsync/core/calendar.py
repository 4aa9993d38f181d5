"""A calendar of snapshots: months of weeks of days, the newest month first. Pure."""

from __future__ import annotations

import calendar
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum


class Mark(StrEnum):
    """The mark of a day. If a day has several, it shows the one that is last in this list."""

    #: The windows of no extract cover it.
    GAP = "gap"
    PRUNED = "pruned"
    SNAPSHOT = "snapshot"
    WARNED = "warned"
    MISSED = "missed"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A snapshot, a missed one, or a lost one, on its day. `target` is the address of its link, if it has one."""

    day: date
    mark: Mark
    target: str | None
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A day of the calendar. `count` is the number of its snapshots."""

    number: int
    mark: Mark | None = None
    target: str | None = None
    words: str = ""
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """Weeks from Monday to Sunday. None is a day of another month."""

    year: int
    name: str
    weeks: tuple[tuple[Day | None, ...], ...]


_ORDER = list(Mark)


def months(events: Sequence[Event]) -> tuple[Month, ...]:
    """Return the months that have an event, newest first. Events are in order of time. A day links to its newest."""
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
    shown = max(events, key=lambda event: _ORDER.index(event.mark))
    targets = [event.target for event in events if event.target is not None]
    return Day(
        number=number,
        mark=shown.mark,
        target=targets[-1] if targets else None,
        words="; ".join(event.words for event in events[-_MOST_WORDS:]),
        count=sum(event.mark in {Mark.SNAPSHOT, Mark.WARNED} for event in events),
    )


#: The API allows 24 jobs per day, which would be too many lines for a tooltip.
_MOST_WORDS = 3
