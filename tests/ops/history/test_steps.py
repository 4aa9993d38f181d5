"""Steps of a row history: every day again, exactly, and proved."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from dcsync.core.table import TableKind
from dcsync.errors import RowsFailed, RowsUnproved, RowsUnreadable
from dcsync.ops.history import statements
from dcsync.ops.history.prove import sealed
from dcsync.ops.history.statements import Sources
from dcsync.rows import Engine, opened
from tests.rigs.row_histories import Day, Track, check_history, histories


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with opened(memory=512 << 20, spill=None) as engine:
        yield engine


@pytest.fixture
def track(tmp_path: Path, engine: Engine) -> Iterator[Track]:
    track = Track(tmp_path, engine)
    yield track
    track.close()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories())
def test_every_day_of_a_random_history_is_its_csv(engine: Engine, days: list[Day]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_history(Path(folder), engine, days)


def test_rows_that_repeat_are_kept_as_often(track: Track) -> None:
    first = track.add(b"a,b\n1,x\n1,x\n2,y\n")
    second = track.add(b"a,b\n1,x\n1,x\n1,x\n2,y\n")
    third = track.add(b"a,b\n1,x\n2,y\n")

    assert (second.added, second.removed) == (1, 0)
    assert (third.added, third.removed) == (0, 2)
    assert [len(track.at(step)) for step in (first, second, third)] == [3, 4, 2]


def test_rows_in_another_order_write_no_file(track: Track) -> None:
    track.add(b"a\n1\n2\n")
    file = track.file
    step = track.add(b"a\n2\n1\n")

    assert (track.file, step.added, step.removed) == (file, 0, 0)
    assert len(track.metadata.steps) == 1


def test_the_file_has_its_steps(track: Track) -> None:
    track.add(b"a\n1\n")
    track.add(b"a,b\n1,2\n")

    assert track.metadata == track.history


def test_a_column_that_is_gone_is_null_and_keeps_its_place(track: Track) -> None:
    first = track.add(b"id,name\n1,a\n")
    second = track.add(b"ID\n1\n")
    third = track.add(b"name,id\na,1\n")

    assert track.history.columns == ("id", "name")
    assert [track.at(step) for step in (first, second, third)] == [[("1", "a")], [("1",)], [("a", "1")]]


def test_a_table_that_is_empty_for_a_day(track: Track) -> None:
    steps = [track.add(body) for body in (b"a\n1\n", b"a\n", b"a\n1\n")]

    assert [track.at(step) for step in steps] == [[("1",)], [], [("1",)]]


def test_row_groups_have_narrow_times(track: Track) -> None:
    def body(day: int) -> bytes:
        rows = (f"{number},{day if number % 100 == day else ''}\n" for number in range(130_000))
        return ("a,b\n" + "".join(rows)).encode()

    for day in range(3):
        track.add(body(day))

    # Rows that ended lie together, so that most of a large file is skipped for a day on which they were valid.
    sql = (
        f"SELECT count(*), max(file_row_number) - min(file_row_number) FROM {track.parquet} WHERE _valid_to IS NOT NULL"
    )
    assert track.engine.one(sql) == (5200, 5199)


def test_three_megabytes_in_a_field_and_reserved_names(track: Track) -> None:
    body = b'_valid_to,file_row_number,_valid_to\n"' + b"x" * 3_000_000 + b'",1,2\n'
    step = track.add(body)

    assert step.columns == ("_valid_to_2", "file_row_number_2", "_valid_to_3")
    assert track.at(step) == [("x" * 3_000_000, "1", "2")]


def test_five_thousand_columns(tmp_path: Path) -> None:
    header = ",".join(f"c{number}" for number in range(5000))
    with opened(memory=1 << 30, spill=None) as engine:
        track = Track(tmp_path, engine)
        steps = [track.add(f"{header}\n{','.join([value] * 5000)}\n".encode()) for value in "ab"]
        assert [track.at(step) for step in steps] == [[("a",) * 5000], [("b",) * 5000]]
        track.close()


@pytest.mark.parametrize(
    "body",
    [b"a,b\n1,\xff\n", b'a,b\n1,"2\n', b"a,b\n1\n", b"a,b\n1,2,3\n", b""],
)
def test_a_table_that_cannot_be_read_changes_nothing(track: Track, body: bytes) -> None:
    first = track.add(b"a,b\n1,2\n")
    with pytest.raises(RowsUnreadable):
        track.add(body)

    assert track.history.steps == (first,)
    assert track.at(first) == [("1", "2")]


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (b"a,b\n1,2\n\n", [("1", "2")]),
        (b"a,b\n\n1,2\n\n\n3,4", [("1", "2"), ("3", "4")]),
        (b"a,b\r\n1,2\r\n\r\n3,4\r\n\r\n", [("1", "2"), ("3", "4")]),
        (b'a,b\n1,"x\n\n\ny"\n\n', [("1", "x\n\n\ny")]),
        (b"a,b\n\n", []),
        (b"a\n1\n\n2\n\n", [("1",), ("2",), (None,), (None,)]),
        (b"a\r\n\r\n1\r\n", [("1",), (None,)]),
    ],
)
def test_a_blank_line_is_a_row_only_of_a_table_with_one_column(
    track: Track, body: bytes, rows: list[tuple[str | None, ...]]
) -> None:
    step = track.add(body)

    assert (step.rows, track.at(step)) == (len(rows), rows)


@pytest.mark.parametrize("body", [b"a,b\n1,2\n\n", b"a\n1\n\n"])
def test_a_table_with_other_rows_than_dcsync_counted_is_not_proved(track: Track, body: bytes) -> None:
    with pytest.raises(RowsUnproved, match=r"rows, and dcsync counted 9 at the download"):
        track.add(body, counted=9)


_OTHER = "SELECT * REPLACE (CASE WHEN {where} THEN 'x' ELSE {column} END AS {column}) FROM ({sql})"


@pytest.mark.parametrize(
    ("kind", "wrong", "reason"),
    [
        # A proof for each way in which a file can be wrong.
        (TableKind.FULL, _OTHER.format(where="v = 'c'", column="v", sql="{sql}"), "rows with digest"),
        (TableKind.DELTA, _OTHER.format(where="v = 'c'", column="v", sql="{sql}"), "rows with digest"),
        (TableKind.WINDOW, _OTHER.format(where="v = 'c'", column="v", sql="{sql}"), "the history not all of them"),
        (TableKind.FULL, "SELECT * FROM ({sql}) WHERE _valid_to IS NULL", "2 rows, and after 1 more it has 2"),
        (TableKind.WINDOW, _OTHER.format(where="v = 'a'", column="v", sql="{sql}"), "rows of earlier steps"),
        # The snapshot does not have this column.
        (TableKind.WINDOW, _OTHER.format(where="v = 'c'", column="w", sql="{sql}"), "the step added 1 rows"),
    ],
)
def test_a_step_that_writes_other_rows_is_not_proved(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, kind: TableKind, wrong: str, reason: str
) -> None:
    track = Track(tmp_path, engine, kind)
    track.add(b"adsk_row_id,v,w\n1,a,\n2,b,\n")
    write = statements.write

    def changed(sources: Sources, moment: datetime, *, copies: bool) -> str:
        return wrong.format(sql=write(sources, moment, copies=copies))

    monkeypatch.setattr(statements, "write", changed)
    with pytest.raises(RowsUnproved, match=reason):
        track.add(b"adsk_row_id,v\n1,c\n2,b\n")
    track.close()


# --- window tables ----------------------------------------------------------------------------------------------------


def test_a_ledger_has_each_row_once_and_as_often_as_one_extract_has_it(tmp_path: Path, engine: Engine) -> None:
    track = Track(tmp_path, engine, TableKind.WINDOW)
    track.add(b"a\n1\n1\n2\n")
    second = track.add(b"a\n1\n3\n")
    third = track.add(b"a\n1\n1\n1\n3\n")

    assert (second.added, second.removed, second.rows) == (1, 0, 2)
    assert (third.added, third.removed) == (1, 0)
    assert track.sorted(f"SELECT a, count(*), count(DISTINCT _first_seen) FROM {track.parquet} GROUP BY a") == [
        ("1", "3", "2"),
        ("2", "1", "1"),
        ("3", "1", "1"),
    ]
    track.close()


def test_the_fingerprint_of_a_row_is_the_same_in_every_version_of_duckdb(tmp_path: Path, engine: Engine) -> None:
    track = Track(tmp_path, engine, TableKind.WINDOW)
    step = track.add('id,name\n1,"é ""x"""\n2,\n2,\n3,""\n'.encode())

    def fingerprint(*fields: tuple[str, str]) -> int:
        row = "".join(f"{name} {len(value.encode())} {value} " for name, value in fields)
        return int(hashlib.sha256(row.encode()).hexdigest()[:16], 16)

    total = fingerprint(("id", "1"), ("name", 'é "x"')) + 2 * fingerprint(("id", "2"))
    assert step.fingerprint == f"{total + fingerprint(('id', '3'), ('name', '')):032x}"
    track.close()


def test_the_fingerprints_of_all_steps_follow_from_the_file(tmp_path: Path, engine: Engine) -> None:
    track = Track(tmp_path, engine, TableKind.WINDOW)
    track.add(b"a\n1\n1\n2\n")
    track.add(b"a\n2\n")
    track.add(b"b,a\nx,1\n,1\n,1\n,1\n")
    known = track.history
    forgotten = replace(known, steps=tuple(replace(step, fingerprint=None) for step in known.steps))

    assert [step.added for step in known.steps] == [3, 0, 2]
    assert sealed(engine, known, track.parquet) == sealed(engine, forgotten, track.parquet) == known
    assert track.metadata.steps == known.steps
    track.close()


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM {file} WHERE a <> '1'",
        "FROM {file} UNION ALL SELECT '9', _first_seen FROM {file}",
        "SELECT * REPLACE (replace(a, '1', '7') AS a) FROM {file}",
        "SELECT * REPLACE (_first_seen + INTERVAL 1 SECOND AS _first_seen) FROM {file}",
        "FROM {file} UNION ALL SELECT '9', TIMESTAMPTZ '2020-01-01 00:00:00Z'",
    ],
)
def test_a_ledger_with_other_rows_than_its_steps_added_is_noticed(tmp_path: Path, engine: Engine, query: str) -> None:
    track = Track(tmp_path, engine, TableKind.WINDOW)
    track.add(b"a\n1\n2\n")
    track.add(b"a\n3\n")
    source = f"(SELECT a, _first_seen FROM {track.parquet})"
    with pytest.raises(RowsUnproved):
        sealed(engine, track.history, f"({query.format(file=source)})")
    track.close()


# --- delta tables -----------------------------------------------------------------------------------------------------


def test_a_delta_is_merged_by_its_key_and_deletions_are_honored(tmp_path: Path, engine: Engine) -> None:
    track = Track(tmp_path, engine, TableKind.DELTA)
    track.add(b"adsk_row_id,v,deleted_at\n1,a,\n2,b,\n2,c,\n")
    track.add(b"adsk_row_id,v,deleted_at\n1,a,2026-11-02\n3,d,\n")
    track.add(b"adsk_row_id,v,deleted_at\n1,e,\n9,z,2026-11-03\n3,d,\n")

    assert track.sorted(f"SELECT adsk_row_id, v FROM {track.parquet} WHERE _valid_to IS NULL") == [
        ("1", "e"),
        ("2", "c"),
        ("3", "d"),
    ]
    assert [(step.rows, step.added, step.removed) for step in track.history.steps] == [(3, 2, 0), (2, 1, 1), (3, 1, 0)]
    track.close()


def test_a_delta_without_a_key_waits(tmp_path: Path, engine: Engine) -> None:
    track = Track(tmp_path, engine, TableKind.DELTA)
    with pytest.raises(RowsUnreadable, match="no column adsk_row_id"):
        track.add(b"id\n1\n")


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"PAR1 but damaged PAR1"])
def test_a_damaged_file_is_named(track: Track, body: bytes) -> None:
    track.add(b"a\n1\n")
    (track.folder / "0.parquet").write_bytes(body)

    with pytest.raises(RowsFailed):
        _ = track.metadata


def test_a_file_of_another_format_is_not_read(track: Track) -> None:
    track.add(b"a\n1\n")
    path, form = track.folder / "0.parquet", "FORMAT parquet, USE_TMP_FILE false"
    track.engine.run(f"COPY (SELECT 1) TO '{path}' ({form}, KV_METADATA {{dcsync: '{{\"format\": 0}}'}})")
    with pytest.raises(RowsFailed, match="format"):
        _ = track.metadata
    track.engine.run(f"COPY (SELECT 1) TO '{path}' ({form})")
    with pytest.raises(RowsFailed, match="no steps"):
        _ = track.metadata
