"""Rows of the manifest in the tree: written and read back to the microsecond."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.model import Json
from dcsync.core.snapshot import Record, Transfer, parse_record, record_json
from dcsync.core.summary import Summary
from dcsync.core.wire import WireError
from tests.fakes import NOON, make_job, make_record, make_transfer

TIMES = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - their way
COUNTS = st.integers(0, (1 << 62) - 1)


def parse(value: Json) -> Record:
    return parse_record(value, folder=make_record().folder)


def make_document(**changes: Json) -> dict[str, Any]:
    return {**record_json(make_record()), **changes}


@given(
    first_seen_at=TIMES,
    published_at=TIMES,
    pruned_at=st.none() | TIMES,
    reduced_at=st.none() | TIMES,
    transfer=st.builds(
        Transfer,
        strategy=st.text(min_size=1),
        calls=COUNTS,
        fetched_bytes=COUNTS,
        linked_bytes=COUNTS,
        seconds=st.floats(0, 1e9),
    ),
)
def test_a_record_is_read_back_the_same(**changes: Any) -> None:
    record = make_record(**changes)

    read = parse(record_json(record))

    assert read == record
    assert read.request.first_seen_at == record.request.first_seen_at


def test_fields_of_the_job_that_nobody_named_are_kept() -> None:
    record = make_record(job=make_job(extra={"newField": [1, {"a": None}]}))

    assert parse(record_json(record)).job.extra == {"newField": [1, {"a": None}]}


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
        {"request": {"id": 5, "slug": "s"}},
        {"request": {"id": "r", "slug": ["s"]}},
        {"request": {"id": "", "slug": "s"}},
        {"request": {"id": "r", "slug": ""}},
    ],
)
def test_a_record_that_lacks_something_is_refused(changes: dict[str, Json]) -> None:
    with pytest.raises(WireError):
        parse(make_document(**changes))


@pytest.mark.parametrize("value", [None, [], "x", 5])
def test_what_is_no_record_is_refused(value: Json) -> None:
    with pytest.raises(WireError):
        parse(value)


def test_seconds_beyond_every_float_are_read() -> None:
    assert parse(make_document(seconds=10**400)).transfer.seconds == 1e12


def test_a_count_is_read_as_far_as_a_column_can_hold_it() -> None:
    largest = parse(make_document(calls=1, fetched_bytes=(1 << 62) - 1, linked_bytes=(1 << 62) - 1)).transfer

    assert (largest.calls, largest.fetched_bytes, largest.linked_bytes) == (1, (1 << 62) - 1, (1 << 62) - 1)


@pytest.mark.parametrize("odd", [-1, 1 << 62, "7", None, True])
def test_an_odd_number_is_0(odd: Json) -> None:
    counts: dict[str, Json] = dict.fromkeys(("calls", "fetched_bytes", "linked_bytes"), odd)
    read = parse(make_document(**counts, seconds=None if odd is None else True, strategy=None))

    assert read.transfer == Transfer(strategy="adopted")


def test_a_request_without_a_time_or_a_description_is_read() -> None:
    read = parse(make_document(request={"id": "r", "slug": "s", "first_seen_at": "?"}))

    assert (read.request.description, read.request.first_seen_at, read.request.is_delta) == ("", None, False)


def test_the_form_in_the_tree_stays() -> None:
    """What is published has to be read for ever."""
    record = make_record(pruned_at=NOON, transfer=make_transfer())

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
        "summary": {
            "files": 2,
            "size": 13,
            "rows": None,
            "added": 0,
            "removed": 0,
            "changed": 0,
            "columns": [],
            "warnings": [],
        },
    }
    assert isinstance(parse(record_json(record)), Record)


def test_only_the_record_of_a_reduced_snapshot_has_the_time_of_its_reduction() -> None:
    assert "reduced_at" not in record_json(make_record())
    assert record_json(make_record(reduced_at=NOON))["reduced_at"] == "2026-11-22T12:00:00.000000Z"


def test_a_record_without_a_summary_gets_the_one_that_its_reader_has() -> None:
    summary = Summary(files=9, size=99)

    assert parse_record(make_document(summary=None), folder="f", summary=summary).summary == summary
    assert parse_record(make_document(), folder="f", summary=summary).summary == make_record().summary
    assert parse(make_document(summary=None)).summary == Summary(files=0, size=0)
