"""What stays of a snapshot that no rule keeps, and its sidecar."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from dcsync.core.model import DataRequest, JobId, RequestId, StoredFile
from dcsync.core.reduction import (
    Division,
    describe_tables,
    divide,
    full_tables,
    kind_now,
    only_in_history,
    recorded_windows,
    reduced_in,
    reduced_sidecar,
    rows_of,
    without_windows,
)
from dcsync.core.table import TableFacts, TableKind
from dcsync.core.wire import WireError
from tests.fakes import NOON, make_stored

ALL = DataRequest(id=RequestId("r"), description="All", service_groups=("all",))
README, SCHEMA = make_stored("README.html"), make_stored("schemas/activities.csv.html")
ZIP = make_stored("autodesk_data_extract.zip")


def table(name: str, kind: TableKind | None = None, rows: int | None = 10) -> StoredFile:
    facts = TableFacts(header=("id",), rows=rows)
    return replace(make_stored(name), kind=kind, table=facts)


def names(files: tuple[StoredFile, ...]) -> list[str]:
    return [stored.name for stored in files]


def test_full_tables_go_and_everything_else_stays() -> None:
    files = [
        README,
        SCHEMA,
        table("admin_users.csv", TableKind.FULL),
        table("activities_docs.csv", TableKind.WINDOW),
        table("cdc_issues.csv", TableKind.DELTA),
    ]

    division = divide(files, ALL, archive_repeats=False, newer={"admin_users.csv"})

    assert names(division.removed) == ["admin_users.csv"]
    assert names(division.tables) == ["activities_docs.csv", "cdc_issues.csv"]
    assert names(division.kept) == [README.name, SCHEMA.name, "activities_docs.csv", "cdc_issues.csv"]
    assert division.frees_tables
    assert not division.keeps_full


def test_window_tables_that_are_proved_go_too() -> None:
    delta = table("cdc_issues.csv", TableKind.DELTA)
    docs, issues = (table(f"activities_{name}.csv", TableKind.WINDOW) for name in ("docs", "issues"))
    full = table("admin_users.csv", TableKind.FULL)
    division = without_windows(Division(kept=(README, delta, docs, issues), removed=(full,)), {docs.name, delta.name})

    assert division == Division(kept=(README, delta, issues), removed=(full, docs), in_history=(docs.name,))


def test_a_full_table_stays_if_no_newer_snapshot_has_it() -> None:
    files = [README, table("admin_users.csv", TableKind.FULL), table("issues_issues.csv", TableKind.FULL)]

    division = divide(files, ALL, archive_repeats=False, newer={"admin_users.csv"})

    assert names(division.removed) == ["admin_users.csv"]
    assert names(division.tables) == ["issues_issues.csv"]
    assert division.keeps_full


def test_only_a_table_that_is_certainly_full_replaces_an_older_one() -> None:
    kinds = {
        "README.html": None,
        "admin_users.csv": None,
        "activities_docs.csv": None,
        "issues_issues.csv": TableKind.WINDOW,
        "activities_all.csv": TableKind.FULL,
    }

    assert full_tables(kinds.items(), ALL) == {"admin_users.csv", "activities_all.csv"}
    assert full_tables(kinds.items(), replace(ALL, date_range="YESTERDAY")) == {"activities_all.csv"}


def test_only_a_table_is_full_whatever_was_recorded() -> None:
    readme = replace(README, kind=TableKind.FULL)

    division = divide([readme], ALL, archive_repeats=False, newer={README.name})

    assert division == Division(kept=(readme,), removed=())
    assert full_tables([(README.name, TableKind.FULL)], ALL) == set()


def test_documents_alone_are_no_reason_to_keep_a_snapshot() -> None:
    files = [README, table("admin_users.csv", TableKind.FULL)]
    division = divide(files, ALL, archive_repeats=False, newer={"admin_users.csv"})

    assert division.tables == ()


@pytest.mark.parametrize("repeats", [True, False])
def test_a_zip_goes_only_if_it_repeats_the_other_files(repeats: bool) -> None:
    division = divide([ZIP, table("activities_docs.csv")], ALL, archive_repeats=repeats, newer=())

    assert names(division.removed) == ([ZIP.name] if repeats else [])
    # A ZIP that stays has tables.
    assert names(division.tables) == [*([] if repeats else [ZIP.name]), "activities_docs.csv"]
    # A ZIP alone is not worth a reduction.
    assert not division.frees_tables


@pytest.mark.parametrize(
    ("name", "request_", "kind"),
    [
        ("admin_users.csv", ALL, TableKind.FULL),
        ("activities_docs.csv", ALL, TableKind.WINDOW),
        ("activities_docs.csv", None, TableKind.WINDOW),
        ("cdcissues_issues.csv", None, TableKind.DELTA),
        ("admin_users.csv", None, None),
        ("admin_users.csv", replace(ALL, date_range="YESTERDAY"), None),
        ("admin_users.csv", replace(ALL, service_groups=("all", "cdcissues")), None),
        # Without dates today, but perhaps with dates when an older version made the snapshot.
        ("cdcissues_issues.csv", replace(ALL, service_groups=("cdcissues",)), None),
    ],
)
def test_a_kind_that_was_not_recorded_counts_only_if_it_is_certain(
    name: str, request_: DataRequest | None, kind: TableKind | None
) -> None:
    assert kind_now(table(name), request_) is kind
    division = divide([table(name)], request_, archive_repeats=True, newer={name})
    assert (division.removed == ()) is (kind is not TableKind.FULL)


def test_a_recorded_kind_counts_whatever_the_request_says_now() -> None:
    assert kind_now(table("activities_docs.csv", TableKind.FULL), None) is TableKind.FULL


@pytest.mark.parametrize(
    ("tables", "text"),
    [
        ([table("activities_a.csv", rows=1204)], "1 window table (1,204 rows)"),
        ([table("activities_a.csv", rows=0), table("activities_b.csv", rows=1)], "2 window tables (1 row)"),
        (
            [table("a.csv", TableKind.WINDOW), table("b.csv", TableKind.DELTA)],
            "1 window table and 1 delta table (20 rows)",
        ),
        ([table("a.csv"), table("b.csv")], "2 tables of unknown kind (20 rows)"),
        (
            [table("activities_a.csv"), table("a.csv", TableKind.FULL), table("b.csv", TableKind.FULL)],
            "1 window table and 2 full tables that no newer snapshot has (30 rows)",
        ),
        ([table("activities_a.csv", rows=None), ZIP], "1 window table and the ZIP"),
    ],
)
def test_the_tables_that_stay_are_described(tables: list[StoredFile], text: str) -> None:
    assert describe_tables(tables, None) == text


def test_rows_are_unknown_if_those_of_one_table_are() -> None:
    assert rows_of([table("a.csv"), make_stored("b.csv")]) is None
    assert rows_of([table("a.csv"), ZIP]) == 10


# --- the sidecar ------------------------------------------------------------------------------------------------------


def body(**more: Any) -> bytes:
    files = [{"name": name, "original": f"{name}!", "size": 1} for name in ("a.csv", "b.csv", "c.html")]
    return json.dumps({"format": 1, "files": files, "record": {"calls": 3}, "new": [1], **more}).encode()


def test_the_sidecar_keeps_everything_and_says_what_was_removed() -> None:
    document = json.loads(reduced_sidecar(body(), {"b.csv", "c.html"}, at=NOON, version="9.9"))

    assert reduced_sidecar(body(), {"b.csv"}, at=NOON, version="9.9").startswith(b'{\n "format": 1,\n "files": [\n')
    assert b'"Gr\\u00f6\\u00dfe"' in reduced_sidecar(body(new="Größe"), {"b.csv"}, at=NOON, version="9.9")
    was = json.loads(body())
    assert document["files"] == was["files"][1:]
    assert document["reduced"] == {
        "at": "2026-11-22T12:00:00.000000Z",
        "dcsync": "9.9",
        "files": was["files"][:1],
    }
    assert document["record"] == {"calls": 3, "reduced_at": "2026-11-22T12:00:00.000000Z"}
    assert (document["format"], document["new"]) == (1, [1])
    assert reduced_in(document) == (NOON, ("a.csv!",))


def test_the_sidecar_marks_tables_whose_rows_are_in_the_history() -> None:
    document = json.loads(reduced_sidecar(body(), {"c.html"}, at=NOON, version="9.9", in_history=["b.csv"]))

    was = json.loads(body())["files"]
    assert document["reduced"]["files"] == [was[0], {**was[1], "in_history": True}]


def test_a_second_reduction_keeps_what_the_first_one_says() -> None:
    first = reduced_sidecar(body(), {"b.csv", "c.html"}, at=NOON, version="9.8")
    document = json.loads(reduced_sidecar(first, {"c.html"}, at=NOON, version="9.9", in_history=["b.csv"]))

    was = json.loads(body())["files"]
    assert document["reduced"]["files"] == [was[0], {**was[1], "in_history": True}]
    assert document["files"] == was[2:]
    assert only_in_history(document) == ("b.csv",)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"reduced": 1},
        {"reduced": {"files": {}}},
        {"reduced": {"files": [1, {"name": 1, "in_history": True}, {"name": "a"}, {"name": "b", "in_history": 1}]}},
    ],
)
def test_a_sidecar_without_marks_names_no_table(document: Any) -> None:
    assert only_in_history(document) == ()


def test_a_window_table_is_recorded_by_its_job_and_hash() -> None:
    docs, issues = (table(f"activities_{name}.csv", TableKind.WINDOW) for name in ("docs", "issues"))
    full, job = table("admin_users.csv", TableKind.FULL), JobId("j")
    recorded = {
        (job, "activities_docs", docs.sha256),
        (job, "activities_issues", "other"),
        (job, "admin_users", full.sha256),
    }

    assert recorded_windows([docs, issues, full], job, recorded) == {docs.name}
    assert recorded_windows([docs], JobId("other"), recorded) == frozenset()


def test_no_table_that_stays_is_described() -> None:
    assert describe_tables([], None) == "no table"


def test_a_sidecar_of_the_first_version_has_no_record() -> None:
    document = json.loads(reduced_sidecar(body(record=None), {"b.csv"}, at=NOON, version="9.9"))

    assert document["record"] is None
    assert reduced_in(document)[0] == NOON


@pytest.mark.parametrize(
    ("broken", "keep"), [(b"[]", set()), (b"{}", set()), (b"{", set()), (body(), {"z.csv"}), (body(files=[1]), {"a"})]
)
def test_a_sidecar_that_cannot_be_used_is_refused(broken: bytes, keep: set[str]) -> None:
    with pytest.raises(WireError):
        reduced_sidecar(broken, keep, at=NOON, version="9.9")


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        (None, (None, ())),
        ({}, (None, ())),
        ({"at": "2026-11-22T12:00:00Z", "files": [{"original": "a"}, {"original": 1}, 2]}, (NOON, ("a",))),
        ({"at": "2026-11-22T12:00:00Z", "files": 1}, (NOON, ())),
    ],
)
def test_malformed_parts_of_the_note_are_left_out(entry: Any, found: tuple[datetime | None, tuple[str, ...]]) -> None:
    assert reduced_in({"reduced": entry}) == found
