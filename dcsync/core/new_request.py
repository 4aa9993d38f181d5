"""A data request to create, changes to one, and how a created one is recognized. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from dcsync.core.coverage import MAX_DAYS
from dcsync.core.model import DataRequest, Job, Json
from dcsync.core.wire import time_json

#: The values of `scheduleInterval`, `dateRange` and `projectStatus` (APS, POST requests).
SCHEDULES: Final = ("ONE_TIME", "DAY", "WEEK", "MONTH", "YEAR")
DATE_RANGES: Final = ("TODAY", "YESTERDAY", "PAST_7_DAYS", "MONTH_TO_DATE", "LAST_MONTH", "CUSTOM")
PROJECT_STATUSES: Final = ("all", "active", "archived")
MAX_PROJECTS: Final = 50
#: Jobs in any 24 hours, for each user and for each account (APS, Data Connector API Rate Limit and Quota).
JOBS_A_DAY: Final = 24
_ONCE: Final = SCHEDULES[0]
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRequest:
    """The fields of a data request that does not exist yet. `starts_at` and `ends_at` are those of its schedule."""

    service_groups: tuple[str, ...]
    starts_at: datetime
    schedule: str = _ONCE
    #: Units of `schedule` between two jobs. None for a one-time data request.
    every: int | None = None
    ends_at: datetime | None = None
    description: str = ""
    is_active: bool = True
    project_ids: tuple[str, ...] = ()
    project_status: str | None = None
    date_range: str | None = None
    start_date: datetime | None = None
    end_date: datetime | None = None
    #: Its path can contain the secret of the daemon.
    callback_url: str | None = field(default=None, repr=False)
    send_email: bool = False

    @property
    def is_recurring(self) -> bool:
        """Whether it has a schedule."""
        return self.schedule != _ONCE


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestChanges:
    """Changes to a data request. The default of a field leaves it unchanged."""

    is_active: bool | None = None
    description: str | None = None
    ends_at: datetime | None = None
    #: An empty text removes the address.
    callback_url: str | None = field(default=None, repr=False)
    send_email: bool | None = None
    project_ids: tuple[str, ...] | None = None


def problems_of(wanted: NewRequest) -> tuple[str, ...]:
    """Return why Autodesk would refuse a data request, or would extract another period than it names."""
    groups = wanted.service_groups
    dates = [moment for moment in (wanted.start_date, wanted.end_date) if moment is not None]
    is_delta = any(group.startswith("cdc") for group in groups)
    url = urlsplit(wanted.callback_url or "https://localhost")
    checks = (
        (not groups, "name at least one service group"),
        (wanted.schedule not in SCHEDULES, f"the schedule must be one of {', '.join(SCHEDULES)}"),
        (wanted.is_recurring and wanted.ends_at is None, "a recurring data request needs an end"),
        (wanted.is_recurring and (wanted.every or 0) < 1, "a recurring data request needs an interval of at least 1"),
        (not wanted.is_recurring and wanted.ends_at is not None, "a one-time data request has no end"),
        (wanted.ends_at is not None and wanted.ends_at < wanted.starts_at, "the schedule ends before it begins"),
        (
            wanted.date_range is not None and wanted.date_range not in DATE_RANGES,
            f"the date range must be one of {', '.join(DATE_RANGES)}",
        ),
        (wanted.date_range == "CUSTOM" and len(dates) < 2, "the date range CUSTOM needs a start date and an end date"),
        (len(dates) == 2 and dates[1] < dates[0], "the end date is before the start date"),
        (
            len(dates) == 2 and (dates[1].date() - dates[0].date()).days >= MAX_DAYS,
            f"the period is longer than {MAX_DAYS} days, for which Autodesk would extract only one day",
        ),
        (is_delta and not dates and wanted.date_range is None, "delta service groups (cdc…) need a period"),
        (len(wanted.project_ids) > MAX_PROJECTS, f"at most {MAX_PROJECTS} projects can be named"),
        (
            wanted.project_status not in {None, *PROJECT_STATUSES},
            f"the project status must be one of {', '.join(PROJECT_STATUSES)}",
        ),
        (url.scheme != "https" or not url.hostname, "the callback URL must begin with https://"),
    )
    return tuple(problem for is_wrong, problem in checks if is_wrong)


def create_json(wanted: NewRequest) -> dict[str, Json]:
    """Return the body of POST. Fields that are not set are left out, because null is not documented for all of them."""
    fields: dict[str, Json] = {
        "description": wanted.description,
        "isActive": wanted.is_active,
        "scheduleInterval": wanted.schedule,
        "reoccuringInterval": wanted.every if wanted.is_recurring else None,
        "effectiveFrom": time_json(wanted.starts_at),
        "effectiveTo": time_json(wanted.ends_at),
        "serviceGroups": list(wanted.service_groups),
        "projectIdList": list(wanted.project_ids) or None,
        "projectStatus": wanted.project_status,
        "dateRange": wanted.date_range,
        "startDate": time_json(wanted.start_date),
        "endDate": time_json(wanted.end_date),
        "callbackUrl": wanted.callback_url,
        "sendEmail": wanted.send_email,
    }
    return {name: value for name, value in fields.items() if value is not None}


def update_json(current: DataRequest, changes: RequestChanges) -> dict[str, Json]:
    """Return the body of PATCH. It always has the schedule and the service groups, which Autodesk requires."""
    fields: dict[str, Json] = {
        "scheduleInterval": current.schedule_interval,
        "serviceGroups": list(current.service_groups),
        "isActive": changes.is_active,
        "description": changes.description,
        "effectiveTo": time_json(changes.ends_at),
        "callbackUrl": changes.callback_url or None,
        "sendEmail": changes.send_email,
        "projectIdList": None if changes.project_ids is None else list(changes.project_ids),
    }
    body: dict[str, Json] = {name: value for name, value in fields.items() if value is not None}
    if changes.callback_url == "":
        body["callbackUrl"] = None
    return body


def find_created(found: Iterable[DataRequest], wanted: NewRequest, *, after: datetime) -> tuple[DataRequest, ...]:
    """Return the data requests that an attempt to create this one may have created, since `after`."""
    return tuple(entry for entry in found if _is_same(entry, wanted) and (entry.created_at or after) >= after)


def jobs_left(jobs: Iterable[Job], now: datetime) -> tuple[int, datetime | None]:
    """Return how many jobs a user can still have in these 24 hours, and when the next one is free. Newest jobs first.

    Jobs of other users, which also count for the account, are not visible.
    """
    recent = [job.created_at for job in jobs if job.created_at is not None and now - _DAY < job.created_at]
    left = max(0, JOBS_A_DAY - len(recent))
    return left, None if left else sorted(recent)[-JOBS_A_DAY] + _DAY


def _is_same(entry: DataRequest, wanted: NewRequest) -> bool:
    """Compare what Autodesk returns unchanged. It may adjust the times of the schedule."""
    # What was not asked for has a default of Autodesk.
    asked = (
        (entry.start_date, wanted.start_date),
        (entry.end_date, wanted.end_date),
        (entry.date_range, wanted.date_range),
        (entry.project_status, wanted.project_status),
    )
    return (
        entry.description == wanted.description
        and entry.schedule_interval == wanted.schedule
        and set(entry.service_groups) == set(wanted.service_groups)
        and {*map(str.lower, entry.projects)} == {*map(str.lower, wanted.project_ids)}
        and (not wanted.is_recurring or entry.recurring_interval == wanted.every)
        and not any(own is not None and other is not None and own != other for own, other in asked)
    )
