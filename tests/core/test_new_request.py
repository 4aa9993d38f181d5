"""A data request to create: what Autodesk would refuse, what is sent, and how the created one is recognized."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from dcsync.core.new_request import (
    JOBS_A_DAY,
    NewRequest,
    RequestChanges,
    create_json,
    find_created,
    jobs_left,
    problems_of,
    update_json,
)
from tests.fakes import NOON, make_job, make_request

DAY = timedelta(days=1)
ONCE = NewRequest(service_groups=("admin",), starts_at=NOON, description="Once")
DAILY = replace(ONCE, schedule="DAY", every=1, ends_at=NOON + 30 * DAY, description="Every day")


def created(wanted: NewRequest = ONCE, **changes: Any) -> Any:
    """Return the data request as Autodesk would list it."""
    values: dict[str, Any] = {
        "description": wanted.description,
        "schedule_interval": wanted.schedule,
        "recurring_interval": wanted.every,
        "service_groups": wanted.service_groups,
        "start_date": wanted.start_date,
        "end_date": wanted.end_date,
        "created_at": NOON,
    }
    return make_request(**{**values, **changes})


@pytest.mark.parametrize(
    "wanted",
    [
        ONCE,
        DAILY,
        replace(ONCE, start_date=NOON - 30 * DAY, end_date=NOON),
        replace(ONCE, start_date=NOON),
        replace(ONCE, service_groups=("cdcissues",), date_range="YESTERDAY"),
        replace(ONCE, service_groups=("cdcissues",), date_range="CUSTOM", start_date=NOON - DAY, end_date=NOON),
        replace(ONCE, service_groups=("a group of next year",), project_ids=("p",) * 50, project_status="archived"),
        replace(ONCE, callback_url="https://mirror.example.com/hook/secret"),
    ],
)
def test_what_autodesk_documents_has_no_problems(wanted: NewRequest) -> None:
    assert problems_of(wanted) == ()


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (replace(ONCE, service_groups=()), "at least one service group"),
        (replace(DAILY, schedule="HOUR"), "the schedule must be one of ONE_TIME, DAY"),
        (replace(DAILY, ends_at=None), "needs an end"),
        (replace(DAILY, every=None), "needs an interval of at least 1"),
        (replace(ONCE, ends_at=NOON + DAY), "a one-time data request has no end"),
        (replace(DAILY, ends_at=NOON - DAY), "ends before it begins"),
        (replace(ONCE, date_range="TOMORROW"), "the date range must be one of TODAY"),
        (replace(ONCE, date_range="CUSTOM", end_date=NOON), "CUSTOM needs a start date and an end date"),
        (replace(ONCE, start_date=NOON, end_date=NOON - DAY), "the end date is before the start date"),
        (replace(ONCE, start_date=NOON - 31 * DAY, end_date=NOON), "longer than 31 days"),
        (replace(ONCE, service_groups=("admin", "cdcissues")), "delta service groups (cdc…) need a period"),
        (replace(ONCE, project_ids=("p",) * 51), "at most 50 projects"),
        (replace(ONCE, project_status="closed"), "the project status must be one of all"),
        (replace(ONCE, callback_url="http://mirror.example.com/"), "must begin with https://"),
        (replace(ONCE, callback_url="https://"), "must begin with https://"),
    ],
)
def test_what_autodesk_refuses_or_shortens_is_a_problem(wanted: NewRequest, words: str) -> None:
    (problem,) = problems_of(wanted)

    assert words in problem


def test_the_body_of_a_one_time_data_request_has_only_what_is_set() -> None:
    assert create_json(replace(ONCE, every=3)) == {
        "description": "Once",
        "isActive": True,
        "scheduleInterval": "ONE_TIME",
        "effectiveFrom": "2026-11-22T12:00:00.000Z",
        "serviceGroups": ["admin"],
        "sendEmail": False,
    }


def test_the_body_of_a_recurring_data_request_has_its_schedule_and_period() -> None:
    wanted = replace(
        DAILY,
        project_ids=("p1", "p2"),
        project_status="active",
        date_range="CUSTOM",
        start_date=NOON,
        end_date=NOON,
        callback_url="https://mirror.example.com/",
        send_email=True,
        is_active=False,
    )

    assert create_json(wanted) == {
        "description": "Every day",
        "isActive": False,
        "scheduleInterval": "DAY",
        "reoccuringInterval": 1,
        "effectiveFrom": "2026-11-22T12:00:00.000Z",
        "effectiveTo": "2026-12-22T12:00:00.000Z",
        "serviceGroups": ["admin"],
        "projectIdList": ["p1", "p2"],
        "projectStatus": "active",
        "dateRange": "CUSTOM",
        "startDate": "2026-11-22T12:00:00.000Z",
        "endDate": "2026-11-22T12:00:00.000Z",
        "callbackUrl": "https://mirror.example.com/",
        "sendEmail": True,
    }
    assert "mirror.example.com" not in repr(wanted)


@pytest.mark.parametrize(
    ("changes", "sent"),
    [
        (RequestChanges(), {}),
        (RequestChanges(is_active=False), {"isActive": False}),
        (RequestChanges(ends_at=NOON), {"effectiveTo": "2026-11-22T12:00:00.000Z"}),
        (RequestChanges(callback_url="https://a/"), {"callbackUrl": "https://a/"}),
        (RequestChanges(callback_url=""), {"callbackUrl": None}),
        (
            RequestChanges(description="", send_email=True, project_ids=()),
            {"description": "", "sendEmail": True, "projectIdList": []},
        ),
    ],
)
def test_a_change_has_the_required_fields_and_nothing_that_stays(changes: RequestChanges, sent: dict[str, Any]) -> None:
    current = make_request(schedule_interval="DAY", service_groups=("admin", "issues"))

    assert update_json(current, changes) == {"scheduleInterval": "DAY", "serviceGroups": ["admin", "issues"], **sent}
    assert "scheduleInterval" not in update_json(make_request(), changes)


@pytest.mark.parametrize(
    ("entry", "is_found"),
    [
        (created(), True),
        (created(created_at=NOON + DAY), True),
        (created(created_at=None), True),
        # Autodesk may name the interval of a one-time data request, and return dates that nobody gave.
        (created(recurring_interval=1, start_date=NOON), True),
        (created(created_at=NOON - timedelta(seconds=1)), False),
        (created(description="Twice"), False),
        (created(schedule_interval="DAY"), False),
        (created(service_groups=("admin", "issues")), False),
        # Autodesk names what was not asked for.
        (created(project_status="all", date_range="YESTERDAY"), True),
        (created(project_id="P"), False),
    ],
)
def test_a_created_data_request_is_recognized(entry: Any, *, is_found: bool) -> None:
    assert find_created([entry], ONCE, after=NOON) == ((entry,) if is_found else ())


def test_months_of_the_same_description_and_intervals_are_told_apart() -> None:
    month = replace(ONCE, start_date=NOON - 30 * DAY, end_date=NOON)

    assert find_created([created(month)], month, after=NOON)
    assert not find_created([created(month, end_date=NOON - DAY)], month, after=NOON)
    assert not find_created([created(DAILY, recurring_interval=2)], DAILY, after=NOON)


@pytest.mark.parametrize(
    ("fields", "is_found"),
    [
        ({"project_ids": ("P1", "p2")}, True),
        ({"project_ids": ("p2", "p1"), "project_status": "active", "date_range": "TODAY"}, True),
        ({"project_id": "p1", "project_ids": ("p2",)}, True),
        ({"project_id": "p1"}, False),
        ({}, False),
        ({"project_ids": ("p1", "p2", "p3")}, False),
        ({"project_ids": ("p1", "p2"), "project_status": "archived"}, False),
        ({"project_ids": ("p1", "p2"), "date_range": "YESTERDAY"}, False),
    ],
)
def test_two_that_differ_only_in_projects_or_period_are_told_apart(fields: dict[str, Any], *, is_found: bool) -> None:
    wanted = replace(ONCE, project_ids=("p1", "P2"), project_status="active", date_range="TODAY")

    assert bool(find_created([created(wanted, **fields)], wanted, after=NOON)) is is_found


@pytest.mark.parametrize(
    ("jobs", "left", "next_at"),
    [
        (0, 24, None),
        (23, 1, None),
        (24, 0, NOON + DAY - timedelta(hours=23.5)),
        (25, 0, NOON + DAY - timedelta(hours=23.5)),
    ],
)
def test_the_jobs_of_the_last_24_hours_count(jobs: int, left: int, next_at: datetime | None) -> None:
    """The jobs are an hour apart, and the newest one is half an hour old."""
    found = [make_job(created_at=NOON - timedelta(hours=0.5 + number)) for number in range(jobs)]

    assert jobs_left([*found, make_job(created_at=None)], NOON) == (left, next_at)
    assert JOBS_A_DAY == 24
