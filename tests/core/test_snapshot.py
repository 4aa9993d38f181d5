"""Rows of the manifest in the tree: written and read back to the microsecond."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.model import Json
from dcsync.core.snapshot import Record, parse_record, record_json
from dcsync.core.wire import WireError
from tests.fakes import NOON, make_job, make_record

TIMES = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - their way
COUNTS = st.integers(0, (1 << 62) - 1)


def make_document(**changes: Json) -> dict[str, Any]:
    return {**record_json(make_record()), **changes}


@given(
    first_seen_at=TIMES,
    published_at=TIMES,
    pruned_at=st.none() | TIMES,
    calls=COUNTS,
    fetched_bytes=COUNTS,
    seconds=st.floats(0, 1e9),
)
def test_a_record_is_read_back_the_same(**changes: Any) -> None:
    record = make_record(**changes)

    read = parse_record(record_json(record))

    assert read == record
    assert read.request.first_seen_at == record.request.first_seen_at


def test_fields_of_the_job_that_nobody_named_are_kept() -> None:
    record = make_record(job=make_job(extra={"newField": [1, {"a": None}]}))

    assert parse_record(record_json(record)).job.extra == {"newField": [1, {"a": None}]}


def test_a_record_holds_no_address_to_call_back() -> None:
    """The request as the API describes it has `callbackUrl`, whose path is a secret: it stays in the manifest."""
    assert set(make_document()["request"]) == {"id", "description", "slug", "delta", "first_seen_at"}


@pytest.mark.parametrize(
    "changes",
    [
        {"first_seen_at": None},
        {"published_at": "yesterday"},
        {"job": None},
        {"job": {"id": "j"}},
        {"request": None},
        {"request": {"id": "r"}},
        {"request": {"slug": "s"}},
        {"request": {"id": "", "slug": "s"}},
        {"request": {"id": "r", "slug": ""}},
    ],
)
def test_a_record_that_lacks_something_is_refused(changes: dict[str, Json]) -> None:
    with pytest.raises(WireError):
        parse_record(make_document(**changes))


@pytest.mark.parametrize("value", [None, [], "x", 5])
def test_what_is_no_record_is_refused(value: Json) -> None:
    with pytest.raises(WireError):
        parse_record(value)


def test_seconds_beyond_every_float_are_read() -> None:
    assert parse_record(make_document(seconds=10**400)).seconds == 1e12


@pytest.mark.parametrize("odd", [-1, 1 << 63, "7", None, True])
def test_an_odd_number_is_0(odd: Json) -> None:
    read = parse_record(make_document(calls=odd, seconds=None if odd is None else True, strategy=None))

    assert (read.calls, read.seconds, read.strategy) == (0, 0.0, "adopted")


def test_a_request_without_a_time_or_a_description_is_read() -> None:
    read = parse_record(make_document(request={"id": "r", "slug": "s", "first_seen_at": "?"}))

    assert (read.request.description, read.request.first_seen_at, read.request.is_delta) == ("", None, False)


def test_the_form_in_the_tree_stays() -> None:
    """What is published has to be read for ever."""
    record = replace(make_record(), pruned_at=NOON)

    assert {key: value for key, value in record_json(record).items() if key != "job"} == {
        "request": {
            "id": "ce9bc188-1e18-11eb-adc1-0242ac120002",
            "description": "My Company Data Extract",
            "slug": "my-company-data-extract-ce9bc188",
            "delta": False,
            "first_seen_at": "2026-11-13T12:00:00.000000Z",
        },
        "first_seen_at": "2026-11-22T12:01:00.000000Z",
        "published_at": "2026-11-22T12:05:00.000007Z",
        "strategy": "archive",
        "calls": 2,
        "fetched_bytes": 8,
        "linked_bytes": 5,
        "seconds": 1.25,
        "pruned_at": "2026-11-22T12:00:00.000000Z",
        "summary": None,
    }
    assert isinstance(parse_record(record_json(record)), Record)
