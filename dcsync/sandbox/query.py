"""The query of a list: filters, order and page, as Autodesk's reference documents them. Anything else is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import TypeAlias

Row: TypeAlias = "dict[str, object]"

DEFAULT_LIMIT = 20
_PAGE = frozenset({"sort", "limit", "offset"})


class Kind(Enum):
    """What the value of a filter can be. A filter of a closed set has its values instead."""

    PROJECT = "a project ID, or null for all"
    RANGE = "a time, or a range first..last of which one side can be missing"
    TIME = "a time"
    BOOLEAN = "true or false"
    NUMBER = "a number"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFields:
    """The documented query of one list: its parameters, its filters with their values, and the fields to sort by."""

    parameters: frozenset[str] = _PAGE
    filters: Mapping[str, Kind | tuple[str, ...]]
    sortable: frozenset[str]


class QueryError(ValueError):
    """The query is not valid. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """The entries that match, in order, and the page that is wanted of them."""

    rows: Sequence[Row]
    limit: int
    offset: int


#: GET requests.
REQUESTS = ListFields(
    parameters=_PAGE | {"sortFields"},
    filters={
        "projectId": Kind.PROJECT,
        "createdAt": Kind.RANGE,
        "updatedAt": Kind.RANGE,
        "scheduleInterval": ("ONE_TIME", "DAY", "WEEK", "MONTH", "YEAR"),
        "reocurringInterval": Kind.NUMBER,
        "effectiveFrom": Kind.TIME,
        "effectiveTo": Kind.TIME,
        "isActive": Kind.BOOLEAN,
        "startDate": Kind.TIME,
        "endDate": Kind.TIME,
    },
    sortable=frozenset(
        str.split(
            "isActive accountId createdBy createdByEmail createdAt updatedBy updatedAt scheduleInterval "
            "reoccuringInterval effectiveFrom effectiveTo startDate endDate"
        )
    ),
)
#: GET jobs. Only this list documents `projectId`.
JOBS = ListFields(
    parameters=_PAGE | {"sortFields", "projectId"},
    filters={
        "projectId": Kind.PROJECT,
        "createdAt": Kind.RANGE,
        "status": ("queued", "running", "complete"),
        "completionStatus": ("success", "failed", "cancelled"),
        "startedAt": Kind.RANGE,
        "completedAt": Kind.RANGE,
        "startDate": Kind.TIME,
        "endDate": Kind.TIME,
    },
    sortable=frozenset(
        str.split(
            "projectId createdBy createdByEmail createdAt status completionStatus startedAt completedAt startDate "
            "endDate"
        )
    ),
)
#: GET requests/:requestId/jobs.
REQUEST_JOBS = ListFields(filters={}, sortable=frozenset())
#: The reference spells the filter with one `c`, and the field with two.
_RENAMED = {"reocurringInterval": "reoccuringInterval"}


def select(rows: Iterable[Row], query: Sequence[tuple[str, str]], fields: ListFields) -> Selected:
    """Apply the query of a list to its entries, oldest first. Raises `QueryError`."""
    given = dict(query)
    if len(given) < len(query):
        message = "a parameter is given twice"
        raise QueryError(message)
    found = list(rows)
    for name, value in query:
        field = name[7:-1] if name.startswith("filter[") and name.endswith("]") else None
        if field is not None and field in fields.filters:
            kind = fields.filters[field]
            # A value is checked even if the list is empty.
            found = [row for row in [{}, *found] if _matches(row, field, kind, value) and row]
        elif name not in fields.parameters:
            message = f"{name} is not a parameter of this endpoint"
            raise QueryError(message)
    if "projectId" in given:
        found = [row for row in found if _matches(row, "projectId", Kind.PROJECT, given["projectId"])]
    limit, offset = _number(given, "limit", DEFAULT_LIMIT, 1), _number(given, "offset", 0, 0)
    return Selected(rows=_ordered(found, given, fields), limit=limit, offset=offset)


def parse_time(text: str) -> datetime | None:
    """Parse ISO 8601 with a time. A missing time zone is UTC. None for any other text."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if "T" not in text:
        return None
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).astimezone(UTC)


def _ordered(rows: list[Row], given: Mapping[str, str], fields: ListFields) -> list[Row]:
    sort = given.get("sort", "asc")
    if sort not in {"asc", "desc"}:
        message = "sort must be asc or desc"
        raise QueryError(message)
    # The default order is ascending, so page one contains the oldest entries.
    rows.sort(key=lambda row: [_sort_key(row, field) for field in ("createdAt", "id")], reverse=sort == "desc")
    # The reference does not say how `sort` and `sortFields` combine. Here `sort` orders entries with equal fields.
    for text in reversed([part.strip() for part in given.get("sortFields", "").split(",")]):
        name = text.removeprefix("-")
        if name in fields.sortable:
            rows.sort(key=partial(_sort_key, field=name), reverse=text.startswith("-"))
    return rows


def _sort_key(row: Row, field: str) -> tuple[bool, str]:
    value = row.get(field)
    return value is not None, f"{value:012}" if isinstance(value, int) else str(value)


def _matches(row: Row, field: str, kind: Kind | tuple[str, ...], value: str) -> bool:
    if "," in value:
        message = f"filter[{field}] can have one value only"
        raise QueryError(message)
    own = row.get(_RENAMED.get(field, field))
    match kind:
        case tuple() if value in kind:
            return own == value
        case Kind.PROJECT if value:
            return value in {"null", own, *_project_ids(row)}
        case Kind.BOOLEAN if value in {"true", "false"}:
            return own is (value == "true")
        case Kind.NUMBER if value.isdecimal():
            return own == int(value)
        case Kind.TIME | Kind.RANGE:
            return _is_within(own, field, kind, value)
        case _:
            wanted = " or ".join(kind) if isinstance(kind, tuple) else kind.value
            message = f"filter[{field}] must be {wanted}"
            raise QueryError(message)


def _is_within(own: object, field: str, kind: Kind | tuple[str, ...], value: str) -> bool:
    first, dots, last = value.partition("..") if kind is Kind.RANGE else (value, "", value)
    bounds = [parse_time(text) for text in (first, last if dots else first)]
    given = [text for text in (first, last) if text]
    if not given or any(parse_time(text) is None for text in given):
        message = f"filter[{field}] must be {Kind.RANGE.value if kind is Kind.RANGE else Kind.TIME.value}, in ISO 8601"
        raise QueryError(message)
    moment = parse_time(own) if isinstance(own, str) else None
    if moment is None:
        return False
    return (bounds[0] is None or bounds[0] <= moment) and (bounds[1] is None or moment <= bounds[1])


def _project_ids(row: Row) -> Sequence[object]:
    value = row.get("projectIdList")
    decoded = json.loads(value) if isinstance(value, str) else value
    return decoded if isinstance(decoded, list) else ()


def _number(given: Mapping[str, str], name: str, default: int, least: int) -> int:
    text = given.get(name, str(default))
    if not text.isdecimal() or int(text) < least:
        message = f"{name} must be a number of at least {least}"
        raise QueryError(message)
    return int(text)
