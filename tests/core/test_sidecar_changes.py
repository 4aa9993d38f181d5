"""What changed since the previous snapshot, and the summary of it."""

from __future__ import annotations

from dataclasses import replace

from dcsync.core import sidecar
from dcsync.core.sidecar import Changes
from dcsync.core.summary import Summary
from dcsync.core.table import ColumnChange, TableFacts
from tests.fakes import make_snapshot, make_stored
from tests.rigs.sidecars import COLUMNS, TABLE


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
