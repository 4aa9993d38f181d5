"""The rows that differ between two versions of a table, against a second implementation in Python."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcsync.core.row_keys import KeySource, RowKey
from dcsync.errors import RowsInterrupted, RowsUnreadable
from dcsync.rows import Engine, RowChange, RowFate, TableChanges, compared, open_table, opened


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with opened(memory=256 << 20, spill=tmp_path / "spill") as engine:
        yield engine


@contextmanager
def compare(
    folder: Path, engine: Engine, before: bytes | None, after: bytes | None, documented: Sequence[str] = ()
) -> Iterator[TableChanges]:
    with ExitStack() as stack:
        below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, below)
        tables = []
        for name, body in (("before.csv", before), ("after.csv", after)):
            if body is not None:
                (folder / name).write_bytes(body)
            tables.append(None if body is None else stack.enter_context(open_table(name, below=below)))
        yield stack.enter_context(compared(engine, tables[0], tables[1], documented))


def counts(found: TableChanges) -> tuple[int, int, int, int]:
    return found.added, found.removed, found.changed, found.unchanged


def test_rows_are_paired_by_a_key_and_changes_name_their_columns(tmp_path: Path, engine: Engine) -> None:
    before = b'id,status,note\n1,open,\n2,open,x\n3,open,"a\nb"\n4,open,\n'
    after = b'note,id,status\n"",1,open\nx,2,closed\n"a\nb",3,open\nnew,5,\n'

    with compare(tmp_path, engine, before, after) as found:
        assert found.key == RowKey(columns=("id",), source=KeySource.UNIQUE)
        assert counts(found) == (1, 1, 2, 1)
        assert found.columns == {"note": 1, "status": 1}
        assert list(found.rows()) == [
            RowChange(
                fate=RowFate.REMOVED, key={"id": "4"}, before={"id": "4", "status": "open", "note": None}, after=None
            ),
            RowChange(
                fate=RowFate.ADDED, key={"id": "5"}, before=None, after={"note": "new", "id": "5", "status": None}
            ),
            RowChange(fate=RowFate.CHANGED, key={"id": "1"}, before={"note": None}, after={"note": ""}),
            RowChange(fate=RowFate.CHANGED, key={"id": "2"}, before={"status": "open"}, after={"status": "closed"}),
        ]


def test_the_documented_key_is_used_where_it_is_unique(tmp_path: Path, engine: Engine) -> None:
    before, after = b"user,project,role\na,1,x\na,2,x\n", b"user,project,role\na,1,x\na,2,y\n"

    with compare(tmp_path, engine, before, after, ("PROJECT", "user")) as found:
        assert found.key == RowKey(columns=("project", "user"), source=KeySource.SCHEMA)
        assert counts(found) == (0, 0, 1, 1)
    with compare(tmp_path, engine, before, after, ("user",)) as found:
        assert found.key == RowKey(columns=("user", "project"), source=KeySource.UNIQUE)


def test_first_columns_together_are_a_key(tmp_path: Path, engine: Engine) -> None:
    before, after = b"a,b,c\n1,1,x\n1,2,x\n2,1,x\n", b"a,b,c\n1,1,x\n1,2,y\n2,1,x\n"

    with compare(tmp_path, engine, before, after) as found:
        assert found.key.columns == ("a", "b")
        assert counts(found) == (0, 0, 1, 2)


@pytest.mark.parametrize("value", [b"", b'""'])
def test_an_empty_field_identifies_no_row(tmp_path: Path, engine: Engine, value: bytes) -> None:
    with compare(tmp_path, engine, b"id,v\n1,a\n" + value + b",a\n", b"id,v\n1,a\n") as found:
        assert found.key == RowKey()
        assert counts(found) == (0, 1, 0, 1)


def test_without_a_key_whole_rows_are_compared_as_often_as_they_occur(tmp_path: Path, engine: Engine) -> None:
    before, after = b"a,b\n1,x\n1,x\n1,x\n2,\n", b"a,b\n1,x\n1,x\n2,\n2,\n3,z\n3,z\n"

    with compare(tmp_path, engine, before, after) as found:
        assert found.key == RowKey()
        assert counts(found) == (3, 1, 0, 3)
        assert [(row.fate, row.key, row.after) for row in found.rows(limit=2)] == [
            (RowFate.REMOVED, {}, None),
            (RowFate.ADDED, {}, {"a": "2", "b": None}),
            (RowFate.ADDED, {}, {"a": "3", "b": "z"}),
        ]


@pytest.mark.parametrize(("before", "after", "expected"), [(b"id\n1\n2\n", None, (0, 2)), (None, b"id\n1\n", (1, 0))])
def test_a_missing_table_has_no_rows(
    tmp_path: Path, engine: Engine, before: bytes | None, after: bytes | None, expected: tuple[int, int]
) -> None:
    with compare(tmp_path, engine, before, after) as found:
        assert (found.added, found.removed) == expected
        assert len(list(found.rows())) == sum(expected)


def test_tables_without_a_common_column_share_no_row(tmp_path: Path, engine: Engine) -> None:
    with compare(tmp_path, engine, b"a\n1\n", b"b\n1\n") as found:
        assert counts(found) == (1, 1, 0, 0)


def test_a_new_column_changes_no_row(tmp_path: Path, engine: Engine) -> None:
    with compare(tmp_path, engine, b"id,a\n1,x\n", b"id,a,b\n1,x,new\n") as found:
        assert counts(found) == (0, 0, 0, 1)


def test_columns_with_names_of_sql_are_columns(tmp_path: Path, engine: Engine) -> None:
    body = b'rowid,b,,"c0;""",rowid\n1,2,3,4,5\n'

    with compare(tmp_path, engine, body, body.replace(b"5", b"6")) as found:
        (row,) = found.rows()
        assert (row.key, row.after) == ({"rowid": "1"}, {"rowid_2": "6"})


def test_five_thousand_columns_are_compared(tmp_path: Path) -> None:
    header = ",".join(f"c{number}" for number in range(5000))
    before = f"{header}\n{header}\n".encode()
    more = b"y" + header.encode() + b"\n"
    doubled = before + header.encode() + b"\n"

    with opened(memory=1 << 30, spill=tmp_path / "spill") as engine:
        with compare(tmp_path, engine, before, before + more) as found:
            assert counts(found) == (1, 0, 0, 1)
        with compare(tmp_path, engine, doubled, before) as found:
            assert counts(found) == (0, 1, 0, 1)


def test_a_change_in_the_last_of_many_columns_is_found(tmp_path: Path, engine: Engine) -> None:
    header = ",".join(f"c{number}" for number in range(500))

    with compare(tmp_path, engine, f"{header}\n{header}\n".encode(), f"{header}\n{header[:-4]}z\n".encode()) as found:
        assert found.columns == {"c499": 1}
        assert [row.after for row in found.rows()] == [{"c499": "z"}]


@pytest.mark.parametrize(
    ("side", "body", "line", "reason"),
    [
        ("before.csv", b"id,v\n1,a\n\xff,b\n", 3, "it is not UTF-8"),
        ("after.csv", b"id,v\n1\n", 2, "it has 1 field and the header 2"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_and_the_next_is_compared(
    tmp_path: Path, engine: Engine, side: str, body: bytes, line: int, reason: str
) -> None:
    good = b"id,v\n1,a\n"
    bodies = {"before.csv": good, "after.csv": good, side: body}

    with (
        pytest.raises(RowsUnreadable) as caught,
        compare(tmp_path, engine, bodies["before.csv"], bodies["after.csv"]),
    ):
        pass
    assert (caught.value.path, caught.value.line, caught.value.reason) == (side, line, reason)
    with compare(tmp_path, engine, good, good) as found:
        assert counts(found) == (0, 0, 0, 1)


def test_an_interrupted_engine_compares_no_further(tmp_path: Path, engine: Engine) -> None:
    engine.interrupt()

    with pytest.raises(RowsInterrupted), compare(tmp_path, engine, b"id\n1\n", b"id\n2\n"):
        pass


ROWS = st.lists(st.tuples(*[st.sampled_from(["", "0", "1", "x,y", 'q"', "l\nm"])] * 3), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=ROWS, after=ROWS)
def test_the_changes_lead_from_one_table_to_the_other(
    tmp_path: Path, engine: Engine, before: list[tuple[str, ...]], after: list[tuple[str, ...]]
) -> None:
    with compare(tmp_path, engine, as_csv(before), as_csv(after)) as found:
        assert len(before) == found.removed + found.changed + found.unchanged
        assert len(after) == found.added + found.changed + found.unchanged
        current = Counter(values(row) for row in before)
        for change in found.rows():
            apply(current, change)
    assert current == Counter(values(row) for row in after)


def apply(current: Counter[tuple[str | None, ...]], change: RowChange) -> None:
    """Take a change's old row out of a table, and put its new row in."""
    if change.fate is RowFate.CHANGED:
        assert change.before is not None
        assert change.after is not None
        (old,) = [row for row in current if dict(zip("abc", row, strict=True)).items() >= change.key.items()]
        assert dict(zip("abc", old, strict=True)).items() >= change.before.items()
        current -= Counter([old])
        current[tuple({**dict(zip("abc", old, strict=True)), **change.after}.values())] += 1
        return
    if change.before is not None:
        assert current[tuple(change.before.values())] > 0
        current[tuple(change.before.values())] -= 1
    if change.after is not None:
        current[tuple(change.after.values())] += 1


def values(row: Sequence[str]) -> tuple[str | None, ...]:
    return tuple(value or None for value in row)


def as_csv(rows: Sequence[Sequence[str]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([("a", "b", "c"), *rows])
    return out.getvalue().encode()
