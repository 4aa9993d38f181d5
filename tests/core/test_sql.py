from __future__ import annotations

from pathlib import Path

import duckdb
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.sql import csv_text, identifier, text

#: DuckDB takes no NUL in a statement.
STRINGS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(STRINGS)
def test_any_string_is_one_literal(value: str) -> None:
    assert duckdb.execute(f"SELECT {text(value)}").fetchall() == [(value,)]


@given(STRINGS)
def test_any_name_is_one_identifier(name: str) -> None:
    assert [column[0] for column in duckdb.execute(f"SELECT 1 AS {identifier(name)}").description] == [name]


def test_a_csv_file_is_read_as_text_with_the_declared_columns(tmp_path: Path) -> None:
    (tmp_path / "it's.csv").write_bytes(b'a,a b\n1,""\n,"x ""y"""\n')

    source = csv_text(str(tmp_path / "it's.csv"), ["a", "it's"])
    found = duckdb.execute(f"SELECT * FROM {source}")  # noqa: S608 - what is tested

    assert [column[0] for column in found.description] == ["a", "it's"]
    assert found.fetchall() == [("1", ""), (None, 'x "y"')]


def test_a_carriage_return_in_the_name_of_a_column_loses_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'"a\rb",c\n"",\n"b",d\n')

    source = csv_text(str(tmp_path / "a.csv"), ["x\ry", "z"])
    found = duckdb.execute(f"FROM {source}")

    assert found.fetchall() == [("", None), ("b", "d")]
