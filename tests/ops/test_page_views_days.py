"""`views.sql` has the types of the schema documents, and any day of a table, as DuckDB reads it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.rigs.histories import build
from tests.rigs.mirror import Mirror, add_extract
from tests.rigs.reports import ask, days, report, rows, schema_of, views_of

PAGE = "schemas/a.html"
ALL_TYPES = schema_of(
    id="string: UUID", at="timestamp: SQL", day="date: string", ok="boolean", size="number", n="int", more="number"
)
BODY = b"""id,at,day,ok,size,n,new
x,2026-11-20T07:37:48.000Z,2026-11-20,t,2.50,7,1
,2026-11-20 07:37:48.5,2026-11-20T00:00:00Z,FALSE,1e3,x,2
"",soon,,maybe,"",9223372036854775808,
"""


async def extracts(mirror: Mirror, *bodies: bytes, name: str = "a.csv", page: bytes = b"") -> list[Path]:
    """Publish one snapshot a day, at noon, the last one today. Return the folders below the data request's."""
    for index, body in enumerate(bodies):
        files = {name: body, **({PAGE: page} if page else {})}
        add_extract(mirror, files, days_ago=len(bodies) - 1 - index)
        await mirror.sync_one()
    await report(mirror)
    return mirror.snapshots()


async def test_latest_has_the_types_of_the_schema_documents(mirror: Mirror) -> None:
    await extracts(mirror, BODY, page=ALL_TYPES)

    described = ask(mirror, "SELECT column_name, column_type FROM (DESCRIBE latest.a)")
    assert dict(described) == {
        "id": "VARCHAR",
        "at": "TIMESTAMP",
        "day": "DATE",
        "ok": "BOOLEAN",
        "size": "DOUBLE",
        "n": "BIGINT",
        "new": "VARCHAR",
        "filename": "VARCHAR",
    }
    assert ask(mirror, "SELECT * EXCLUDE filename FROM latest.a") == [
        ("x", datetime(2026, 11, 20, 7, 37, 48), datetime(2026, 11, 20).date(), True, 2.5, 7, "1"),  # noqa: DTZ001 - UTC
        (None, datetime(2026, 11, 20, 7, 37, 48, 500000), datetime(2026, 11, 20).date(), False, 1000, None, "2"),  # noqa: DTZ001 - UTC
        ("", None, None, None, None, None, None),
    ]


TIMES = [
    ("2026-11-20T07:37:48.000Z", datetime(2026, 11, 20, 7, 37, 48)),  # noqa: DTZ001 - UTC
    ("2026-11-20 07:37:48", datetime(2026, 11, 20, 7, 37, 48)),  # noqa: DTZ001 - UTC
    ("2026-11-20T07:37:48+02:00", datetime(2026, 11, 20, 5, 37, 48)),  # noqa: DTZ001 - UTC
    ("2026-11-20 07:37:48.5-0130", datetime(2026, 11, 20, 9, 7, 48, 500000)),  # noqa: DTZ001 - UTC
    ("2026-11-20 07:37:48+00", datetime(2026, 11, 20, 7, 37, 48)),  # noqa: DTZ001 - UTC
    ("2026-11-20", datetime(2026, 11, 20)),  # noqa: DTZ001 - UTC
    ("2026-11-20T25:37:48+02:00", None),
]


async def test_times_are_in_utc_whatever_the_zone_of_the_session(mirror: Mirror) -> None:
    body = "at\n" + "".join(f"{text}\n" for text, _ in TIMES)
    await extracts(mirror, body.encode(), page=schema_of(at="timestamp: SQL"))

    with views_of(mirror.root) as connection:
        for zone in ("UTC", "America/New_York"):
            connection.execute(f"SET TimeZone = '{zone}'")
            found = connection.execute('SELECT "at" FROM latest.a').fetchall()
            assert found == [(time,) for _, time in TIMES]


async def test_a_value_that_does_not_fit_is_text_in_the_snapshots(mirror: Mirror) -> None:
    await extracts(mirror, BODY, page=ALL_TYPES)

    assert ask(mirror, 'SELECT id, "at", n FROM snapshots.a') == [
        ("x", "2026-11-20T07:37:48.000Z", "7"),
        (None, "2026-11-20 07:37:48.5", "x"),
        ("", "soon", "9223372036854775808"),
    ]


async def test_types_stay_the_same_whatever_the_values(mirror: Mirror) -> None:
    page = schema_of(id="number", at="timestamp: SQL")
    for body in (b"id,at\n", b"id,at\nx,y\n", b"id,at\n1,2026-11-20\n"):
        add_extract(mirror, {"a.csv": body, PAGE: page})
        await mirror.sync_one()
        mirror.clock.advance(60)
        await report(mirror)
        assert ask(mirror, "SELECT column_type FROM (DESCRIBE latest.a)")[:2] == [("DOUBLE",), ("TIMESTAMP",)]


async def test_without_schema_documents_columns_are_text(mirror: Mirror) -> None:
    await extracts(mirror, b"id,size\n1,2\n")

    assert ask(mirror, "SELECT id, size FROM latest.a") == [("1", "2")]


MOMENTS = [
    ("'2026-11-19'", []),
    ("'2026-11-20'", [1.0]),
    ("DATE '2026-11-21'", [1.0, 2.0]),
    ("'2030-01-01'", [1.0, 2.0, 3.0]),
    ("'2026-11-21 11:59:59'", [1.0]),
    ("TIMESTAMP '2026-11-21 12:00:00'", [1.0, 2.0]),
    ("'2026-11-21T12:00:00.000Z'", [1.0, 2.0]),
    ("'2026-11-21T12:30:00+01:00'", [1.0]),
    ("TIMESTAMPTZ '2026-11-21 13:00:00+01'", [1.0, 2.0]),
]


async def test_a_table_as_it_was_on_a_day_comes_from_the_newest_snapshot_of_then(mirror: Mirror) -> None:
    bodies = [b"id\n" + b"".join(b"%d\n" % number for number in range(1, count + 1)) for count in (1, 2, 3)]
    await extracts(mirror, *bodies, page=schema_of(id="number"))

    with views_of(mirror.root) as connection:
        for zone in ("UTC", "America/New_York"):
            connection.execute(f"SET TimeZone = '{zone}'")
            for moment, expected in MOMENTS:
                found = connection.execute(f"SELECT id FROM as_of.a({moment}) ORDER BY id").fetchall()  # noqa: S608
                assert found == [(number,) for number in expected], moment
        assert connection.execute("SELECT * FROM as_of.a('2026-11-20')").fetchall() == [(1.0,)]


async def test_a_day_ends_in_the_zone_of_the_mirror(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"timezone": "Pacific/Auckland"}
    await extracts(mirror, rows(1), rows(2))

    # The second one was completed at noon in UTC, when the next day had begun in Auckland.
    assert ask(mirror, "SELECT count(*) FROM as_of.a('2026-11-22')") == [(1,)]
    assert ask(mirror, "SELECT count(*) FROM as_of.a('2026-11-23')") == [(2,)]


async def test_a_day_with_a_bad_file_takes_no_other_day_away(mirror: Mirror) -> None:
    await extracts(mirror, rows(1), b'id\n"\xff', rows(3))

    assert ask(mirror, "SELECT count(*) FROM as_of.a('2026-11-20')") == [(1,)]
    assert ask(mirror, "SELECT count(*) FROM as_of.a('2026-11-22')") == [(3,)]
    with pytest.raises(duckdb.Error):
        ask(mirror, "FROM as_of.a('2026-11-21')")


async def test_a_day_of_a_table_whose_columns_changed_has_all_columns(mirror: Mirror) -> None:
    page = schema_of(old="number", new="number")
    await extracts(mirror, b"id,old\n1,1.5\n", b"new,id\n2.5,2\n", page=page)

    question = "SELECT id, old, new FROM as_of.a('{}')"
    assert ask(mirror, question.format("2026-11-21")) == [("1", 1.5, None)]
    assert ask(mirror, question.format("2026-11-22")) == [("2", None, 2.5)]


@pytest.mark.parametrize("column", ["day", "_day", "snapshot", "below", "s", "completed_at"])
async def test_no_name_of_a_column_is_mistaken_for_ours(mirror: Mirror, column: str) -> None:
    body = f"id,{column}\n1,2\n".encode()
    await extracts(mirror, body, page=schema_of(**{"id": "number", column: "number"}))

    assert ask(mirror, f"SELECT id, \"{column}\" FROM as_of.a(DATE '2026-11-22')") == [(1.0, 2.0)]  # noqa: S608 - ours


async def test_tables_that_have_the_rows_of_a_period_have_no_day(mirror: Mirror) -> None:
    await extracts(mirror, rows(1), name="activities_a.csv")

    with pytest.raises(duckdb.CatalogException):
        ask(mirror, "FROM as_of.activities_a('2026-11-22')")
    assert ask(mirror, "SELECT count(*) FROM history.activities_a") == [(1,)]


ROW_HISTORY = """COPY (SELECT * FROM (VALUES
    ('1', '10', TIMESTAMPTZ '2026-11-20 12:00:00+00', TIMESTAMPTZ '2026-11-21 12:00:00+00'),
    ('1', '11', TIMESTAMPTZ '2026-11-21 12:00:00+00', NULL),
    ('2', 'x', TIMESTAMPTZ '2026-11-20 12:00:00+00', NULL)) AS rows(id, size, _valid_from, _valid_to)) TO '{}'"""
LEDGER = """COPY (SELECT * FROM (VALUES
    ('1', '10', TIMESTAMPTZ '2026-11-20 12:00:00+00'),
    ('2', 'x', TIMESTAMPTZ '2026-11-21 12:00:00+00')) AS rows(id, size, _first_seen)) TO '{}'"""


def write_history(mirror: Mirror, copy: str, table: str = "a", folder: str = "history") -> None:
    above = next(mirror.root.glob("acme/*")) if folder == "history" else next(mirror.root.glob("account=acme/*"))
    (above / folder).mkdir()
    duckdb.execute(copy.format(above / folder / f"{table}.parquet"))


async def test_the_row_history_is_read_where_there_is_one(mirror: Mirror) -> None:
    page = schema_of(id="number", size="number", new="number")
    await extracts(mirror, b"id,size\n1,10\n2,x\n", b"id,size,new\n1,11,5\n2,x,\n", page=page)
    write_history(mirror, ROW_HISTORY)
    await report(mirror)

    assert ask(mirror, "SELECT id, size FROM history.a WHERE _valid_to IS NULL ORDER BY id") == [
        ("1", "11"),
        ("2", "x"),
    ]
    assert ask(mirror, "SELECT count(*) FROM snapshots.a") == [(4,)]
    question = "SELECT * FROM as_of.a('{}') ORDER BY id"
    # The history does not have the newest column yet.
    expected: list[tuple[str, list[Any]]] = [
        ("2026-11-19", []),
        ("2026-11-20", [(1.0, 10.0, None), (2.0, None, None)]),
        ("2026-11-21 11:59", [(1.0, 10.0, None), (2.0, None, None)]),
        ("2026-11-21 12:00", [(1.0, 11.0, None), (2.0, None, None)]),
        ("2026-11-22", [(1.0, 11.0, None), (2.0, None, None)]),
    ]
    assert [(day, ask(mirror, question.format(day))) for day, _ in expected] == expected


async def test_the_ledger_of_a_period_has_any_day(mirror: Mirror) -> None:
    await extracts(mirror, b"id,size\n1,10\n", b"id,size\n2,x\n", name="activities_a.csv")
    write_history(mirror, LEDGER, "activities_a")
    await report(mirror)

    assert ask(mirror, "SELECT id, _first_seen FROM history.activities_a LIMIT 1") == [
        ("1", datetime(2026, 11, 20, 12, tzinfo=UTC))
    ]
    assert ask(mirror, "FROM as_of.activities_a('2026-11-20')") == [("1", "10")]
    assert ask(mirror, "SELECT count(*) FROM as_of.activities_a('2026-11-21')") == [(2,)]


@pytest.mark.parametrize("layout", ["dated", "hive", "{account}/{request}/{job}"])
async def test_a_day_is_the_same_from_the_row_history_as_from_the_snapshots(mirror: Mirror, layout: str) -> None:
    if layout != "dated":
        mirror.config["mirror"] = {"layout": layout}
    page = schema_of(id="number", size="number", new="timestamp: SQL")
    bodies = [
        b"id,size\n1,10\n2,x\n2,x\n",
        b'id,size\n1,11\n2,x\n"",\n',
        b"new,id\n2026-11-22,3\n,4\n",
    ]
    for index, body in enumerate(bodies):
        window = b"id\n%d\n" % index
        add_extract(mirror, {"a.csv": body, "activities_a.csv": window, PAGE: page}, days_ago=2 - index)
        await mirror.sync()
    await report(mirror)
    question = "SELECT id, size, new FROM as_of.a('{}') ORDER BY ALL"
    moments = ["2026-11-19", "2026-11-20", "2026-11-21 11:59:59", "2026-11-21", "2026-11-22 12:00:00", "2030-01-01"]
    before = [ask(mirror, question.format(moment)) for moment in moments]

    assert (await build(mirror)).is_complete
    await report(mirror)

    assert ask(mirror, "SELECT count(*) FROM (DESCRIBE history.a) WHERE column_name = '_valid_from'") == [(1,)]
    assert [ask(mirror, question.format(moment)) for moment in moments] == before
    assert [len(found) for found in before] == [0, 3, 3, 3, 2, 2]
    activities = "SELECT id FROM as_of.activities_a('{}') ORDER BY 1"
    assert [len(ask(mirror, activities.format(moment))) for moment in moments] == [0, 1, 1, 2, 3, 3]


async def test_the_row_history_of_hives_layout_is_found(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"layout": "hive"}
    await days(mirror, rows(1))
    await report(mirror)
    write_history(mirror, ROW_HISTORY, folder="_history")
    await report(mirror)

    assert ask(mirror, "SELECT count(*) FROM history.a") == [(3,)]
    assert ask(mirror, "SELECT count(*) FROM snapshots.a") == [(1,)]


async def test_a_row_history_outlives_the_snapshots_of_its_table(mirror: Mirror) -> None:
    add_extract(mirror, {"a.csv": rows(1), "gone.csv": rows(1)})
    await mirror.sync()
    write_history(mirror, ROW_HISTORY, "b")
    duckdb.execute(LEDGER.format(next(mirror.root.glob("acme/*/history")) / "gone.parquet"))
    mirror.snapshots()[0].joinpath("gone.csv").unlink()
    await report(mirror)

    assert ask(mirror, "SELECT count(*) FROM history.b") == [(3,)]
    assert ask(mirror, "SELECT count(*) FROM as_of.b('2026-11-20')") == [(2,)]
    assert ask(mirror, "SELECT count(*) FROM history.gone") == [(2,)]
    with pytest.raises(duckdb.CatalogException):
        ask(mirror, "FROM snapshots.gone")


async def test_a_row_history_that_is_broken_leaves_all_other_views(mirror: Mirror) -> None:
    await extracts(mirror, rows(1))
    write_history(mirror, ROW_HISTORY)
    next(mirror.root.glob("acme/*/history/a.parquet")).write_bytes(b"PAR1")
    await report(mirror)

    with duckdb.connect() as connection:
        with pytest.raises(duckdb.Error, match=r"a\.parquet"):
            connection.execute((mirror.root / "views.sql").read_text())
        assert connection.execute("SELECT count(*) FROM latest.a").fetchall() == [(1,)]
        assert connection.execute("SELECT count(*) FROM snapshots.a").fetchall() == [(1,)]
