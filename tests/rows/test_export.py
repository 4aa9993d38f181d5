"""Rows as CSV, JSON and Parquet: each form reads back as the same values."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcsync.core.sql import text
from dcsync.opening import open_regular
from dcsync.rows import Engine, open_table, opened
from dcsync.rows.export import write_csv, write_json, write_parquet

COLUMNS = ("id", 'a "b"', "rowid")
VALUES = st.one_of(
    st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=6), st.sampled_from(['"', ",", "\r\n"])
)
ROWS = st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=6)
Row = tuple[str | None, ...]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with opened(memory=256 << 20, spill=None) as engine:
        yield engine


def query(rows: list[Row]) -> str:
    """Return a query with these rows."""
    shown = [f"({', '.join('NULL' if value is None else literal(value) for value in row)})" for row in rows]
    empty = "SELECT NULL::VARCHAR AS a, NULL::VARCHAR AS b, NULL::VARCHAR AS c WHERE false"
    return (
        f"SELECT a::VARCHAR AS a, b::VARCHAR AS b, c::VARCHAR AS c FROM (VALUES {', '.join(shown)}) v(a, b, c)"
        if rows
        else empty
    )


def literal(value: str) -> str:
    # A parser of SQL ends at a NUL.
    return " || ".join("chr(0)" if part == "\0" else text(part) for part in split(value)) or "''"


def split(value: str) -> list[str]:
    parts: list[str] = []
    for piece in value.split("\0"):
        parts += [piece, "\0"]
    return parts[:-1]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_each_form_reads_back_the_same(tmp_path: Path, engine: Engine, rows: list[Row]) -> None:
    sql = query(rows)
    csv_parts, json_parts = list[bytes](), list[bytes]()
    write_csv(engine, sql, COLUMNS, csv_parts.append)
    write_json(engine, sql, COLUMNS, json_parts.append)
    (tmp_path / "t.csv").write_bytes(b"".join(csv_parts))
    descriptor = open_regular(tmp_path / "t.parquet", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    below = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        write_parquet(engine, sql, descriptor)
        with open_table("t.csv", below=below) as table, table.reading():
            assert table.header == COLUMNS
            assert engine.all(f"SELECT * FROM {table.source}") == rows
    finally:
        os.close(descriptor)
        os.close(below)
    assert engine.all(f"SELECT * FROM read_parquet({text(str(tmp_path / 't.parquet'))})") == rows
    assert [tuple(row.values()) for row in json.loads(b"".join(json_parts))] == rows


def test_json_without_rows_is_an_empty_array(engine: Engine) -> None:
    parts: list[bytes] = []
    write_json(engine, query([]), COLUMNS, parts.append)

    assert b"".join(parts) == b"[]\n"
