"""Tables as in the newest snapshot, in real databases."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from dcsync.core.loads import NewColumn
from dcsync.errors import LoadFailed, LoadRefused, RowsUnreadable, ValueRefused
from dcsync.load import Way
from tests.rigs.loads import Goal, goal, latest, shows

USERS = b'id,name,note\r\n1,Ada,""\r\n2,"Grace ""H""",\r\n3,"a, b\r\nc",x\r\n'
TYPES = {"id": "BIGINT", "at": "TIMESTAMP", "day": "DATE", "ok": "BOOLEAN", "cost": "DECIMAL(12, 2)", "share": "DOUBLE"}


@pytest.fixture(params=["postgresql", "duckdb"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Goal:
    server = request.getfixturevalue("postgres_server") if request.param == "postgresql" else None
    return goal(request.param, tmp_path, server)


def test_a_table_has_exactly_the_rows_of_the_snapshot(place: Goal, tmp_path: Path) -> None:
    with place.opened() as target:
        assert target.shown() == {}
        loaded = latest(target, tmp_path, USERS)
        found = target.shown()
    assert (loaded.way, loaded.sent, loaded.shown.rows) == (Way.WHOLE, 3, 3)
    assert found == {"users": loaded.shown}
    assert place.rows() == [("1", "Ada", ""), ("2", 'Grace "H"', None), ("3", "a, b\r\nc", "x")]
    assert place.ask("SELECT table_name, mode, job, row_count FROM {t}._dcsync_loads") == [
        ("users", "latest", "job-1", 3)
    ]


def test_columns_have_the_types_of_the_schema_documents(place: Goal, tmp_path: Path) -> None:
    body = b"id,at,day,ok,cost,share,other\n7,2026-11-01 10:00:00.5,2026-11-02,true,12.50,0.25,007\n"
    body += b'8,2026-11-01T10:00:00+02:00,,"",,,\n'
    with place.opened() as target:
        latest(target, tmp_path, body, types=TYPES)
    zone = place.ask('SELECT CAST("at" AS varchar), id FROM {t}.users ORDER BY id')
    assert [row[0] for row in zone] == ["2026-11-01 10:00:00.5+00", "2026-11-01 08:00:00+00"]
    assert place.rows(columns="id, day, ok, cost, share, other") == [
        (7, date(2026, 11, 2), True, Decimal("12.50"), 0.25, "007"),
        (8, None, None, None, None, None),
    ]


def test_a_newer_snapshot_replaces_rows_and_columns(place: Goal, tmp_path: Path) -> None:
    with place.opened() as target:
        latest(target, tmp_path, USERS)
        latest(target, tmp_path, b"id,mail\n4,a@example.com\n", day=2, types=TYPES)
        assert target.shown()["users"].job == "job-2"
    assert place.rows() == [(4, "a@example.com")]


def test_an_unchanged_table_shows_the_newer_snapshot_without_a_load(place: Goal, tmp_path: Path) -> None:
    with place.opened() as target:
        latest(target, tmp_path, USERS)
        target.mark([shows(USERS, day=2), shows(b"other", table="others", day=2)])
        found = target.shown()
    assert set(found) == {"users"}
    assert (found["users"].job, found["users"].rows) == ("job-2", 3)


def test_a_mark_for_other_bytes_changes_nothing(place: Goal, tmp_path: Path) -> None:
    with place.opened() as target:
        latest(target, tmp_path, USERS)
        target.mark([shows(b"other bytes", day=2)])
        assert target.shown()["users"].job == "job-1"


def test_an_older_snapshot_never_replaces_a_newer_one(place: Goal, tmp_path: Path) -> None:
    with place.opened() as target:
        latest(target, tmp_path, USERS, day=2)
        old = latest(target, tmp_path, b"id\n9\n", day=1)
        again = latest(target, tmp_path, USERS, day=2)
        assert (old.way, again.way, target.shown()["users"].job) == (Way.ALREADY, Way.ALREADY, "job-2")
        assert latest(target, tmp_path, b"id\n9\n", day=1, seen=target.shown()["users"]).way is Way.WHOLE
    assert place.rows() == [("9",)]


def test_a_table_of_the_user_is_not_replaced(place: Goal, tmp_path: Path) -> None:
    with place.opened() as target:
        latest(target, tmp_path, USERS, table="others")
    place.tell("CREATE TABLE {t}.users (mine int)")
    with place.opened() as target, pytest.raises(LoadRefused, match="did not create") as caught:
        latest(target, tmp_path, USERS)
    assert (caught.value.table, caught.value.target) == ("users", target.name)
    assert place.rows() == []


def test_a_table_that_was_dropped_by_hand_is_loaded_again(place: Goal, tmp_path: Path) -> None:
    with place.opened() as target:
        latest(target, tmp_path, USERS)
    place.tell("DROP TABLE {t}.users")
    with place.opened() as target:
        assert target.shown() == {}
        assert latest(target, tmp_path, USERS).way is Way.WHOLE
    assert len(place.rows()) == 3


def test_a_new_column_stops_a_table_if_it_is_told_to(place: Goal, tmp_path: Path) -> None:
    with place.opened() as target:
        latest(target, tmp_path, USERS)
        with pytest.raises(LoadRefused, match="new column: mail"):
            latest(target, tmp_path, b"id,name,mail\n1,a,b\n", day=2, on_new_column=NewColumn.STOP)
        assert target.shown()["users"].job == "job-1"
        latest(target, tmp_path, b"id,name\n1,a\n", day=3, on_new_column=NewColumn.STOP)
    assert place.rows() == [("1", "a")]


def test_a_value_that_its_type_refuses_is_named_with_its_place(place: Goal, tmp_path: Path) -> None:
    with place.opened() as target:
        latest(target, tmp_path, USERS)
        with pytest.raises(ValueRefused, match="abc") as caught:
            latest(target, tmp_path, b"id,name\n1,a\nabc,b\n", day=2, types=TYPES)
        assert (caught.value.table, caught.value.column) == ("users", "id")
        assert caught.value.place in {"line 3", "row 2"}
        assert target.shown()["users"].job == "job-1"
    assert len(place.rows()) == 3


def test_a_record_with_too_few_fields_leaves_the_table_as_it_is(place: Goal, tmp_path: Path) -> None:
    with place.opened() as target:
        latest(target, tmp_path, USERS)
        with pytest.raises((RowsUnreadable, LoadFailed), match="users") as caught:
            latest(target, tmp_path, b"id,name,note\n1,a,b\n2,c\n", day=2)
    assert "3" in str(caught.value)
    assert len(place.rows()) == 3


def test_a_load_with_another_number_of_rows_than_the_snapshot_fails(place: Goal, tmp_path: Path) -> None:
    with place.opened() as target:
        with pytest.raises(LoadFailed, match="3 rows of 4"):
            latest(target, tmp_path, USERS, rows=4)
        assert target.shown() == {}
        assert latest(target, tmp_path, USERS, rows=3).shown.rows == 3


@pytest.mark.parametrize("body", [b"\\.\n\\.\n1\n", b'"a""b"\n\\.\n\\.x\n"\\."\n'], ids=["bare", "quoted"])
def test_a_line_that_ends_a_copy_in_older_versions_is_a_row(place: Goal, tmp_path: Path, body: bytes) -> None:
    with place.opened() as target:
        assert latest(target, tmp_path, body).sent == body.count(b"\n") - 1


@pytest.mark.parametrize(
    "body", [b"id,name\n1,a\n\n2,b\n\n", b"id,name\n1,a\n2,b"], ids=["blank lines", "no line break at the end"]
)
def test_a_file_that_the_database_does_not_take_for_csv_goes_through_duckdb(
    place: Goal, tmp_path: Path, body: bytes
) -> None:
    with place.opened() as target:
        latest(target, tmp_path, body)
    assert place.rows() == [("1", "a"), ("2", "b")]


def test_blank_lines_count_as_rows_only_for_dcsync(place: Goal, tmp_path: Path) -> None:
    with place.opened() as target:
        assert latest(target, tmp_path, b"id,name\n1,a\n\n2,b\n\n", rows=4).sent == 2
        assert latest(target, tmp_path, b"id\n1\n\n2\n", rows=3, day=2).sent == 3


def test_names_are_kept_and_only_cut_where_the_database_has_a_limit(place: Goal, tmp_path: Path) -> None:
    long = "é" * 60
    body = f'id,"a ""b""; %s",{long}1,{long}2\n1,2,3,4\n'.encode()
    with place.opened() as target:
        latest(target, tmp_path, body)
        latest(target, tmp_path, body, day=2, on_new_column=NewColumn.STOP)
    assert place.rows() == [("1", "2", "3", "4")]


def test_times_are_in_utc(place: Goal, tmp_path: Path) -> None:
    with place.opened() as target:
        latest(target, tmp_path, USERS)
        assert target.shown()["users"].completed == datetime(2026, 11, 2, 4, 30, tzinfo=UTC)
