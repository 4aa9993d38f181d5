"""The changes of a day in words and as JSON."""

from __future__ import annotations

import json

import pytest

from dcsync.core.model import JobId, Json
from dcsync.core.row_changes import (
    RowChanges,
    RowCounts,
    changes_json,
    counts_text,
    name_column,
    parse_changes,
    sentences,
)
from dcsync.core.wire import WireError


def make_changes(**tables: RowCounts) -> RowChanges:
    return RowChanges(
        job=JobId("b"), against=JobId("a"), wanted=("*",), tables={f"{name}.csv": each for name, each in tables.items()}
    )


def test_projects_and_users_are_named() -> None:
    changes = make_changes(
        admin_users=RowCounts(added=0, removed=1, changed=9, removed_names=("Ana <a@x>",)),
        admin_projects=RowCounts(added=2, removed=0, changed=0, added_names=("Tower C", "Depot")),
        issues_issues=RowCounts(added=5, removed=5, changed=5),
    )

    assert sentences(changes) == ("2 projects added: Tower C, Depot", "1 user removed: Ana <a@x>")


def test_only_some_names_are_listed_and_hostile_ones_are_printable() -> None:
    names = ("a\x1b[2J\n", "\u202etxt", "n" * 200, "d", "e", "f", "g")
    (words,) = sentences(make_changes(admin_users=RowCounts(added=1200, removed=0, changed=0, added_names=names)))

    assert words.startswith("1,200 users added: a\\x1b[2J\\n, ")
    assert words.endswith(", d, e, f and 1,194 more")
    assert "n" * 80 + "…" in words
    assert "\u202e" not in words


def test_without_names_the_count_is_told() -> None:
    assert sentences(make_changes(admin_projects=RowCounts(added=1, removed=3, changed=0))) == (
        "1 project added",
        "3 projects removed",
    )
    assert sentences(make_changes()) == ()


def test_counts_leave_zeros_out() -> None:
    assert counts_text(RowCounts(added=1200, removed=0, changed=3)) == "1,200 added, 3 changed"
    assert counts_text(RowCounts(added=0, removed=1, changed=0)) == "1 removed"
    assert counts_text(RowCounts(added=0, removed=0, changed=0)) == ""


@pytest.mark.parametrize(
    ("table", "columns", "found"),
    [
        ("admin_projects.csv", ["id", "Number", "NAME"], "NAME"),
        ("admin_users.csv", ["id", "email"], "email"),
        ("admin_users.csv", ["first_name"], "first_name"),
        ("admin_users.csv", ["first_name", "email", "name"], "name"),
        ("admin_projects.csv", ["number", "title"], "title"),
        ("admin_projects.csv", ["number"], "number"),
        ("admin_users.csv", ["id"], None),
        ("issues_issues.csv", ["name"], None),
    ],
)
def test_the_column_with_the_name_is_found_in_any_case(table: str, columns: list[str], found: str | None) -> None:
    assert name_column(table, columns) == found


def test_json_is_read_back() -> None:
    changes = make_changes(
        admin_users=RowCounts(added=1, removed=2, changed=3, added_names=("A",), removed_names=("B",))
    )

    assert parse_changes(json.loads(json.dumps(changes_json(changes)))) == changes


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"format": 2, "tables": {}},
        {"format": 1, "tables": []},
        {"format": 1, "tables": {"a": 1}},
        {"format": 1, "tables": {"a": {"added": "1", "removed": 0, "changed": 0}}},
        {"format": 1, "tables": {"a": {"added": 1, "removed": None, "changed": 0}}},
        {"format": 1, "tables": {"a": {"added": 1, "removed": 0, "changed": []}}},
    ],
)
def test_a_damaged_file_is_refused(value: Json) -> None:
    with pytest.raises(WireError):
        parse_changes(value)


def test_missing_lists_are_empty() -> None:
    found = parse_changes({"format": 1, "tables": {"a": {"added": 1, "removed": 0, "changed": 0}}})

    assert (found.wanted, found.tables["a"].added_names) == ((), ())
