"""What the report page shows."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from dcsync.core import page as report
from dcsync.core.anomaly import TableWarning
from dcsync.core.calendar import Day, Mark
from dcsync.core.diff import compare
from dcsync.core.model import JobId, StoredFile
from dcsync.core.page import Item, Missing, Page, RequestHistory, RequestView, SchemaRow, SnapshotRow
from dcsync.core.summary import PastSnapshot, Summary
from dcsync.core.table import ColumnChange, TableFacts
from tests.fakes import NOON, REQUEST_ID, make_stored
from tests.rigs.pages import make_account, make_history, make_past


def page_of(*requests: RequestHistory, **options: Any) -> Page:
    return report.page([make_account(*requests)], now=NOON, version="1.0", **options)


def view(*snapshots: PastSnapshot, **changes: Any) -> RequestView:
    return page_of(make_history(*snapshots, **changes)).accounts[0].requests[0]


def days(request: RequestView) -> list[Day]:
    return [
        day
        for _, months in request.years
        for month in months
        for week in month.weeks
        for day in week
        if day is not None and day.mark is not None
    ]


def test_before_the_first_snapshot_there_is_nothing_to_show_but_that() -> None:
    found = view(folder=None, latest=None)

    assert (found.newest, found.newest_target, found.age, found.late) == ("none yet", None, "", None)
    assert (found.count, found.size, found.rows, found.files) == (0, "-", "-", "-")
    assert (found.charts, found.years, found.tables, found.schema, found.snapshots) == ((), (), (), (), ())
    assert (found.folder, found.latest, found.unchanged) == (None, None, None)


def test_freshness_is_told_in_the_mirror_s_zone() -> None:
    (account,) = page_of(make_history(make_past(days_ago=1)), zone=ZoneInfo("Europe/Berlin")).accounts

    assert account.last_poll == "2026-11-22 13:00+0100"
    assert account.last_success == "never"
    assert account.requests[0].newest == "2026-11-21 13:00+0100"
    assert account.requests[0].age == "24 h old when this page was written"
    assert page_of(zone=ZoneInfo("Europe/Berlin")).zone == "Europe/Berlin"
    assert (page_of().zone, page_of().written_at) == ("UTC", "2026-11-22 12:00")


def test_links_are_relative_and_encoded() -> None:
    found = view(make_past(folder="ac me/a:b/2026/x?#y"), folder="account=ac me/r", latest="account=ac me/r/_latest")

    assert found.newest_target == "./ac%20me/a%3Ab/2026/x%3F%23y/"
    assert found.folder == "./account%3Dac%20me/r/"
    assert found.latest == "./account%3Dac%20me/r/_latest/"


def test_a_pruned_snapshot_counts_in_the_history_and_leads_nowhere() -> None:
    found = view(make_past(1, days_ago=2, is_pruned=True), make_past(2, days_ago=1))

    assert (found.count, found.pruned) == (1, 1)
    assert [row.target is None for row in found.snapshots] == [False, True]
    assert [day.mark for day in days(found)] == [Mark.PRUNED, Mark.SNAPSHOT]
    assert [chart.title for chart in found.charts] == ["Size", "Rows"]


def test_charts_say_in_words_what_they_show() -> None:
    found = view(
        make_past(1, days_ago=2, summary=Summary(files=1, size=1024, rows=None)),
        make_past(2, days_ago=1, summary=Summary(files=1, size=4096, rows=7)),
        make_past(3, summary=Summary(files=1, size=2048, rows=1234)),
        make_past(4, completed_at=None),
    )

    assert [chart.words for chart in found.charts] == [
        "Size of 3 snapshots, from 1.0 KiB on 2026-11-20 to 2.0 KiB on 2026-11-22; min 1.0 KiB, max 4.0 KiB",
        "Rows of 2 snapshots, from 7 on 2026-11-21 to 1,234 on 2026-11-22; min 7, max 1,234",
    ]
    assert found.charts[0].first == "2026-11-20"
    assert found.charts[0].most == "4.0 KiB"


def test_a_snapshot_without_a_time_stands_in_the_list_alone() -> None:
    found = view(make_past(completed_at=None))

    assert (found.newest, found.age, days(found)) == ("undated", "", [])
    assert found.snapshots[0].when == "undated"


def test_the_calendar_shows_warnings_and_losses() -> None:
    warned = Summary(files=1, size=1024, warnings=(TableWarning(code="L-ROWS", table="t.csv", message="m"),))
    found = view(
        make_past(1, days_ago=3),
        make_past(2, days_ago=2, summary=warned),
        missing=[
            Missing(completed_at=NOON - timedelta(days=1), words="no snapshot: gone"),
            Missing(completed_at=NOON - timedelta(days=300), words="before the first"),
        ],
    )

    assert [(day.number, day.mark, day.words) for day in days(found)] == [
        (19, Mark.SNAPSHOT, "12:00 2.0 KiB"),
        (20, Mark.WARNED, "12:00 1.0 KiB"),
        (21, Mark.LOST, "no snapshot: gone"),
    ]


def test_losses_are_shown_before_the_first_snapshot() -> None:
    found = view(missing=[Missing(completed_at=NOON, words="no snapshot: expired")])

    assert [day.mark for day in days(found)] == [Mark.LOST]


def test_a_calendar_goes_by_years_newest_first() -> None:
    assert [year for year, _ in view(make_past(1, days_ago=800), make_past(2)).years] == [2026, 2024]


def test_the_list_says_what_changed() -> None:
    summary = Summary(
        files=1234, size=2048, rows=10, changed=2, removed=1, warnings=(TableWarning(code="c", table="t", message="m"),)
    )

    assert view(make_past(summary=summary)).snapshots == (
        SnapshotRow(
            when="2026-11-22 12:00",
            target="./acme/nightly-ce9bc188/2026/11/22/120000Z-00000000/",
            files="1,234",
            rows="10",
            size="2.0 KiB",
            fetched="1.0 KiB",
            changes="2 changed, 1 removed",
            warnings=1,
        ),
    )


def table(name: str, rows: int, *columns: str, version: int = 0) -> StoredFile:
    return make_stored(name, f"{rows}/{version}".encode(), table=TableFacts(header=columns or ("id",), rows=rows))


def test_changed_tables_stand_by_weight_with_their_rows_lately() -> None:
    before = [table("few.csv", 10), table("many.csv", 10), table("header.csv", 1, "a", "b"), table("gone.csv", 5)]
    after = [
        table("few.csv", 11),
        table("many.csv", 5000),
        table("header.csv", 1, "b", version=1),
        make_stored("README.html"),
    ]
    rows = {"few.csv": {JobId("job-1"): 10, JobId("job-2"): 11}, "many.csv": {JobId("job-2"): 5000}}

    found = view(make_past(1, days_ago=1), make_past(2), newest=compare(before, after), rows=rows)

    assert [(row.name, row.change, row.rows, row.more, row.columns) for row in found.tables] == [
        ("header.csv", "changed", "1", "+0", "-a"),
        ("many.csv", "changed", "5,000", "+4,990", ""),
        ("few.csv", "changed", "11", "+1", ""),
        ("README.html", "added", "-", "", ""),
        ("gone.csv", "removed", "5", "", ""),
    ]
    assert found.tables[2].spark == "2,3.6 88,2.0"
    assert found.tables[1].spark == ""
    assert found.unchanged == 0
    assert found.tables[4].size == "3 B"


def test_schema_changes_stand_newest_first() -> None:
    one = Summary(files=1, size=1, columns=(ColumnChange(table="a.csv", added=("x",)),))
    two = Summary(files=1, size=1, columns=(ColumnChange(table="b.csv", removed=("y",), reordered=True),))

    found = view(
        make_past(1, days_ago=1, summary=one), make_past(2, summary=two), make_past(3, completed_at=None, summary=one)
    )

    assert found.schema == (
        SchemaRow(day="undated", table="a.csv", change="+x"),
        SchemaRow(day="2026-11-22", table="b.csv", change="-y, reordered"),
        SchemaRow(day="2026-11-21", table="a.csv", change="+x"),
    )


def test_a_long_change_of_columns_is_cut() -> None:
    change = ColumnChange(table="t", added=tuple(f"c{number}" for number in range(15)), removed=("r\n",))

    assert report.columns_text(change) == ", ".join([*(f"+c{number}" for number in range(12)), "-r\\n", "and 3 more"])


def test_alerts_come_first_from_the_account_then_from_the_latest_snapshot() -> None:
    warned = Summary(
        files=1, size=1, warnings=(TableWarning(code="L-ROWS", table="t\u202e.csv", message="has 1 rows"),)
    )
    account = make_account(
        make_history(make_past(1, days_ago=2, summary=replace(warned, rows=3)), make_past(2)),
        make_history(make_past(3, summary=warned), make_past(4, is_pruned=True), description=""),
        alerts=[("T-LOGIN", "run dcsync login")],
    )

    found = report.page([account], now=NOON)

    assert found.alerts == (
        Item(code="T-LOGIN", text="run dcsync login", account="acme"),
        Item(
            code="L-ROWS",
            text="has 1 rows",
            account="acme",
            table="t\\u202e.csv",
            request=REQUEST_ID,
            anchor="r0-1",
        ),
    )


def test_the_page_has_limits_and_says_what_it_leaves_out() -> None:
    changes = tuple(ColumnChange(table=f"t{number}.csv", added=("x",)) for number in range(100))
    snapshots = [
        make_past(number, days_ago=3000 - number, summary=Summary(files=1, size=1, columns=changes))
        for number in range(2000)
    ]
    before = [table(f"t{number}.csv", 1) for number in range(500)]
    after = [table(f"t{number}.csv", 2) for number in range(500)]
    alerts = [("C", str(number)) for number in range(100)]

    found = report.page(
        [make_account(make_history(*snapshots, newest=compare(before, after)), alerts=alerts)], now=NOON
    )

    (request,) = found.accounts[0].requests
    assert (len(request.snapshots), request.snapshots_left) == (report.MOST_SNAPSHOTS, 800)
    assert (len(request.tables), request.tables_left) == (report.MOST_TABLES, 100)
    assert (len(request.schema), request.schema_left) == (report.MOST_SCHEMA_CHANGES, 199_700)
    assert (len(found.alerts), found.alerts_left) == (report.MOST_ITEMS, 40)


def test_many_requests_share_the_page() -> None:
    snapshots = [make_past(number, days_ago=500 - number) for number in range(500)]

    found = page_of(*[make_history(*snapshots)] * 30)

    assert [(len(request.snapshots), request.snapshots_left) for request in found.accounts[0].requests] == [
        (40, 460)
    ] * 30


def daily(*days_ago: float) -> list[datetime]:
    return [NOON - timedelta(days=past) for past in days_ago]


@pytest.mark.parametrize(
    ("completed", "late"),
    [
        ([], None),
        (daily(100, 99), None),
        (daily(4, 3, 2, 1), None),
        (daily(5, 4, 3, 2.2), None),
        (daily(6, 5, 4, 3), timedelta(days=1)),
        # One gap, as after an outage, is no habit.
        (daily(40, 39, 38, 8, 7, 6, 5, 4), timedelta(days=1)),
        (daily(21, 14, 7), None),
        (daily(70, 63, 56, 29), timedelta(days=7)),
    ],
)
def test_late_is_what_is_late_by_its_own_habit(completed: list[datetime], late: timedelta | None) -> None:
    assert report.late_by(completed, NOON) == late


def test_the_habit_is_said() -> None:
    hourly = [make_past(number, days_ago=2 - number / 24) for number in range(5)]
    weekly = [make_past(number, days_ago=70 - 7 * number) for number in range(5)]

    assert view(*hourly).late == "1 hours"
    assert view(*weekly).late == "7 days"
