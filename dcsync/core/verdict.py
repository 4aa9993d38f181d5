"""The one sentence that the report page opens with: whether today's data is complete. Pure.

It counts the data requests that still produce extracts. "Today" is complete when nothing is overdue, expected or over:
a weekly data request is complete on all days on which nothing is due. Retired data requests, and those that run once
and are mirrored, do not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from dcsync.core.freshness import FreshnessState, RequestFreshness
from dcsync.core.names import printable

_NAME = 80


class Tone(StrEnum):
    """The kind of a verdict or state, which decides its colour."""

    GOOD = "good"
    #: Something is expected, and nothing is overdue.
    WAITING = "waiting"
    BAD = "bad"
    #: dcsync cannot tell.
    UNKNOWN = "unknown"
    #: The data request is over on purpose.
    OVER = "over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The sentence, without a full stop."""

    tone: Tone
    words: str


_TONES = {
    FreshnessState.OK: Tone.GOOD,
    FreshnessState.DUE: Tone.WAITING,
    FreshnessState.LATE: Tone.BAD,
    FreshnessState.ENDED: Tone.BAD,
    FreshnessState.RETIRED: Tone.OVER,
    FreshnessState.DONE: Tone.OVER,
    FreshnessState.INACTIVE: Tone.BAD,
    FreshnessState.GONE: Tone.BAD,
    FreshnessState.UNKNOWN: Tone.UNKNOWN,
}


def tone_of(request: RequestFreshness) -> Tone:
    """Return the tone of a data request's state."""
    return _TONES[request.state]


def verdict(
    accounts: Sequence[tuple[str, Sequence[RequestFreshness]]], *, now: datetime, time_text: Callable[[datetime], str]
) -> Verdict:
    """Return the verdict on accounts, each with its name and the data requests that are mirrored.

    `time_text` writes a time in the page's zone.
    """
    if not accounts:
        return Verdict(tone=Tone.UNKNOWN, words="Nothing is mirrored yet: no account is known")
    empty = [name for name, requests in accounts if not requests]
    requests = [request for _, found in accounts for request in found]
    by_tone = {tone: [request for request in requests if tone_of(request) is tone] for tone in Tone}
    bad = sorted(by_tone[Tone.BAD], key=_badness)
    counted = len(requests) - len(by_tone[Tone.OVER])
    if bad:
        others = len(bad) - 1 + len(empty)
        words = f"{problem_text(bad[0], now, time_text)}{_more(others)}"
        return Verdict(tone=Tone.BAD, words=f"Today is incomplete: {words}")
    if empty:
        words = f"no data request of {_quoted(empty[0])} is mirrored{_more(len(empty) - 1)}"
        return Verdict(tone=Tone.BAD, words=f"Today is incomplete: {words}")
    if by_tone[Tone.UNKNOWN]:
        unknown = by_tone[Tone.UNKNOWN]
        words = f"{_unknown_text(unknown[0])}{_more(len(unknown) - 1)}"
        return Verdict(tone=Tone.UNKNOWN, words=f"Whether today is complete is not known: {words}")
    if not counted:
        return Verdict(tone=Tone.GOOD, words=f"Nothing is due: {_count(len(requests))} {_are(len(requests))} over")
    share = f"{counted - len(by_tone[Tone.WAITING])} of {_count(counted)}"
    if by_tone[Tone.WAITING]:
        first = min(by_tone[Tone.WAITING], key=lambda request: _expected(request, now))
        return Verdict(
            tone=Tone.WAITING,
            words=f"Today is not complete yet: {share}. The extract of {_quoted(first.name)} is expected at "
            f"{time_text(_expected(first, now))}",
        )
    return Verdict(tone=Tone.GOOD, words=f"Today is complete: {share}")


def problem_text(request: RequestFreshness, now: datetime, time_text: Callable[[datetime], str]) -> str:
    """Return what is wrong with a data request of the tone `BAD`."""
    name, missing = _quoted(request.name), len(request.missed)
    lost = f" ({missing} missing)" if missing > 1 else ""
    match request.state:
        case FreshnessState.ENDED:
            ended = "" if request.ends_at is None else f" on {time_text(request.ends_at)[:10]}"
            return f"the schedule of {name} ended{ended}{lost}"
        case FreshnessState.INACTIVE:
            return f"{name} was set inactive and produces no extracts"
        case FreshnessState.GONE:
            return f"{name} is no longer visible at Autodesk"
        case _:
            if not request.missed:
                return f"the extract of {name} is overdue"
            return f"the extract of {name} is {span_text(now - request.missed[0].due_at)} overdue{lost}"


def span_text(span: timedelta) -> str:
    """Return a span of time in words."""
    hours = round(span / timedelta(hours=1))
    if hours < 1:
        return "less than an hour"
    if hours < 48:
        return "1 hour" if hours == 1 else f"{hours} hours"
    return f"{hours // 24} days"


def _badness(request: RequestFreshness) -> tuple[float, str]:
    """Order what misses extracts first, the longest missing one before the others."""
    return (request.missed[0].due_at.timestamp() if request.missed else math.inf, request.name)


def _unknown_text(request: RequestFreshness) -> str:
    if request.next_expected_at is None:
        return f"the schedule of {_quoted(request.name)} is not known"
    return f"the jobs of {_quoted(request.name)} could not be read since its extract was due"


def _expected(request: RequestFreshness, now: datetime) -> datetime:
    return request.next_expected_at or now


def _quoted(name: str) -> str:
    return f"'{printable(name, _NAME)}'"


def _count(number: int) -> str:
    return "1 data request" if number == 1 else f"{number} data requests"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _more(number: int) -> str:
    if not number:
        return ""
    return f", and {'1 more data request has' if number == 1 else f'{number} more data requests have'} a problem"
