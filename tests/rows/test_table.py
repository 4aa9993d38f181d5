"""CSV tables through DuckDB: every field is the text in the file, or the file is refused with its line."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcsync.core.csv_defects import LONGEST_LINE
from dcsync.errors import RowsInterrupted, RowsUnreadable
from dcsync.opening import NotRegular
from dcsync.rows import CsvTable, Engine, open_table, opened

NAME = "a table's [1] name?.csv"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with opened(memory=256 << 20, spill=tmp_path / "spill") as engine:
        yield engine


@contextmanager
def table(folder: Path, body: bytes) -> Iterator[CsvTable]:
    (folder / NAME).write_bytes(body)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with open_table(NAME, below=descriptor) as found:
            yield found
    finally:
        os.close(descriptor)


def rows(engine: Engine, found: CsvTable) -> list[tuple[object, ...]]:
    with found.reading():
        return engine.all(f"SELECT * FROM {found.source}")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'a,b\r\n1,"x, y"\r\n"",\r\n', [("1", "x, y"), ("", None)]),
        (b'a,b\n"1\r\n2","say ""hi"""\n', [("1\r\n2", 'say "hi"')]),
        (b"\xef\xbb\xbfa,b\n 1 ,NULL\n", [(" 1 ", "NULL")]),
        (b"a,b\n01,\x001\n", [("01", "\x001")]),
        (b"a,A\n1,2\n", [("1", "2")]),
        (b"a,\n1,2", [("1", "2")]),
        (b'a\n1\n\n""\n', [("1",), (None,), ("",)]),
        (b"a,b\n", []),
        (b"a,b", []),
        (b'a,b\n"' + b"x" * 3_000_000 + b'",2\n', [("x" * 3_000_000, "2")]),
    ],
)
def test_fields_are_the_text_in_the_file(
    tmp_path: Path, engine: Engine, body: bytes, expected: list[tuple[object, ...]]
) -> None:
    with table(tmp_path, body) as found:
        assert rows(engine, found) == expected
        assert found.count(engine) == len(expected)


def test_columns_have_distinct_names(tmp_path: Path, engine: Engine) -> None:
    with table(tmp_path, b"id,ID,,id\n1,2,3,4\n") as found:
        assert found.columns == ("id", "ID_2", "column_3", "id_3")
        assert engine.relation(f"SELECT * FROM {found.source}").columns == list(found.columns)


def test_five_thousand_columns_are_read(tmp_path: Path) -> None:
    header = ",".join(f"c{number}" for number in range(5000))
    body = f"{header}\n{header}\n".encode()
    with opened(memory=1 << 30, spill=None) as engine, table(tmp_path, body) as found:
        assert rows(engine, found) == [tuple(header.split(","))]


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        (b"a,b\n1,2\n1,\xff\n", 3, "not UTF-8"),
        (b"a,b\n1\n2,3\n", 2, "1 field and the header 2"),
        (b"a,b\n1,2,3\n", 2, "3 fields and the header 2"),
        (b'a,b\n1,2\n1,"x\n2,3\n', 3, "no end"),
        (b'a,b\n1,"x"y\n', 2, "text follows"),
        (b"a,b\r\n1,2\n1,2\r\n", 2, "another line break"),
        ("a,b\n1,2\n".encode("utf-16"), 1, "UTF-16"),
        (b"a," + b"b" * 70_000 + b"\n1,2\n", 1, "longer than 64 KiB"),
    ],
)
def test_a_file_that_needs_a_guess_is_refused_with_its_line(
    tmp_path: Path, engine: Engine, body: bytes, line: int, words: str
) -> None:
    with pytest.raises(RowsUnreadable) as caught, table(tmp_path, body) as found:
        rows(engine, found)

    assert (caught.value.path, caught.value.line) == (NAME, line)
    assert words in caught.value.reason
    assert str(tmp_path) not in caught.value.message


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), st.text("a\"',\n\r", max_size=6)),
        max_size=8,
    ),
    st.sampled_from((csv.QUOTE_ALL, csv.QUOTE_MINIMAL)),
)
def test_any_rows_are_read_as_python_reads_them(
    tmp_path: Path, engine: Engine, content: list[tuple[str, str]], quoting: Literal[0, 1]
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=quoting).writerows([("a", "b"), *content])
    with table(tmp_path, text.getvalue().encode()) as found:
        ours = rows(engine, found)

    assert Counter(tuple(field or "" for field in row) for row in ours) == Counter(content)
    if quoting == csv.QUOTE_ALL:
        assert all(None not in row for row in ours)


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"a\n1\n")
    (tmp_path / NAME).symlink_to("real")
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(NotRegular), open_table(NAME, below=descriptor):
        pass
    os.close(descriptor)


def test_an_interrupt_ends_a_statement(engine: Engine) -> None:
    with ThreadPoolExecutor(1) as thread:
        statement = thread.submit(engine.run, "SELECT sum(i * j) FROM range(10000000) a(i), range(1000) b(j)")
        while not statement.done():
            engine.interrupt()
        with pytest.raises(RowsInterrupted):
            statement.result()


def test_a_line_as_long_as_the_limit_is_read(tmp_path: Path, engine: Engine) -> None:
    with table(tmp_path, b"a,b\n1," + b"x" * (LONGEST_LINE // 2) + b"\n") as found:
        assert found.count(engine) == 1


def test_an_interrupt_of_a_closed_engine_does_nothing() -> None:
    with opened(memory=128 << 20, spill=None) as engine:
        pass
    engine.interrupt()
