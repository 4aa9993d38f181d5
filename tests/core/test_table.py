"""A table's header and rows, whatever the pieces its bytes come in."""

from __future__ import annotations

import csv
import io
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dcsync.core.table import HEADER_CAP, ColumnChange, TableFacts, TableKind, columns_between, count, is_table

#: What makes trouble, and little else, so that it meets.
BYTES = st.lists(st.sampled_from([b'"', b'""', b"\n", b"\r\n", b",", b"a", b"\xef\xbb\xbf", "é".encode()])).map(
    b"".join
)
#: No lone carriage return: the csv module writes it unquoted, and then does not read it back.
FIELDS = st.text(st.sampled_from('a",\né '), max_size=6)


def facts(body: bytes) -> TableFacts:
    found = count([body])
    assert found is not None
    return found


@given(BYTES, st.lists(st.integers(0, 40)))
@example(body=b'"\n"\n"\n', cuts=[1, 2, 3, 4, 5])
def test_any_chunking_gives_the_same(body: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(body), *(min(cut, len(body)) for cut in cuts)})
    pieces = [bytearray(body[start:stop]) for start, stop in pairwise(places)]

    assert count(pieces) == count([body])


@given(st.lists(st.lists(FIELDS, min_size=2, max_size=2), min_size=1), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_the_csv_module_wrote_is_counted_as_it_reads_it(rows: list[list[str]], end: str, bom: bool) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator=end).writerows(rows)
    body = out.getvalue().encode("utf-8-sig" if bom else "utf-8")

    assert facts(body) == TableFacts(header=tuple(rows[0]), rows=len(rows) - 1)


@pytest.mark.parametrize(
    ("body", "header", "rows"),
    [
        (b"", (), 0),
        (b"\n", (), 0),
        (b"\nid\n1\n", (), 2),
        (b"id,name", ("id", "name"), 0),
        (b"id,name\n", ("id", "name"), 0),
        (b"id,name\r\n1,a\r\n", ("id", "name"), 1),
        (b"id,name\n1,a", ("id", "name"), 1),
        (b"\xef\xbb\xbfid,name\n1,a\n", ("id", "name"), 1),
        (b'id,"na\nme"\n1,"a\nb"\n2,b\n', ("id", "na\nme"), 2),
        (b'id\n"a ""quoted"" word"\n', ("id",), 1),
        (b'"a","a"\n', ("a", "a"), 0),
        (b'id,"a"\n\xff\n', ("id", "a"), 1),
        (b"caf\xe9,x\n", ("caf�", "x"), 0),
        # A lone carriage return in the header: the csv module refuses it.
        (b"a\rb,c\r\n1,2\r\n", ("a\rb", "c"), 1),
    ],
)
def test_header_and_rows(body: bytes, header: tuple[str, ...], rows: int) -> None:
    assert facts(body) == TableFacts(header=header, rows=rows)


def test_quotes_may_be_open_over_whole_pieces() -> None:
    assert count([b'id,"a', b"\nx\n", b'"\n', b"1,2\n"]) == TableFacts(header=("id", "a\nx\n"), rows=1)


def test_an_empty_piece_changes_nothing() -> None:
    assert count([b"", b"id\n1\n", b""]) == TableFacts(header=("id",), rows=1)


def test_rows_are_not_guessed_when_the_quotes_do_not_pair_up() -> None:
    assert facts(b'id,name\n1,"a\n2,b\n') == TableFacts(header=("id", "name"), rows=None)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_what_is_no_utf_8_is_not_counted(encoding: str) -> None:
    assert count(["\ufeffid,name\n".encode(encoding)]) is None


def test_a_header_up_to_the_cap_is_whole() -> None:
    assert HEADER_CAP == 65_536
    column = "c" * (HEADER_CAP - 3)

    assert facts(f"a,{column}\n1,2\n".encode()) == TableFacts(header=("a", column), rows=1)
    assert facts(f"ab,{column}".encode()) == TableFacts(header=("ab", column), rows=0)


def test_a_header_of_one_byte_more_is_cut() -> None:
    longer = f"a,{'c' * (HEADER_CAP - 1)}\n1,2\n".encode()

    assert facts(longer) == TableFacts(header=("a",), rows=1, is_cut=True)
    assert count([longer[:HEADER_CAP], longer[HEADER_CAP:]]) == facts(longer)


def test_a_longer_header_is_cut_and_marked_and_the_rows_counted_all_the_same() -> None:
    body = ("a,b," + "c" * HEADER_CAP + "\n1,2,3" * 1000).encode()

    assert facts(body) == TableFacts(header=("a", "b"), rows=1000, is_cut=True)
    assert count(body[place : place + 999] for place in range(0, len(body), 999)) == facts(body)


def test_a_quote_that_never_closes_takes_no_more_memory_than_the_cap() -> None:
    found = facts(b'a,"' + b"x\n" * HEADER_CAP)

    assert (found.header, found.rows, found.is_cut) == (("a",), None, True)


@pytest.mark.parametrize(("name", "expected"), [("a.csv", True), ("A.CSV", True), ("a.csv.zip", False), ("csv", False)])
def test_tables_are_told_by_their_name(name: str, expected: bool) -> None:
    assert is_table(name) is expected


def test_a_newer_extract_replaces_a_full_table_only() -> None:
    assert {kind: kind.has_all_rows for kind in TableKind} == {"full": True, "window": False, "delta": False}


def header(*columns: str, cut: bool = False) -> TableFacts:
    return TableFacts(header=columns, rows=1, is_cut=cut)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (header("a", "b"), header("a", "b"), None),
        (header("a"), header("a", "b"), ColumnChange(table="t", added=("b",))),
        (header("a", "b"), header("b"), ColumnChange(table="t", removed=("a",))),
        (header("a", "b"), header("b", "a"), ColumnChange(table="t", reordered=True)),
        (
            header("a", "b", "c"),
            header("c", "x", "a"),
            ColumnChange(table="t", added=("x",), removed=("b",), reordered=True),
        ),
        (header("a", "a"), header("a"), ColumnChange(table="t", removed=("a",))),
        (header("a", "b"), header("a", "b", "a"), ColumnChange(table="t", added=("a",))),
        (header("a"), header("a", "a", "a"), ColumnChange(table="t", added=("a", "a"))),
        # Of a column that is there twice, the last one is the new one.
        (header("a"), header("a", "b", "a"), ColumnChange(table="t", added=("b", "a"))),
        (header("a", "b", "a"), header("a"), ColumnChange(table="t", removed=("b", "a"))),
        (None, header("a"), None),
        (header("a"), None, None),
        (header("a", cut=True), header("b"), None),
        (header("a"), header("b", cut=True), None),
    ],
)
def test_columns_are_compared_as_often_as_they_stand(
    before: TableFacts | None, after: TableFacts | None, expected: ColumnChange | None
) -> None:
    assert columns_between("t", before, after) == expected
