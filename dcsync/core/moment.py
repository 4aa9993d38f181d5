"""The moment that an operator means. Pure."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta, tzinfo

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{1,2}:\d{2}.*")


def is_moment(word: str) -> bool:
    """Whether a word looks like a day or a time."""
    return _DAY.fullmatch(word) is not None or _TIME.fullmatch(word) is not None


def end_of(word: str, zone: tzinfo) -> datetime:
    """Return the last moment that a day or a time means: a day lasts until its end. Raises `ValueError`.

    A time without an offset is in `zone`.
    """
    if _DAY.fullmatch(word):
        following = date.fromisoformat(word) + timedelta(days=1)
        return datetime.combine(following, time(), zone) - timedelta(microseconds=1)
    moment = datetime.fromisoformat(word)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
