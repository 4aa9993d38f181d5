"""The row history in real databases: after each load, the table has exactly the rows of the Parquet file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcsync.core.loads import LoadMode, NewColumn
from dcsync.core.sql import identifier
from dcsync.core.table import TableKind
from dcsync.errors import LoadRefused, ValueRefused
from dcsync.load import Way
from dcsync.rows import Engine, opened
from tests.rigs.loads import Goal, goal, history, latest
from tests.rigs.postgres import Postgres
from tests.rigs.row_histories import Day, Track, histories

KINDS = ("postgresql", "duckdb", "sqlite")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with opened(memory=128 << 20, spill=tmp_path_factory.mktemp("spill")) as engine:
        yield engine


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Goal:
    server = request.getfixturevalue("postgres_server") if request.param == "postgresql" else None
    return goal(request.param, tmp_path, server)


@pytest.fixture
def track(tmp_path: Path, engine: Engine) -> Iterator[Track]:
    track = Track(tmp_path, engine)
    yield track
    track.close()


def in_target(place: Goal, columns: tuple[str, ...]) -> Counter[tuple[Any, ...]]:
    """Count the rows of the table by their text, with the times to the second."""
    names = ", ".join(identifier(name) for name in columns)
    times = "substr(CAST(_valid_from AS varchar), 1, 19), substr(CAST(_valid_to AS varchar), 1, 19)"
    return Counter(place.ask(f"SELECT {names}, {times} FROM {{t}}.users"))


def in_file(track: Track) -> Counter[tuple[Any, ...]]:
    names = ", ".join(identifier(name) for name in track.history.columns)
    times = "substr(_valid_from::VARCHAR, 1, 19), substr(_valid_to::VARCHAR, 1, 19)"
    return Counter(track.engine.all(f"SELECT {names}, {times} FROM {track.parquet}"))


def test_only_changed_rows_are_loaded(place: Goal, track: Track) -> None:
    rows = [(str(number), f"user {number}", "x" * (number % 3)) for number in range(50)]
    columns = ("id", "name", "note")
    with place.opened() as target:
        step = track.add(Day(columns, tuple(rows)).body)
        assert history(target, _file(track), step).way is Way.WHOLE
        rows[7] = ("7", "another name", "")
        step = track.add(Day(columns, tuple(rows[1:])).body)
        loaded = history(target, _file(track), step)
        # The row that changed twice, with its end and its beginning, and the end of the row that went.
        assert (loaded.way, loaded.sent, loaded.shown.rows) == (Way.CHANGES, 3, 51)
        assert target.shown()["users"].job == step.job
    assert in_target(place, columns) == in_file(track)
    assert place.ask("SELECT count(*) FROM {t}.users WHERE _valid_to IS NULL") == [(49,)]


def _file(track: Track) -> int:
    assert track.file is not None
    return track.file


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(days=histories(), skipped=st.sets(st.integers(1, 4)))
def test_every_sequence_of_days_ends_with_the_rows_of_the_file(
    kind: str, days: list[Day], skipped: set[int], engine: Engine, postgres_server: Postgres
) -> None:
    with TemporaryDirectory() as name:
        track = Track(Path(name), engine)
        place = goal(kind, Path(name), postgres_server)
        try:
            for number, day in enumerate(days):
                step = track.add(day.body)
                if number in skipped and number < len(days) - 1:
                    continue
                with place.opened() as target:
                    loaded = history(target, _file(track), step)
                assert loaded.way is (Way.CHANGES if number else Way.WHOLE)
                assert in_target(place, track.history.columns) == in_file(track)
        finally:
            track.close()


def test_a_ledger_gets_the_rows_that_are_new(place: Goal, tmp_path: Path, engine: Engine) -> None:
    track = Track(tmp_path, engine, kind=TableKind.WINDOW)
    try:
        with place.opened() as target:
            history(target, _file_after(track, b"id\n1\n2\n"), track.history.steps[-1])
            loaded = history(target, _file_after(track, b"id\n2\n3\n"), track.history.steps[-1])
        assert (loaded.way, loaded.sent) == (Way.CHANGES, 1)
        assert [row[0] for row in place.rows(columns="id")] == ["1", "2", "3"]
        assert "_valid_to" not in track.history.columns
    finally:
        track.close()


def _file_after(track: Track, body: bytes) -> int:
    track.add(body)
    return _file(track)


def test_a_table_that_somebody_changed_is_loaded_whole(place: Goal, track: Track) -> None:
    with place.opened() as target:
        history(target, _file_after(track, b"id,n\n1,a\n2,b\n"), track.history.steps[-1])
    place.tell("DELETE FROM {t}.users WHERE id = '1'")
    with place.opened() as target:
        loaded = history(target, _file_after(track, b"id,n\n1,a\n2,c\n"), track.history.steps[-1])
        assert loaded.way is Way.WHOLE
    assert in_target(place, ("id", "n")) == in_file(track)


def test_a_table_whose_history_was_built_again_is_loaded_whole(place: Goal, track: Track) -> None:
    with place.opened() as target:
        history(target, _file_after(track, b"id,n\n1,a\n2,b\n"), track.history.steps[-1])
        step = track.add(b"id,n\n1,a\n2,c\n")
        assert history(target, _file(track), step, whole=True).way is Way.WHOLE
    assert in_target(place, ("id", "n")) == in_file(track)
    if place.kind == "postgresql":
        found = place.ask("SELECT indexname FROM pg_indexes WHERE schemaname = 'acc' AND tablename = 'users'")
        assert found == [("users_dcsync_row",)]


def test_a_type_that_changed_loads_the_table_whole(place: Goal, track: Track) -> None:
    with place.opened() as target:
        history(target, _file_after(track, b"id\n1\n"), track.history.steps[-1])
        step = track.add(b"id\n2\n")
        assert history(target, _file(track), step, types={"id": "BIGINT"}).way is Way.WHOLE
    assert [row[0] for row in place.rows(columns="id")] == [1, 2]


def test_a_table_changes_from_latest_to_history(place: Goal, tmp_path: Path, track: Track) -> None:
    with place.opened() as target:
        latest(target, tmp_path, b"id\n1\n")
        loaded = history(target, _file_after(track, b"id\n1\n"), track.history.steps[-1])
        assert (loaded.way, target.shown()["users"].mode) == (Way.WHOLE, LoadMode.HISTORY)
    assert [row[0] for row in place.rows(columns="id")] == ["1"]


def test_a_new_column_stops_a_history_if_it_is_told_to(place: Goal, track: Track) -> None:
    with place.opened() as target:
        history(target, _file_after(track, b"id\n1\n"), track.history.steps[-1])
        step = track.add(b"id,city\n1,Oslo\n")
        with pytest.raises(LoadRefused, match="new column: city"):
            history(target, _file(track), step, on_new_column=NewColumn.STOP)
        assert target.shown()["users"].rows == 1
        assert history(target, _file(track), step).way is Way.CHANGES
    assert in_target(place, ("id", "city")) == in_file(track)


def test_a_value_that_its_type_refuses_leaves_the_history_as_it_is(place: Goal, track: Track) -> None:
    types = {"id": "BIGINT"}
    with place.opened() as target:
        history(target, _file_after(track, b"id\n1\n"), track.history.steps[-1], types=types)
        step = track.add(b"id\n1\nx\n")
        with pytest.raises(ValueRefused, match="column id: 'x' is not a BIGINT"):
            history(target, _file(track), step, types=types)
        assert target.shown()["users"].job == "job-0"
    assert [row[0] for row in place.rows(columns="id")] == [1]
