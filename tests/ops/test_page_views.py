"""`views.sql` answers questions about any mirror, as DuckDB reads it."""

from __future__ import annotations

import errno
import os
import re
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from tests.rigs.mirror import Mirror, add_extract, sidecar, status_of, tables
from tests.rigs.reports import ask, days, report, rows, views_of


async def test_questions_are_answered_from_the_newest_snapshot_and_from_all(mirror: Mirror) -> None:
    await days(mirror, b'id,amount\n1,2.5\n2,"3"\n', b'id,amount\n1,2.5\n2,"3"\n3,4\n')
    await report(mirror)

    assert ask(mirror, "SELECT count(*), sum(amount::DOUBLE) FROM latest.a") == [(3, 9.5)]
    assert ask(mirror, "SELECT snapshot, count(*) FROM history.a GROUP BY ALL ORDER BY ALL") == [
        (str(path.relative_to(path.parents[3])), count) for path, count in zip(mirror.snapshots(), (2, 3), strict=True)
    ]
    assert ask(mirror, "SELECT DISTINCT filename FROM history.a ORDER BY 1") == [
        (str(path / "a.csv"),) for path in mirror.snapshots()
    ]


async def test_columns_that_came_went_and_moved_are_matched_by_name(mirror: Mirror) -> None:
    await days(mirror, b"id,old\n1,a\n", b"new,id\nb,2\n", b"id,new,more\n3,c,d\n")
    await report(mirror)

    assert ask(mirror, "SELECT id, old, new, more FROM history.a ORDER BY id") == [
        ("1", "a", None, None),
        ("2", None, "b", None),
        ("3", None, "c", "d"),
    ]


async def test_types_that_drift_are_text_in_the_history(mirror: Mirror) -> None:
    await days(mirror, b"id\n1\n", b"id\nx\n", b"id\n2026-11-22\n")
    await report(mirror)

    assert ask(mirror, "SELECT id FROM history.a ORDER BY filename") == [("1",), ("x",), ("2026-11-22",)]


async def test_a_table_as_duckdb_reads_it_has_as_many_rows_as_were_counted(mirror: Mirror) -> None:
    body = b'\xef\xbb\xbfid,"na ""me"""\r\n1,"a ""b""\nc"\r\n2,"\n\n"\r\n3,'
    await days(mirror, body)
    await report(mirror)

    (recorded,) = sidecar(mirror.snapshots()[0])["files"]
    assert recorded["rows"] == 3
    assert ask(mirror, "SELECT count(*) FROM latest.a") == [(3,)]
    assert ask(mirror, "SELECT count(*) FROM history.a") == [(3,)]


@pytest.mark.parametrize(
    ("settings", "has_latest"),
    [
        ({"layout": "hive"}, True),
        ({"latest": "none"}, False),
        ({"latest": "hardlinks"}, True),
        ({"layout": "{account}/{request}/{job}"}, True),
    ],
)
async def test_every_layout_can_be_asked(mirror: Mirror, settings: dict[str, str], has_latest: bool) -> None:
    mirror.config["mirror"] = settings
    await days(mirror, rows(2), rows(3))
    await report(mirror)

    assert ask(mirror, "SELECT count(*) FROM history.a") == [(5,)]
    if has_latest:
        assert ask(mirror, "SELECT count(*) FROM latest.a") == [(3,)]
    else:
        with pytest.raises(duckdb.CatalogException):
            ask(mirror, "SELECT count(*) FROM latest.a")


async def test_a_layout_that_does_not_keep_requests_apart_has_no_views(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"layout": "{account}/{date}/{request}-{job}", "latest": "none"}
    await days(mirror, rows(2))

    assert "My Company" in await report(mirror)
    assert "The mirror has no snapshots yet." in (mirror.root / "views.sql").read_text()


@pytest.mark.parametrize(
    "name", ["it's [a] 100%.csv", 'q"uote;--.csv', "Größe ع.csv", "select.csv", "a b.csv", "a*?.csv"]
)
async def test_no_name_is_too_odd_to_be_asked(mirror: Mirror, name: str) -> None:
    await days(mirror, rows(1), rows(2), name=name)
    await report(mirror)

    (view,) = ask(mirror, "SELECT view_name FROM duckdb_views() WHERE schema_name = 'history'")
    quoted = view[0].replace('"', '""')
    assert ask(mirror, f'SELECT count(*) FROM history."{quoted}"') == [(3,)]  # noqa: S608 - of our own making
    assert ask(mirror, f'SELECT count(*) FROM latest."{quoted}"') == [(2,)]  # noqa: S608 - the same


@pytest.mark.parametrize("folder", ["it's [here] *?", "ünï $HOME {a,b} 5%"])
async def test_no_root_is_too_odd_to_be_asked(mirror: Mirror, folder: str) -> None:
    mirror.folder /= folder
    mirror.root.mkdir(parents=True)
    await days(mirror, rows(1), rows(2))
    await report(mirror)

    assert ask(mirror, "SELECT count(*) FROM history.a") == [(3,)]
    assert ask(mirror, "SELECT snapshot FROM history.a ORDER BY 1 LIMIT 1") == [
        (str(mirror.snapshots()[0].relative_to(mirror.snapshots()[0].parents[3])),)
    ]


async def test_tables_that_are_empty_or_gone_do_not_spoil_the_others(mirror: Mirror) -> None:
    for index, files in enumerate([{"gone.csv": rows(1), "a.csv": rows(1)}, {"empty.csv": b"", "a.csv": rows(1)}]):
        add_extract(mirror, files, days_ago=1 - index)
    await mirror.sync()
    await report(mirror)

    assert ask(mirror, "SELECT count(*) FROM history.gone") == [(1,)]
    assert ask(mirror, "SELECT count(*) FROM history.a") == [(2,)]
    assert ask(mirror, "SELECT view_name FROM duckdb_views() WHERE schema_name = 'latest'") == [("a",)]


UNREADABLE = {
    "not UTF-8": b"id,name\n1,\xff\xfe\n",
    "quotes that do not pair up": b'id,name\n1,"x\n2,y\n',
    "too many fields": b"id,name\n1,2,3\n",
    "text after a quote": b'id,name\n1,"a"b\n',
    "UTF-16": "id,name\n1,2\n".encode("utf-16"),
    "two columns of one name": b"id,ID\n1,\xff\n",
}


@pytest.mark.parametrize("how", UNREADABLE)
async def test_a_table_that_duckdb_cannot_read_fails_in_its_own_views_only(mirror: Mirror, how: str) -> None:
    names = ("a.csv", "m.csv", "z.csv")
    for day in (1, 0):
        add_extract(mirror, {name: UNREADABLE[how] if name == "m.csv" else rows(2) for name in names}, days_ago=day)
    await mirror.sync()
    await report(mirror)

    with views_of(mirror.root) as connection:
        for view in ("latest.a", "latest.z"):
            assert connection.execute(f"SELECT count(*) FROM {view}").fetchone() == (2,)  # noqa: S608 - our own
        for view in ("history.a", "history.z", "snapshots.a", "snapshots.z"):
            assert connection.execute(f"SELECT count(*) FROM {view}").fetchone() == (4,)  # noqa: S608 - the same
        for view in ("latest.m", "snapshots.m", "history.m"):
            with pytest.raises(duckdb.Error, match=r"m\.csv|CSV Error|sniffing"):
                connection.execute(f"FROM {view}").fetchall()


async def test_a_bad_day_of_a_table_whose_columns_changed_fails_alone(mirror: Mirror) -> None:
    await days(mirror, b"id,old\n1,a\n", b'id,new\n"2,\xff\n', b"new,id\nb,3\n")
    await report(mirror)
    good, bad, newest = (str(path.relative_to(path.parents[3])) for path in mirror.snapshots())

    with views_of(mirror.root) as connection:
        question = "SELECT id, old, new FROM snapshots.a WHERE snapshot = ?"
        assert connection.execute(question, [good]).fetchall() == [("1", "a", None)]
        assert connection.execute(question, [newest]).fetchall() == [("3", None, "b")]
        with pytest.raises(duckdb.Error):
            connection.execute(question, [bad]).fetchall()


async def test_files_that_were_removed_by_hand_take_no_view_away(mirror: Mirror) -> None:
    for day in (1, 0):
        add_extract(mirror, {name: rows(2) for name in ("a.csv", "m.csv", "z.csv")}, days_ago=day)
    await mirror.sync()
    older, newest = mirror.snapshots()
    (newest / "m.csv").unlink()
    (newest / "a.csv").unlink()
    (older / "a.csv").unlink()
    await report(mirror)

    assert ask(mirror, "SELECT schema_name, view_name FROM duckdb_views() WHERE NOT internal ORDER BY ALL") == [
        ("history", "m"),
        ("history", "z"),
        ("latest", "z"),
        ("snapshots", "m"),
        ("snapshots", "z"),
    ]
    assert ask(mirror, "SELECT count(*) FROM history.m") == [(2,)]


async def test_two_requests_have_a_database_each(mirror: Mirror) -> None:
    for description, count in (("One", 1), ("Two", 2)):
        request = mirror.world.add_request(description)
        add_extract(mirror, {"a.csv": rows(count)}, request=request)
        mirror.clock.advance(timedelta(minutes=1).total_seconds())
    await mirror.sync()
    await report(mirror)

    names = [
        name
        for (name,) in ask(mirror, "SELECT DISTINCT database_name FROM duckdb_views() WHERE NOT internal ORDER BY 1")
    ]
    assert [re.sub(r"_[0-9a-f]{8}$", "", name) for name in names] == ["acme_one", "acme_two"]
    counts = [ask(mirror, f'SELECT count(*) FROM "{name}".latest.a') for name in names]  # noqa: S608 - the same
    assert counts == [[(1,)], [(2,)]]


async def test_it_may_be_read_twice_in_one_session(mirror: Mirror) -> None:
    await days(mirror, rows(1))
    await report(mirror)
    text = (mirror.root / "views.sql").read_text()

    with duckdb.connect() as connection:
        connection.execute(text)
        connection.execute(text)
        assert connection.execute("SELECT count(*) FROM latest.a").fetchall() == [(1,)]


async def test_a_data_request_that_cannot_be_read_takes_no_other_view_away(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    for description in ("Readable", "Locked"):
        add_extract(mirror, tables(1), request=mirror.world.add_request(description))
    is_file = Path.is_file

    def refuse(path: Path) -> bool:
        if "locked-" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    await mirror.run()

    assert "readable" in (mirror.root / "views.sql").read_text()
    status = await status_of(mirror)
    assert [item.alert.code for account in status.accounts for item in account.alerts] == []
