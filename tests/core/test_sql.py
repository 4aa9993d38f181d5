from __future__ import annotations

import duckdb
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.sql import identifier, text

#: DuckDB takes no NUL in a statement.
STRINGS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(STRINGS)
def test_any_string_is_one_literal(value: str) -> None:
    assert duckdb.execute(f"SELECT {text(value)}").fetchall() == [(value,)]


@given(STRINGS)
def test_any_name_is_one_identifier(name: str) -> None:
    assert [column[0] for column in duckdb.execute(f"SELECT 1 AS {identifier(name)}").description] == [name]
