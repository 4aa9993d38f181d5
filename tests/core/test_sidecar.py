"""A snapshot's metadata is complete, and is read back the same."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core import names, sidecar
from dcsync.core.model import AccountName, DataRequest, How, JobId, Json, RequestId, StoredFile
from dcsync.core.sidecar import Adopted
from dcsync.core.snapshot import record_json
from dcsync.core.summary import Summary
from dcsync.core.table import TableFacts, TableKind
from tests.fakes import ACCOUNT_ID, JOB_ID, NOON, REQUEST_ID, make_job, make_record, make_snapshot, make_stored
from tests.rigs.sidecars import CHANGES, WARNINGS, make_described, make_document, make_provenance, parse

WORDS = st.text(st.characters(codec=None), min_size=1, max_size=20)
HEX = st.text(st.sampled_from("0123456789abcdef"), min_size=1, max_size=64)
# The sidecar does not keep what only this disk knows, and times to the millisecond.
STORED = st.builds(
    StoredFile,
    name=WORDS.map(names.component),
    original=WORDS,
    size=st.integers(0, 1 << 60),
    sha256=HEX,
    crc32=st.integers(0, 0xFFFFFFFF),
    md5=st.none() | HEX,
    etag=st.none() | st.text(max_size=40),
    how=st.sampled_from(How),
    packed=st.none() | st.integers(0, 1 << 60),
    mtime_ns=st.none(),
    inode=st.none(),
    table=st.none()
    | st.builds(
        TableFacts,
        header=st.lists(WORDS, max_size=4).map(tuple),
        rows=st.none() | st.integers(0, 1 << 60),
        is_cut=st.booleans(),
    ),
    kind=st.none() | st.sampled_from(TableKind),
)
TIMES = st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(microsecond=0))


def test_a_sidecar_says_everything_of_its_snapshot() -> None:
    assert json.loads(sidecar.render(make_provenance())) == {
        "format": 1,
        "dcsync": "1.0",
        "account": {"name": "acme", "id": ACCOUNT_ID},
        "request": {"id": REQUEST_ID, "description": "My Company Data Extract", "delta": False},
        "job": {
            "id": JOB_ID,
            "project_id": "p1",
            "project_ids": [],
            "start_date": None,
            "end_date": None,
            "created_at": "2026-11-22T11:00:00.000Z",
            "started_at": "2026-11-22T11:30:00.000Z",
            "completed_at": "2026-11-22T12:00:00.000Z",
        },
        "staged_at": "2026-11-22T12:05:00.000Z",
        "strategy": {
            "name": "archive",
            "method": "ranges",
            "reason": "ranges: the cheapest",
            "calls": 2,
            "prices": [
                {"way": "ranges", "calls": 2, "bytes": 900, "seconds": 1.3, "rejected": None},
                {"way": "whole", "calls": 2, "bytes": 5400, "seconds": 1.2, "rejected": "more_bytes"},
            ],
        },
        "fetched_bytes": 8,
        "linked_bytes": 5,
        "files": [
            {
                "name": "admin_users.csv",
                "original": "admin_users.csv",
                "size": 8,
                "crc32": "b8d9be87",
                "md5": "fc1cb85445a6b6c5383b9f16af5ac890",
                "sha256": "40d6bfdc74eae2ed68a97137ce414fa4ca6de1b3831cfd9a73c4622d8a8942c1",
                "etag": '"fc1cb85445a6b6c5383b9f16af5ac890"',
                "how": "fetched",
                "packed": None,
                "created_at": "2026-11-22T12:00:00.000Z",
                "why": "",
            },
            {
                "name": "b.csv",
                "original": "b.csv",
                "size": 5,
                "crc32": "3610a686",
                "md5": None,
                "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
                "etag": None,
                "how": "linked",
                "packed": 7,
                "rows": 3,
                "header": ["id", "name"],
                "header_cut": True,
                "kind": "window",
                "created_at": None,
                "why": "as before",
            },
        ],
        "skipped": [{"original": "autodesk_data_extract.zip", "reason": "repeats the other files"}],
        "changes": {
            "against": "j0",
            "added": ["b.csv"],
            "removed": ["c.csv"],
            "changed": [],
            "unchanged": 1,
            "columns": [{"table": "d.csv", "added": ["x"], "removed": [], "reordered": False}],
        },
        "warnings": [{"code": "L-ROWS", "table": "d.csv", "message": "has 1 row"}],
        "record": record_json(make_provenance().record),
    }


def test_a_sidecar_carries_the_manifest_s_row() -> None:
    assert parse(make_document()).record == make_provenance().record


def test_a_record_without_a_summary_gets_that_of_the_sidecar() -> None:
    document = make_document()
    document["record"]["summary"] = None

    assert parse(document).record == make_provenance().record


@pytest.mark.parametrize("value", [None, {}, {"job": {}}, record_json(make_record(job=make_job(id=JobId("another"))))])
def test_a_record_that_is_none_or_of_another_snapshot_is_not_believed(value: Json) -> None:
    assert parse(make_document(record=value)).record is None


def test_a_sidecar_is_indented_ascii_with_a_line_break_at_its_end() -> None:
    body = sidecar.render(make_described(description="Größe \ud800"))

    assert body.startswith(b'{\n "format": 1,\n "dcsync": "1.0",\n')
    assert body.endswith(b"\n}\n")
    assert b'"Gr\\u00f6\\u00dfe \\ud800"' in body


def test_a_checksum_keeps_its_leading_zeros() -> None:
    assert sidecar.file_json(make_stored(crc32=0xAB))["crc32"] == "000000ab"


@given(
    files=st.lists(STORED, max_size=5).map(tuple),
    description=st.text(st.characters(codec=None)),
    is_delta=st.sampled_from([True, False, None]),
    created_at=st.none() | TIMES,
    completed_at=st.none() | TIMES,
)
def test_what_was_rendered_is_read_back_the_same(
    files: tuple[StoredFile, ...],
    description: str,
    is_delta: bool | None,
    created_at: datetime | None,
    completed_at: datetime | None,
) -> None:
    job = make_job(created_at=created_at, completed_at=completed_at)
    provenance = make_described(files=files, description=description, is_delta=is_delta, job=job)
    body = sidecar.render(provenance)

    adopted = sidecar.parse(body, folder="f")

    snapshot = make_snapshot(job=JOB_ID, folder="f", completed_at=completed_at)
    assert adopted == Adopted(
        account=AccountName("acme"),
        description=description,
        is_delta=is_delta,
        created_at=created_at,
        snapshot=replace(snapshot, files=files),
        summary=sidecar.summarize(files, CHANGES, WARNINGS),
        record=replace(provenance.record, folder="f"),
        account_id=ACCOUNT_ID,
    )


DOCUMENT = DataRequest(
    id=REQUEST_ID,
    description="Activities of Tower B",
    is_active=True,
    created_at=NOON - timedelta(days=40),
    project_id="p1",
    project_ids=("p1", "p2"),
    project_status="active",
    service_groups=("admin", "activities"),
    date_range="CUSTOM",
    start_date=NOON - timedelta(days=7),
    end_date=NOON - timedelta(days=1),
    schedule_interval="WEEK",
    recurring_interval=2,
    effective_from=NOON - timedelta(days=39),
    effective_to=NOON + timedelta(days=90),
)


def test_a_sidecar_has_the_data_request_as_it_was_but_nothing_about_its_users() -> None:
    document = replace(DOCUMENT, created_by="U1", created_by_email="a@example.com", callback_url="https://x/?key=1")
    record = make_provenance().record
    record = replace(record, request=replace(record.request, description=DOCUMENT.description, document=document))
    body = sidecar.render(make_provenance(record=record))

    adopted = sidecar.parse(body, folder="f")

    assert json.loads(body)["request"] == {
        "id": REQUEST_ID,
        "description": "Activities of Tower B",
        "delta": False,
        "is_active": True,
        "created_at": "2026-10-13T12:00:00.000Z",
        "project_id": "p1",
        "project_ids": ["p1", "p2"],
        "project_status": "active",
        "service_groups": ["admin", "activities"],
        "date_range": "CUSTOM",
        "start_date": "2026-11-15T12:00:00.000Z",
        "end_date": "2026-11-21T12:00:00.000Z",
        "schedule": {
            "interval": "WEEK",
            "recurring": 2,
            "effective_from": "2026-10-14T12:00:00.000Z",
            "effective_to": "2027-02-20T12:00:00.000Z",
        },
    }
    assert adopted.document == DOCUMENT
    assert adopted.record is not None
    assert adopted.record.request.document == DOCUMENT


@pytest.mark.parametrize(
    "changes", [{}, {"service_groups": "all"}, {"service_groups": ["all"], "id": "a/b"}], ids=["older", "odd", "bad id"]
)
def test_a_sidecar_without_a_usable_data_request_is_read(changes: dict[str, Json]) -> None:
    adopted = parse(make_document(request={"id": REQUEST_ID, "description": "x", "delta": False, **changes}))

    assert adopted.document is None


def test_a_schedule_that_is_no_object_is_unknown() -> None:
    adopted = parse(make_document(request={"id": REQUEST_ID, "service_groups": [], "schedule": 5}))

    assert adopted.document is not None
    assert adopted.document.schedule_interval is None


@given(STORED)
def test_one_file_s_facts_are_read_back_the_same(stored: StoredFile) -> None:
    assert sidecar.parse_file(sidecar.file_json(stored)) == stored


def test_what_only_this_disk_knows_is_not_written() -> None:
    stored = make_stored(mtime_ns=1, inode=2)

    assert sidecar.parse_file(sidecar.file_json(stored)) == replace(stored, mtime_ns=None, inode=None)


def test_a_sidecar_without_what_is_not_needed_is_read() -> None:
    adopted = parse(
        make_document(
            request={"id": "r1", "description": None, "delta": "yes"}, job={"id": "j1"}, files=[], skipped=None
        )
    )

    assert adopted.snapshot.job == JobId("j1")
    assert adopted.snapshot.request == RequestId("r1")
    assert (adopted.description, adopted.is_delta, adopted.created_at) == ("", False, None)
    assert parse(make_document(account={"name": "acme"})).account_id == ""
    assert (adopted.snapshot.completed_at, adopted.snapshot.files) == (None, ())


def test_a_sidecar_of_an_older_version_lacks_what_is_told_of_tables() -> None:
    document = make_document()
    for entry in document["files"]:
        for key in ("rows", "header", "header_cut"):
            entry.pop(key, None)
    del document["changes"]["columns"], document["warnings"]

    adopted = parse(document)

    assert [stored.table for stored in adopted.snapshot.files] == [None, None]
    assert adopted.summary == Summary(files=2, size=13, added=1, removed=1)
    assert parse({**document, "changes": None}).summary == Summary(files=2, size=13)
