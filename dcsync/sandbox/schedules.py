"""When the jobs of a data request are due."""

from __future__ import annotations

import calendar
from datetime import datetime, timedelta

_DAYS = {"DAY": 1, "WEEK": 7}
_MONTHS = {"MONTH": 1, "YEAR": 12}


def due_at(first: datetime, schedule: str, every: int, number: int) -> datetime | None:
    """Return when the job with this number is due. The first one is 0. None if the schedule has no such job."""
    if number == 0:
        return first
    if schedule in _DAYS:
        return first + timedelta(days=_DAYS[schedule] * every * number)
    if schedule in _MONTHS:
        return _months_later(first, _MONTHS[schedule] * every * number)
    return None


def _months_later(moment: datetime, months: int) -> datetime:
    years, month = divmod(moment.month - 1 + months, 12)
    year = moment.year + years
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)
