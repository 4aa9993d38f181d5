"""The report and `views.sql` are written after a run, from what the manifest knows, and never fail it."""

from __future__ import annotations

import errno
import os
import re
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountId, AccountName, JobId
from dcsync.ops.alerts.collect import AlertSources
from dcsync.ops.context import AccountSettings, SyncContext
from dcsync.ops.mirroring.outcome import AccountOutcome
from dcsync.ops.page import write_report
from dcsync.ops.status import account_statuses
from tests.ops.test_diff import forget_tables
from tests.rigs.mirror import Mirror, add_extract, sidecar, status_of, tables

ACME = AccountName("acme")


async def write(context: SyncContext, *, retired: tuple[str, ...] = (), **options: Any) -> None:
    """Write the report as what follows a run does."""
    account = AccountSettings(name=ACME, id=AccountId("acme"), retired=retired)
    sources = AlertSources(account=account, root=context.root.path, **options)
    statuses = await account_statuses(context.manifest, [sources], context.clock.now(), stale_after=timedelta(days=2))
    await write_report(context, statuses, stale_after=timedelta(days=2))


async def report(mirror: Mirror) -> str:
    """Write the report and return the page."""
    async with mirror.opened() as context:
        await write(context)
    return (mirror.root / "index.html").read_text()


async def days(mirror: Mirror, *bodies: bytes, name: str = "a.csv", **options: Any) -> list[AccountOutcome]:
    """Publish one snapshot a day with these bodies of one table, the last one today."""
    outcomes = []
    for index, body in enumerate(bodies):
        add_extract(mirror, {name: body}, days_ago=len(bodies) - 1 - index, **options)
        outcomes.append(await mirror.sync_one())
    return outcomes


def rows(count: int, header: bytes = b"id") -> bytes:
    return header + b"\n" + b"1\n" * count


# --- the page ---------------------------------------------------------------------------------------------------------


async def test_the_page_shows_each_request_with_its_newest_snapshot(mirror: Mirror) -> None:
    await days(mirror, rows(10), rows(20, b"id,name"))

    page = await report(mirror)

    newest = mirror.snapshots()[-1].relative_to(mirror.root)
    assert f'href="./{newest}/"' in page
    assert "My Company Data Extract" in page
    assert ">+10<" in page
    assert ">+name<" in page
    assert "No alerts." in page
    assert "Size of 2 snapshots" in page
    assert 'href="./acme/my-company-data-extract-' in page


async def test_the_page_opens_with_the_verdict_of_today_and_marks_the_days_that_are_missing(mirror: Mirror) -> None:
    for days_ago in (8, 7, 6, 5, 3, 2, 1):
        add_extract(mirror, {"a.csv": rows(1)}, days_ago=days_ago + 0.1)
    await mirror.sync()

    page = await report(mirror)
    assert 'id="verdict">Today is complete: 1 of 1 data request</p>' in page
    assert "<dt>Missing</dt><dd>none</dd>" in page
    assert "<dt>Schedule ends</dt><dd>no end</dd>" in page
    assert "Missing days: 2026-11-18." in page
    assert page.count('<td class="missed"') == 1

    mirror.clock.advance(2 * 86400)
    await mirror.sync()
    page = await report(mirror)
    assert 'class="verdict bad" id="verdict">Today is incomplete: ' in page
    assert re.search(r"the extract of &#39;My Company Data Extract&#39; is \d+ hours overdue \(2 missing\)</p>", page)
    assert re.search(r"<dt>Missing</dt><dd>2 since 2026-11-2", page)
    assert page.count('<td class="missed"') == 3

    add_extract(mirror, {"a.csv": rows(1)})
    await mirror.sync()
    assert "Today is complete: 1 of 1 data request" in await report(mirror)


async def test_a_retired_request_is_not_missed_in_the_verdict(mirror: Mirror) -> None:
    await days(mirror, rows(1))
    mirror.clock.advance(9 * 86400)
    await mirror.sync()
    async with mirror.opened() as context:
        await write(context, retired=("My Company*",))

    page = (mirror.root / "index.html").read_text()
    assert "Nothing is due: 1 data request is over" in page
    assert 'class="badge over">Retired<' in page


async def test_the_page_says_from_when_it_is_outdated(mirror: Mirror) -> None:
    page = await report(mirror)

    assert 'datetime="2026-11-22T12:00:00Z" data-stale-s="172800">2026-11-22 12:00 UTC</time>' in page
    assert "If that was more than 2 days ago, dcsync has stopped or cannot write it" in page


async def test_an_empty_mirror_has_a_report_too(mirror: Mirror) -> None:
    assert "No data requests are known yet." in await report(mirror)
    assert "The mirror has no snapshots yet." in (mirror.root / "views.sql").read_text()


async def test_what_holds_up_all_accounts_and_what_is_lost_is_on_top(mirror: Mirror) -> None:
    await days(mirror, rows(1))
    job = add_extract(mirror, {"a.csv": rows(2)})
    await mirror.sync()
    async with mirror.opened() as context:
        await context.manifest.move(ACME, JobId(job), JobState.EXPIRED, at=mirror.clock.now(), reason="it is gone")
        await write(context, token=Alert.of(AlertCode.T_LOGIN, account=ACME, message="run dcsync login"))

    page = (mirror.root / "index.html").read_text()
    alerts = page[page.index("<section") : page.index("</section>")]
    assert "run dcsync login" in alerts
    assert "it is gone" in alerts
    assert 'class="lost"' in page


async def test_a_manifest_of_an_older_version_has_a_report_with_what_it_knows(mirror: Mirror) -> None:
    await days(mirror, rows(10), rows(20))
    async with mirror.opened() as context:
        await forget_tables(context.manifest)

    page = await report(mirror)

    assert "Size of 2 snapshots" in page
    assert "Rows of 2" not in page


async def test_a_delta_request_has_no_latest(mirror: Mirror) -> None:
    request = mirror.world.add_request("Changes", service_groups=("cdcadmin",), date_range="YESTERDAY")
    await days(mirror, rows(10), request=request)

    page = await report(mirror)

    assert "Delta extract" in page
    assert ">latest<" not in page
    assert ".latest." not in (mirror.root / "views.sql").read_text().replace("SCHEMA", "")


async def test_pruned_snapshots_stay_in_the_history(mirror: Mirror) -> None:
    await days(mirror, rows(10), rows(20))
    async with mirror.opened() as context:
        first = min((await context.manifest.jobs(ACME)).values(), key=lambda known: str(known.job.completed_at))
        await context.manifest.move(ACME, first.job.id, JobState.PRUNED, at=mirror.clock.now())

    page = await report(mirror)

    assert "1 more pruned" in page
    assert "Rows of 2 snapshots, from 10 on" in page


# --- how it is written ------------------------------------------------------------------------------------------------


async def test_readers_see_the_old_page_or_the_new_one_and_may_read_it(mirror: Mirror) -> None:
    await days(mirror, rows(1))
    await report(mirror)
    before = (mirror.root / "index.html").stat().st_ino

    await report(mirror)

    assert (mirror.root / "index.html").stat().st_ino != before
    for name in ("index.html", "views.sql"):
        assert stat.S_IMODE((mirror.root / name).stat().st_mode) == 0o644
    assert not list(mirror.root.glob("*.new"))
    assert not list((mirror.root / ".dcsync").glob("*.new"))


async def test_a_symlink_in_its_place_is_not_followed(mirror: Mirror, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (mirror.root / "index.html").symlink_to(victim)

    await report(mirror)

    assert victim.read_text() == "untouched"
    assert not (mirror.root / "index.html").is_symlink()


@pytest.mark.parametrize(("name", "other"), [("index.html", "views.sql"), ("views.sql", "index.html")])
async def test_a_file_that_cannot_be_written_is_an_alert_and_the_other_is_written(
    mirror: Mirror, name: str, other: str
) -> None:
    (mirror.root / name).mkdir()

    add_extract(mirror, {"a.csv": rows(10)})
    await mirror.run()

    assert (mirror.root / other).is_file()
    (alert,) = [item.alert for item in (await status_of(mirror)).accounts[0].alerts]
    assert (alert.code, alert.subject) == ("P-REPORT", name)
    assert str(mirror.root / name) in alert.message
    assert alert.message.endswith(f" failed: writing {mirror.root / name}: it is a folder, not a regular file")
    assert "move it away" in alert.hint
    assert alert.hint.endswith(". The next poll writes it again")
    (mirror.root / name).rmdir()
    await mirror.run()
    assert (await status_of(mirror)).codes == []


# --- warnings ---------------------------------------------------------------------------------------------------------


async def test_a_table_that_lost_its_rows_is_warned_of_in_all_places(mirror: Mirror) -> None:
    outcomes = await days(mirror, rows(100), rows(104), rows(40))

    (published,) = outcomes[-1].published
    (warning,) = published.warnings
    assert (warning.code, warning.table) == ("L-ROWS", "a.csv")
    assert "has 40 rows, down from 102" in warning.message
    assert [outcome.published[0].warnings for outcome in outcomes[:-1]] == [(), ()]
    assert sidecar(mirror.snapshots()[-1])["warnings"] == [
        {"code": "L-ROWS", "table": "a.csv", "message": warning.message}
    ]
    page = await report(mirror)
    assert "1 alert<" in page
    assert warning.message in page
    assert 'class="warned"' in page


async def test_a_table_that_lost_columns_is_warned_of(mirror: Mirror) -> None:
    outcomes = await days(mirror, rows(3, b"id,name"), rows(3))

    assert [(warning.code, warning.table) for warning in outcomes[-1].published[0].warnings] == [("L-COLUMNS", "a.csv")]
    assert sidecar(mirror.snapshots()[-1])["changes"]["columns"] == [
        {"table": "a.csv", "added": [], "removed": ["name"], "reordered": False}
    ]


async def test_a_backfill_is_held_against_what_was_before_it_in_time(mirror: Mirror) -> None:
    await days(mirror, rows(1000))
    add_extract(mirror, {"a.csv": rows(10)}, days_ago=5)

    assert (await mirror.sync_one()).published[0].warnings == ()


async def test_a_lost_manifest_is_rebuilt_with_the_history(mirror: Mirror) -> None:
    await days(mirror, rows(100, b"id,name"), rows(40))
    before = await report(mirror)
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()
    await mirror.sync()

    page = await report(mirror)

    def told(text: str) -> str:
        """Leave out what is of the run: when it was, and what it fetched."""
        return re.sub(r"\d+(\.\d+)? [KMG]?i?B</td>", "", text[text.index("<article") :])

    assert told(page) == told(before)


# --- views.sql --------------------------------------------------------------------------------------------------------


def ask(mirror: Mirror, question: str) -> list[Any]:
    """Read `views.sql` as a user does, and ask."""
    with duckdb.connect() as connection:
        connection.execute((mirror.root / "views.sql").read_text())
        return connection.execute(question).fetchall()


async def test_questions_are_answered_from_the_newest_snapshot_and_from_all(mirror: Mirror) -> None:
    await days(mirror, b'id,amount\n1,2.5\n2,"3"\n', b'id,amount\n1,2.5\n2,"3"\n3,4\n')
    await report(mirror)

    assert ask(mirror, "SELECT count(*), sum(amount) FROM latest.a") == [(3, 9.5)]
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
    "a line that is too long": b"id,name\n1," + b"x" * 3_000_000 + b"\n",
    "two columns of one name": b"id,ID\n1,\xff\n",
}


@pytest.mark.parametrize("how", UNREADABLE)
async def test_a_table_that_duckdb_cannot_read_takes_no_other_view_away(mirror: Mirror, how: str) -> None:
    names = ("a.csv", "m.csv", "z.csv")
    for day in (1, 0):
        add_extract(mirror, {name: UNREADABLE[how] if name == "m.csv" else rows(2) for name in names}, days_ago=day)
    await mirror.sync()
    await report(mirror)

    with duckdb.connect() as connection:
        try:
            connection.execute((mirror.root / "views.sql").read_text())
        except duckdb.Error as error:
            assert "m.csv" in str(error)  # noqa: PT017 - whether it is raised depends on the fault
        for view in ("latest.a", "latest.z"):
            assert connection.execute(f"SELECT count(*) FROM {view}").fetchone() == (2,)  # noqa: S608 - our own
        for view in ("history.a", "history.z"):
            assert connection.execute(f"SELECT count(*) FROM {view}").fetchone() == (4,)  # noqa: S608 - the same


async def test_a_table_with_unpaired_quotes_leaves_the_others_their_types(mirror: Mirror) -> None:
    names = ("a.csv", "m.csv", "z.csv")
    add_extract(mirror, {n: b'id\n1\n"x\n' if n == "m.csv" else b"id\n1\n2\n" for n in names})
    await mirror.sync()
    await report(mirror)

    assert ask(mirror, "SELECT typeof(id) FROM latest.z LIMIT 1") == [("BIGINT",)]
    assert ask(mirror, "SELECT column_name FROM (DESCRIBE latest.m)")[0] == ("id",)


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
