"""The rules for the fields of a data request: which values Autodesk's reference permits, alone and together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from dcsync.sandbox.query import parse_time

SCHEDULES: Final = ("ONE_TIME", "DAY", "WEEK", "MONTH", "YEAR")
DATE_RANGES: Final = ("TODAY", "YESTERDAY", "PAST_7_DAYS", "MONTH_TO_DATE", "LAST_MONTH", "CUSTOM")
PROJECT_STATUSES: Final = ("all", "archived", "active")
STANDARD_GROUPS: Final = frozenset(
    str.split(
        "all activities admin assets checklists cost dailylogs forms iq issues locations markups meetingminutes photos "
        "relationships reviews rfis schedule sheets submittals submittalsacc transmittals"
    )
)
#: The last three are not in the reference, but in Autodesk's schema documents.
DELTA_GROUPS: Final = frozenset(
    str.split(
        "cdcadmin cdccost cdcissues cdclocations cdcrfis cdcschedule cdcsubmittalsacc cdcsheets cdcmeetingminutes "
        "cdctransmittals cdciq cdcrelationships cdcv2admin"
    )
)
#: The fields of PATCH. Those that it requires come first.
CHANGEABLE: Final = tuple(
    str.split(
        "scheduleInterval serviceGroups isActive description reoccuringInterval effectiveFrom effectiveTo callbackUrl "
        "sendEmail projectId projectIdList startDate endDate"
    )
)
_REQUIRED_IN_PATCH: Final = CHANGEABLE[:2]
_MAX_PROJECTS = 50


class RuleError(ValueError):
    """A field breaks a rule. The message names the field."""


def check_fields(body: object, *, is_new: bool) -> dict[str, object]:
    """Return the fields of a body, each checked alone. Fields that are null are left out if they are new."""
    if not isinstance(body, dict):
        message = "the body must be a JSON object"
        raise RuleError(message)
    known = _CHECKS if is_new else {name: _CHECKS[name] for name in CHANGEABLE}
    for name, value in body.items():
        if name not in known:
            message = f"{name} is not a field of this endpoint"
            raise RuleError(message)
        wanted = known[name](value) if value is not None else None
        if wanted is not None:
            message = f"{name} must be {wanted}"
            raise RuleError(message)
    if not is_new:
        _require(body, _REQUIRED_IN_PATCH)
        return body
    return {name: value for name, value in body.items() if value is not None}


def check_whole(fields: Mapping[str, object], *, is_new: bool) -> None:
    """Check the fields of a data request together. Only POST documents that a recurring one needs its end."""
    _require(fields, ("scheduleInterval", "serviceGroups", "effectiveFrom"))
    if fields["scheduleInterval"] == "ONE_TIME":
        if fields.get("effectiveTo") is not None:
            message = "effectiveTo must not be supplied for ONE_TIME"
            raise RuleError(message)
    else:
        _require(fields, ("reoccuringInterval", "effectiveTo") if is_new else ("reoccuringInterval",))
        _check_order(fields, "effectiveFrom", "effectiveTo")
    has_dates = _check_order(fields, "startDate", "endDate")
    if fields.get("dateRange") == "CUSTOM":
        _require(fields, ("startDate", "endDate"))
    groups = fields["serviceGroups"]
    if isinstance(groups, list) and DELTA_GROUPS & set(groups) and not has_dates and fields.get("dateRange") is None:
        message = "the delta extraction service groups need startDate and endDate"
        raise RuleError(message)


def time_of(value: object) -> datetime | None:
    """Return the time of a checked field."""
    return parse_time(value) if isinstance(value, str) else None


def ids_of(value: object) -> tuple[str, ...]:
    """Return the IDs of a checked `projectIdList`, an array or an array as JSON in a string."""
    decoded = json.loads(value) if isinstance(value, str) else value
    return tuple(map(str, decoded)) if isinstance(decoded, list) else ()


def _require(fields: Mapping[str, object], names: tuple[str, ...]) -> None:
    for name in names:
        if fields.get(name) is None:
            message = f"{name} is required"
            raise RuleError(message)


def _check_order(fields: Mapping[str, object], first: str, last: str) -> bool:
    """Check that the first time is not after the last one. Returns whether there is one at all."""
    begin, end = time_of(fields.get(first)), time_of(fields.get(last))
    if begin is not None and end is not None and begin > end:
        message = f"{last} must not be before {first}"
        raise RuleError(message)
    return begin is not None or end is not None


def _one_of(values: tuple[str, ...]) -> Callable[[object], str | None]:
    return lambda value: None if value in values else f"one of {', '.join(values)}"


def _boolean(value: object) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _text(value: object) -> str | None:
    return None if isinstance(value, str) else "a string"


def _time(value: object) -> str | None:
    return None if time_of(value) is not None else "a time in ISO 8601"


def _count(value: object) -> str | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return None if is_count else "a non-zero integer"


def _groups(value: object) -> str | None:
    known = STANDARD_GROUPS | DELTA_GROUPS
    is_valid = isinstance(value, list) and value and all(isinstance(name, str) and name in known for name in value)
    return None if is_valid else "an array of service groups, with one or more"


def _projects(value: object) -> str | None:
    try:
        decoded = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        decoded = None
    is_valid = isinstance(decoded, list) and len(decoded) <= _MAX_PROJECTS and all(isinstance(i, str) for i in decoded)
    return None if is_valid else f"an array of up to {_MAX_PROJECTS} project IDs"


def _https(value: object) -> str | None:
    parts = urlsplit(value) if isinstance(value, str) else None
    return None if parts is not None and parts.scheme == "https" and parts.hostname else "an https URL"


_CHECKS: Final[Mapping[str, Callable[[object], str | None]]] = {
    "description": _text,
    "isActive": _boolean,
    "scheduleInterval": _one_of(SCHEDULES),
    "reoccuringInterval": _count,
    "effectiveFrom": _time,
    "effectiveTo": _time,
    "serviceGroups": _groups,
    "callbackUrl": _https,
    "sendEmail": _boolean,
    "projectId": _text,
    "projectIdList": _projects,
    "startDate": _time,
    "endDate": _time,
    "dateRange": _one_of(DATE_RANGES),
    "projectStatus": _one_of(PROJECT_STATUSES),
}
