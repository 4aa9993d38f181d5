"""The filters of the API's lists, as typed on a command line: checked before any call, with their times completed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from dcsync.core.names import printable
from dcsync.core.wire import parse_time, time_json

_DAY_BEGINS: Final = "T00:00:00.000Z"
_DAY_ENDS: Final = "T23:59:59.999Z"
#: The length of a date without a time, such as 2026-11-30.
_DATE_LENGTH: Final = 10


class FilterError(ValueError):
    """A filter cannot be sent to the API. The message says why, and what is possible instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFilters:
    """The fields by which a list can be filtered, as the reference documents them."""

    #: Fields with an exact value.
    exact: tuple[str, ...]
    #: Fields with an exact time.
    times: tuple[str, ...]
    #: Fields with a range of times.
    ranges: tuple[str, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields."""
        return tuple(sorted((*self.exact, *self.times, *self.ranges)))


#: GET requests. The reference spells the filter of `reoccuringInterval` with one `c`.
REQUEST_FILTERS: Final = ListFilters(
    exact=("projectId", "scheduleInterval", "reocurringInterval", "isActive"),
    times=("effectiveFrom", "effectiveTo", "startDate", "endDate"),
    ranges=("createdAt", "updatedAt"),
)
#: GET jobs.
JOB_FILTERS: Final = ListFilters(
    exact=("projectId", "status", "completionStatus"),
    times=("startDate", "endDate"),
    ranges=("createdAt", "startedAt", "completedAt"),
)
_SPELLINGS: Final = {"reoccuringInterval": "reocurringInterval"}


def parse_filters(texts: Iterable[str], known: ListFilters) -> dict[str, str]:
    """Return the filters `FIELD=VALUE` by field. Raises `FilterError`.

    A range is `FIRST..LAST`, of which one side can be missing. A date without a time is the whole day.
    """
    filters: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            message = f"{printable(text, 80)!r} is not FIELD=VALUE"
            raise FilterError(message)
        field = _SPELLINGS.get(name, name)
        if field not in known.fields:
            message = f"{printable(name, 40)} is not a field to filter by. Choose from: {', '.join(known.fields)}"
            raise FilterError(message)
        if field in filters or "," in value:
            message = f"{field} has two values, but the API takes one value for each field"
            raise FilterError(message)
        filters[field] = _completed(field, value, known)
    return filters


def _completed(field: str, value: str, known: ListFilters) -> str:
    if field in known.times:
        return _moment(field, value, _DAY_BEGINS)
    if field not in known.ranges:
        return value
    first, dots, last = value.partition("..")
    if not dots:
        if len(value) != _DATE_LENGTH:
            return _moment(field, value, _DAY_BEGINS)
        last = first
    if not first and not last:
        message = f"{field} needs at least one side of the range FIRST..LAST"
        raise FilterError(message)
    begin = _moment(field, first, _DAY_BEGINS) if first else ""
    end = _moment(field, last, _DAY_ENDS) if last else ""
    return f"{begin}..{end}"


def _moment(field: str, text: str, rest: str) -> str:
    moment = time_json(parse_time(text + rest if len(text) == _DATE_LENGTH else text))
    if moment is None:
        message = f"{field} cannot be {printable(text, 40)!r}: write a date such as 2026-11-30, or a time in ISO 8601"
        raise FilterError(message)
    return moment
