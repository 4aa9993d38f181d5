"""What a snapshot says of itself can be read back, and checked without us."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core import names, sidecar
from dcsync.core.anomaly import TableWarning
from dcsync.core.cost import Method, Price
from dcsync.core.model import AccountName, DataRequest, How, Job, JobId, Json, RequestId, StoredFile
from dcsync.core.sidecar import Adopted, Changes, Decisions, Provenance
from dcsync.core.snapshot import record_json
from dcsync.core.summary import Summary
from dcsync.core.table import ColumnChange, TableFacts, TableKind
from dcsync.core.wire import WireError
from tests.fakes import (
    ACCOUNT_ID,
    JOB_ID,
    NOON,
    REQUEST_ID,
    make_job,
    make_record,
    make_snapshot,
    make_stored,
    make_transfer,
)

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
TABLE = TableFacts(header=("id", "name"), rows=3, is_cut=True)
COLUMNS = (ColumnChange(table="d.csv", added=("x",)),)
CHANGES = Changes(against=JobId("j0"), added=("b.csv",), removed=("c.csv",), unchanged=1, columns=COLUMNS)
WARNINGS = (TableWarning(code="L-ROWS", table="d.csv", message="has 1 row"),)
SUMMARY = Summary(files=2, size=13, rows=3, added=1, removed=1, columns=COLUMNS, warnings=WARNINGS)
FOLDER = "acme/r/2026/11/22/x"
TIMES = st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(microsecond=0))


def make_provenance(**changes: Any) -> Provenance:
    values: dict[str, Any] = {
        "dcsync": "1.0",
        "account": AccountName("acme"),
        "account_id": ACCOUNT_ID,
        "record": make_record(
            job=make_job(started_at=NOON - timedelta(minutes=30), project_id="p1"),
            folder=FOLDER,
            published_at=NOON + timedelta(minutes=5),
            transfer=make_transfer(strategy="archive"),
            summary=SUMMARY,
        ),
        "files": (
            make_stored(),
            make_stored(
                "b.csv", b"hello", how=How.LINKED, md5=None, etag=None, packed=7, table=TABLE, kind=TableKind.WINDOW
            ),
        ),
        "decisions": Decisions(
            method=Method.RANGES,
            reason="ranges: the cheapest",
            prices=(Price(method=Method.RANGES, calls=2, size=900, requests=4, seconds=1.26),),
            files={"b.csv": "as before"},
            skipped=(("autodesk_data_extract.zip", "repeats the other files"),),
        ),
        "changes": CHANGES,
        "listed_at": {"admin_users.csv": NOON},
    }
    return Provenance(**{**values, **changes})


def make_described(
    *, description: str, is_delta: bool | None = False, job: Job | None = None, **changes: Any
) -> Provenance:
    """Return what is known of a snapshot whose request and job are these; its record is compared as times allow."""
    record = make_provenance().record
    request = replace(
        record.request, description=description, is_delta=is_delta is True, is_described=is_delta is not None
    )
    return make_provenance(record=replace(record, request=request, job=job or record.job), **changes)


def make_document(**changes: Json) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(sidecar.render(make_provenance()))
    return {**document, **changes}


def parse(document: Json) -> Adopted:
    return sidecar.parse(json.dumps(document).encode(), folder=FOLDER)


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
            "prices": [{"way": "ranges", "calls": 2, "bytes": 900, "seconds": 1.3}],
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
    assert (adopted.snapshot.completed_at, adopted.snapshot.files) == (None, ())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "the sidecar has the format 2, not 1"),
        ({"format": None}, "the sidecar has the format None, not 1"),
        ({"account": None}, "account is not an object"),
        ({"request": []}, "request is not an object"),
        ({"job": "j1"}, "job is not an object"),
        ({"account": {}}, "the sidecar lacks name"),
        ({"account": {"name": 5}}, "the sidecar lacks name"),
        ({"job": {"id": ""}}, "the sidecar lacks id"),
        ({"request": {"description": "x"}}, "the sidecar lacks id"),
        ({"files": None}, "the sidecar has no files"),
        ({"files": {}}, "the sidecar has no files"),
        ({"files": [1]}, "a file is not an object"),
    ],
)
def test_a_sidecar_that_lacks_something_is_refused(changes: dict[str, Json], message: str) -> None:
    with pytest.raises(WireError) as caught:
        parse(make_document(**changes))

    assert str(caught.value) == message


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff"])
def test_what_is_no_sidecar_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        sidecar.parse(body, folder="f")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": None}, "a file of the sidecar has no size"),
        ({"size": "8"}, "a file of the sidecar has no size"),
        ({"size": -1}, "a file of the sidecar has no size"),
        ({"size": 1 << 63}, "a file of the sidecar has no size"),
        ({"crc32": "100000000"}, "a file of the sidecar has no valid crc32 or origin"),
        ({"crc32": "-1"}, "a file of the sidecar has no valid crc32 or origin"),
        ({"crc32": "xyz"}, "a file of the sidecar has no valid crc32 or origin"),
        ({"how": "guessed"}, "a file of the sidecar has no valid crc32 or origin"),
        ({"crc32": 5}, "the sidecar lacks crc32"),
        ({"how": None}, "a file of the sidecar has no valid crc32 or origin"),
        ({"name": ""}, "the sidecar lacks name"),
        ({"original": None}, "the sidecar lacks original"),
        ({"sha256": 1}, "the sidecar lacks sha256"),
    ],
)
def test_a_file_that_lacks_something_is_refused(changes: dict[str, Json], message: str) -> None:
    with pytest.raises(WireError) as caught:
        sidecar.parse_file({**sidecar.file_json(make_stored()), **changes})

    assert str(caught.value) == message


def test_an_odd_md5_etag_or_compressed_size_is_none() -> None:
    stored = sidecar.parse_file({**sidecar.file_json(make_stored()), "md5": 5, "etag": [], "packed": "7"})

    assert (stored.md5, stored.etag, stored.packed) == (None, None, None)


@given(
    st.sampled_from(["format", "account", "request", "job", "files"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "name", "size", "crc32", "how"]), inner),
        max_leaves=8,
    ),
)
def test_a_sidecar_with_anything_in_it_raises_nothing_but_wire_error(key: str, value: Json) -> None:
    try:
        adopted = parse(make_document(**{key: value}))
    except WireError as error:
        assert str(error)  # noqa: PT017 - either way is right
    else:
        assert adopted.snapshot.folder == "acme/r/2026/11/22/x"


def test_sums_are_read_back() -> None:
    sums = {"b é.csv": "2" * 64, "a  b.csv": "a" * 64}

    assert sidecar.parse_sums(sidecar.render_sums(sums.items())) == sums


@pytest.mark.parametrize("line", [b"", b"x" * 64 + b"  a.csv", b"1" * 64 + b" a.csv", b"1" * 64 + b"  ", b"\xff\xfe"])
def test_lines_that_are_no_sums_are_left_out(line: bytes) -> None:
    assert sidecar.parse_sums(line + b"\n" + b"2" * 64 + b"  b.csv\n") == {"b.csv": "2" * 64}


def test_sums_are_sorted_by_name() -> None:
    assert sidecar.render_sums([("b é.csv", "2" * 64), ("a.csv", "1" * 64)]) == (
        b"1" * 64 + b"  a.csv\n" + b"2" * 64 + "  b é.csv\n".encode()
    )


@pytest.mark.needs_tool("sha256sum")
def test_sha256sum_agrees(tmp_path: Path) -> None:
    originals = ["a.csv", "b é.csv", "c\nd", "e\\f", " g", "-h", "*i"]
    stored = {name: make_stored(name, original.encode()) for original, name in names.assign(originals).items()}
    for original, name in names.assign(originals).items():
        (tmp_path / name).write_bytes(original.encode())

    sums = sidecar.render_sums((name, file.sha256) for name, file in stored.items())

    check = subprocess.run(["sha256sum", "--check", "--strict", "--quiet"], cwd=tmp_path, input=sums, check=False)
    assert check.returncode == 0


def test_changes_are_told_by_content() -> None:
    previous = make_snapshot({"same.csv": b"1", "changed.csv": b"2", "gone.csv": b"3", "left.csv": b"4"})
    files = [make_stored("new.csv", b"3"), make_stored("changed.csv", b"5"), make_stored("same.csv", b"1")]

    assert sidecar.changes_between(previous, files) == Changes(
        against=previous.job,
        added=("new.csv",),
        removed=("gone.csv", "left.csv"),
        changed=("changed.csv",),
        unchanged=1,
    )


def test_the_first_snapshot_adds_nothing() -> None:
    assert sidecar.changes_between(None, [make_stored()]) == Changes(against=None)


def test_the_same_file_under_another_name_on_disk_is_unchanged() -> None:
    changes = sidecar.changes_between(
        make_snapshot({"a.csv": b"1"}), [make_stored("a~12345678.csv", b"1", original="a.csv")]
    )

    assert (changes.added, changes.removed, changes.unchanged) == ((), (), 1)


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


def test_what_the_history_keeps_is_added_up() -> None:
    files = [make_stored("a.csv", b"12345", table=replace(TABLE, rows=3)), make_stored("b.csv", b"1", table=TABLE)]
    changes = Changes(against=None, added=("a.csv",), removed=("c.csv", "d.csv"), changed=("b.csv",), columns=COLUMNS)

    assert sidecar.summarize(files, changes, ()) == Summary(
        files=2, size=6, rows=6, added=1, removed=2, changed=1, columns=COLUMNS
    )


def test_changed_headers_are_told_by_table() -> None:
    previous = replace(
        make_snapshot(),
        files=(
            make_stored("b.csv", table=TableFacts(header=("id", "old"), rows=1)),
            make_stored("a.csv", table=TableFacts(header=("id", "old"), rows=1)),
            make_stored("same.csv", table=TableFacts(header=("id",), rows=1)),
        ),
    )
    files = [
        make_stored("b.csv", table=TableFacts(header=("new", "id"), rows=1)),
        make_stored("a.csv", table=TableFacts(header=("old", "id"), rows=1)),
        make_stored("same.csv", table=TableFacts(header=("id",), rows=2)),
        make_stored("new.csv", table=TableFacts(header=("id",), rows=2)),
    ]

    assert sidecar.changes_between(previous, files).columns == (
        ColumnChange(table="a.csv", reordered=True),
        ColumnChange(table="b.csv", added=("new",), removed=("old",)),
    )
