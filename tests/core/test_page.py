"""What the report page shows."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from dcsync.core import page as report
from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.anomaly import TableWarning
from dcsync.core.calendar import Day, Mark
from dcsync.core.coverage import Days
from dcsync.core.diff import compare
from dcsync.core.freshness import FreshnessState
from dcsync.core.model import JobId, StoredFile
from dcsync.core.page import Missing, RequestHistory
from dcsync.core.page_alerts import Line
from dcsync.core.page_view import FreshnessView, Page, RequestView, SchemaRow, SnapshotRow
from dcsync.core.summary import PastSnapshot, Summary
from dcsync.core.table import ColumnChange, TableFacts
from dcsync.core.verdict import Tone
from tests.fakes import NOON, REQUEST_ID, make_stored
from tests.rigs.pages import make_account, make_freshness, make_history, make_past


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

    assert (found.newest, found.newest_target, found.age) == ("none yet", None, "")
    assert found.freshness == FreshnessView(tone=Tone.UNKNOWN, badge="", next_expected="", missed="", ends="")
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
        alerts=[Alert.of(AlertCode.T_LOGIN, account="acme", message="run dcsync login")],
    )

    found = report.page([account], now=NOON)

    assert found.alerts.lines == (
        Line(code="T-LOGIN", text="run dcsync login", account="acme", is_critical=True),
        Line(
            code="L-ROWS",
            text="t\\u202e.csv has 1 rows",
            account="acme",
            is_critical=False,
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
    alerts = [Alert.of(AlertCode.L_LOST, account="acme", message=str(number)) for number in range(100)]

    found = report.page(
        [make_account(make_history(*snapshots, newest=compare(before, after)), alerts=alerts)], now=NOON
    )

    (request,) = found.accounts[0].requests
    assert (len(request.snapshots), request.snapshots_left) == (report.MOST_SNAPSHOTS, 800)
    assert (len(request.tables), request.tables_left) == (report.MOST_TABLES, 100)
    assert (len(request.schema), request.schema_left) == (report.MOST_SCHEMA_CHANGES, 199_700)
    assert (found.alerts.count, len(found.alerts.items), found.alerts.left) == (100, 60, 40)


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

    assert view(*hourly).freshness.badge == "Overdue (usually every 1 hours)"
    assert view(*weekly).freshness.badge == "Overdue (usually every 7 days)"


# --- freshness --------------------------------------------------------------------------------------------------------


def test_the_freshness_is_told_in_words() -> None:
    freshness = make_freshness(
        FreshnessState.LATE, 27, 3, next_expected_at=NOON + timedelta(hours=20), ends_at=NOON + timedelta(days=60)
    )

    assert view(make_past(days_ago=2), freshness=freshness).freshness == FreshnessView(
        tone=Tone.BAD,
        badge="Overdue",
        next_expected="2026-11-23 08:00",
        missed="2 since 2026-11-21 09:00",
        ends="2027-01-21 12:00",
    )


def test_without_an_end_and_with_nothing_to_expect_it_says_so() -> None:
    found = view(make_past(), freshness=make_freshness(FreshnessState.RETIRED)).freshness

    assert found == FreshnessView(tone=Tone.OVER, badge="Retired", next_expected="none", missed="none", ends="no end")


@pytest.mark.parametrize("state", FreshnessState)
def test_every_state_has_a_badge(state: FreshnessState) -> None:
    assert view(freshness=make_freshness(state)).freshness.badge


def test_the_calendar_shows_the_days_whose_slot_brought_nothing() -> None:
    found = view(
        make_past(1, days_ago=4),
        make_past(2, days_ago=2),
        skipped=[NOON - timedelta(days=3), NOON - timedelta(days=9)],
        freshness=make_freshness(FreshnessState.LATE, 24),
    )

    assert [(day.number, day.mark, day.words) for day in days(found)] == [
        (18, Mark.SNAPSHOT, "12:00 2.0 KiB"),
        (19, Mark.MISSED, "no extract (expected at 12:00)"),
        (20, Mark.SNAPSHOT, "12:00 2.0 KiB"),
        (21, Mark.MISSED, "no extract (expected at 12:00)"),
    ]
    assert found.missed_days == "2026-11-21, 2026-11-19, 2026-11-13"


def test_a_day_with_a_snapshot_of_another_slot_is_missing_and_leads_to_it() -> None:
    found = view(make_past(1, days_ago=1.2), make_past(2, days_ago=1), skipped=[NOON - timedelta(days=1)])

    (day,) = [day for day in days(found) if day.number == 21]
    assert (day.mark, day.target is not None) == (Mark.MISSED, True)


def test_many_missed_days_are_cut_in_words() -> None:
    found = view(make_past(days_ago=99), skipped=[NOON - timedelta(days=number) for number in range(20)])

    assert found.missed_days.count("2026-") == report.MOST_MISSED
    assert found.missed_days.endswith(" and 8 more")


def test_the_page_opens_with_the_verdict_and_knows_from_when_it_is_outdated() -> None:
    found = report.page(
        [make_account(make_history(freshness=make_freshness()), make_history())],
        now=NOON,
        zone=ZoneInfo("Europe/Berlin"),
        stale_after=timedelta(hours=3),
    )

    assert (found.verdict.tone, found.verdict.words) == (Tone.GOOD, "Today is complete: 1 of 1 data request")
    assert (found.written_at, found.written_at_utc) == ("2026-11-22 13:00+0100", "2026-11-22T12:00:00Z")
    assert (found.stale_s, found.stale_after) == (3 * 3600, "3 hours")


def test_days_that_no_window_covers_are_marked_and_said() -> None:
    gaps = [
        Days(first=date(2026, 11, 16), last=date(2026, 11, 17)),
        Days(first=date(2026, 11, 20), last=date(2026, 11, 20)),
    ]
    found = view(make_past(1, days_ago=5), gaps=gaps)

    assert [(day.number, day.mark) for day in days(found)] == [
        (16, Mark.GAP),
        (17, Mark.SNAPSHOT),
        (20, Mark.GAP),
    ]
    assert found.gap_days == "2026-11-20, 2026-11-16 to 2026-11-17"
    many = [Days(first=date(2026, month, 1), last=date(2026, month, 9)) for month in range(1, 13)]
    assert view(gaps=[*many, *gaps]).gap_days.endswith(" and 2 more periods")
