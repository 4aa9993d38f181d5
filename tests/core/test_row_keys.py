"""The keys that are tried, in order."""

from __future__ import annotations

from dcsync.core.row_keys import KeySource, RowKey, key_candidates


def tried(columns: list[str], documented: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [key.columns for key in key_candidates(columns, documented)]


def test_the_documented_key_comes_first_in_any_case() -> None:
    first = next(iter(key_candidates(["id", "Project_ID", "user_id"], ("project_id", "user_id"))))

    assert first == RowKey(columns=("Project_ID", "user_id"), source=KeySource.SCHEMA)


def test_a_documented_key_with_a_column_that_is_missing_is_not_used() -> None:
    assert all(key.source is KeySource.UNIQUE for key in key_candidates(["id", "a"], ("id", "project_id")))


def test_identifiers_come_before_the_first_columns_and_those_before_any_other() -> None:
    assert tried(["title", "project_id", "adsk_row_id", "guid", "ID"]) == [
        ("ID",),
        ("adsk_row_id",),
        ("project_id",),
        ("guid",),
        ("title",),
        ("title", "project_id"),
        ("title", "project_id", "adsk_row_id"),
        ("title", "project_id", "adsk_row_id", "guid"),
    ]


def test_every_form_of_an_identifier_comes_before_other_columns() -> None:
    assert tried(["text", "x_URN", "adsk_row_id", "Guid", "ID", "x_id"])[:6] == [
        ("ID",),
        ("adsk_row_id",),
        ("Guid",),
        ("x_id",),
        ("x_URN",),
        ("text",),
    ]


def test_other_columns_come_last_one_by_one() -> None:
    assert tried(["a", "b"]) == [("a",), ("a", "b"), ("b",)]


def test_each_key_is_tried_once() -> None:
    assert tried(["id"], ("id",)) == [("id",)]


def test_a_table_of_many_columns_has_few_keys() -> None:
    assert len(tried([f"c{number}_id" for number in range(5000)])) == 12 + 3


def test_a_table_without_common_columns_has_none() -> None:
    assert tried([]) == []
