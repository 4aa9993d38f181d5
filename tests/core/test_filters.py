"""Filters of the API's lists: the documented fields, one value each, and times completed."""

from __future__ import annotations

import pytest

from dcsync.core.filters import JOB_FILTERS, REQUEST_FILTERS, FilterError, ListFilters, parse_filters
from tests.sandbox.reference import LISTS


@pytest.mark.parametrize(("name", "known"), [("requests", REQUEST_FILTERS), ("jobs", JOB_FILTERS)])
def test_the_fields_are_those_of_the_reference(name: str, known: ListFilters) -> None:
    kinds = LISTS[name]["filters"]

    assert set(known.ranges) == {field for field, kind in kinds.items() if kind == "range"}
    assert set(known.times) == {field for field, kind in kinds.items() if kind == "time"}
    assert set(known.fields) == set(kinds)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("status=complete", "complete"),
        ("projectId=null", "null"),
        ("createdAt=2026-11-01..2026-11-30", "2026-11-01T00:00:00.000Z..2026-11-30T23:59:59.999Z"),
        ("createdAt=..2026-11-30", "..2026-11-30T23:59:59.999Z"),
        ("createdAt=2026-11-01..", "2026-11-01T00:00:00.000Z.."),
        ("createdAt=2026-11-01", "2026-11-01T00:00:00.000Z..2026-11-01T23:59:59.999Z"),
        ("createdAt=2026-11-01T12:00", "2026-11-01T12:00:00.000Z"),
        ("createdAt=2026-11-01T12:00+02:00..", "2026-11-01T10:00:00.000Z.."),
        ("startDate=2026-11-01", "2026-11-01T00:00:00.000Z"),
        ("startDate=2026-11-01T06:30:00Z", "2026-11-01T06:30:00.000Z"),
    ],
)
def test_a_filter_is_completed(text: str, value: str) -> None:
    field = text.partition("=")[0]

    assert parse_filters([text], JOB_FILTERS) == {field: value}


def test_the_field_of_a_data_request_is_a_filter_in_either_spelling() -> None:
    assert parse_filters(["reoccuringInterval=2"], REQUEST_FILTERS) == {"reocurringInterval": "2"}
    assert parse_filters(["reocurringInterval=2"], REQUEST_FILTERS) == {"reocurringInterval": "2"}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["status"], "'status' is not FIELD=VALUE"),
        (["=x"], "is not FIELD=VALUE"),
        (["status="], "is not FIELD=VALUE"),
        (["description=x"], "description is not a field to filter by. Choose from: completedAt, completionStatus, "),
        (["status=queued", "status=running"], "status has two values"),
        (["status=queued,running"], "status has two values"),
        (["createdAt=.."], "createdAt needs at least one side of the range"),
        (["createdAt=last week"], "createdAt cannot be 'last week'"),
        (["createdAt=2026-11-31.."], "createdAt cannot be '2026-11-31'"),
        (["startDate=soon"], "startDate cannot be 'soon'"),
    ],
)
def test_a_filter_that_the_api_would_refuse_says_why(texts: list[str], words: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filters(texts, JOB_FILTERS)

    assert words in str(caught.value)
