"""Two snapshots side by side."""

from __future__ import annotations

from dcsync.core.diff import Fate, FileDiff, compare, total_rows
from dcsync.core.model import StoredFile
from dcsync.core.table import ColumnChange, count
from tests.fakes import make_stored


def table(name: str, body: bytes) -> StoredFile:
    return make_stored(name, body, table=count([body]))


BEFORE = (
    table("gone.csv", b"id\n1\n"),
    table("same.csv", b"id\n1\n"),
    table("more.csv", b"id\n1\n"),
    make_stored("README.html", b"old"),
    make_stored("uncounted.csv", b"id\n"),
)
AFTER = (
    table("new.csv", b"id\n1\n2\n"),
    table("same.csv", b"id\n1\n"),
    table("more.csv", b"id,name\n1,a\n2,b\n3,c\n"),
    make_stored("README.html", b"newer"),
    table("uncounted.csv", b"id\n9\n"),
)


def test_tables_rows_bytes_and_columns_are_compared() -> None:
    diff = compare(BEFORE, AFTER)

    assert diff.tables == (
        FileDiff(name="gone.csv", fate=Fate.REMOVED, rows_before=1, size_before=5),
        FileDiff(
            name="more.csv",
            fate=Fate.CHANGED,
            rows_before=1,
            rows_after=3,
            size_before=5,
            size_after=20,
            columns=ColumnChange(table="more.csv", added=("name",)),
        ),
        FileDiff(name="new.csv", fate=Fate.ADDED, rows_after=2, size_after=7),
        FileDiff(name="uncounted.csv", fate=Fate.CHANGED, rows_after=1, size_before=3, size_after=5),
    )
    assert diff.others == (FileDiff(name="README.html", fate=Fate.CHANGED, size_before=3, size_after=5),)
    assert diff.unchanged == 1
    assert (diff.rows_before, diff.rows_after) == (3, 7)
    assert (diff.size_before, diff.size_after) == (21, 42)


def test_content_is_what_counts_and_not_its_size() -> None:
    diff = compare([table("a.csv", b"id\n1\n")], [table("a.csv", b"id\n2\n")])

    assert [(one.name, one.fate, one.rows_more) for one in diff.tables] == [("a.csv", Fate.CHANGED, 0)]


def test_rows_are_more_only_where_both_are_known() -> None:
    diff = compare(BEFORE, AFTER)

    assert [table.rows_more for table in diff.tables] == [None, 2, None, None]


def test_a_snapshot_against_itself_differs_in_nothing() -> None:
    diff = compare(AFTER, AFTER)

    assert (diff.tables, diff.others, diff.unchanged) == ((), (), 5)


def test_rows_are_unknown_when_those_of_no_table_are() -> None:
    assert total_rows([make_stored("a.csv")]) is None
    nothing = compare([], [])
    assert (nothing.rows_before, nothing.rows_after) == (0, 0)


def test_a_table_whose_rows_cannot_be_counted_adds_none() -> None:
    unpaired = table("broken.csv", b'id\n"1\n')
    assert unpaired.table is not None
    assert unpaired.table.rows is None

    assert total_rows([unpaired]) is None
    assert total_rows([unpaired, table("a.csv", b"id\n1\n2\n")]) == 2
