"""What the report page shows."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pytest

from dcsync.core import page as report
from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.anomaly import TableWarning
from dcsync.core.calendar import Day, Mark
from dcsync.core.coverage import Days
from dcsync.core.diff import compare
from dcsync.core.freshness import FreshnessState
from dcsync.core.model import JobId
from dcsync.core.page import Missing
from dcsync.core.page_alerts import Line
from dcsync.core.page_view import FreshnessView, RequestView, SchemaRow, SnapshotRow
from dcsync.core.summary import Summary
from dcsync.core.table import ColumnChange
from dcsync.core.verdict import Tone
from tests.fakes import NOON, REQUEST_ID, make_stored
from tests.rigs.pages import make_account, make_freshness, make_history, make_past, make_table, page_of, view


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
    assert (page_of().stale_s, page_of().stale_after) == (24 * 3600, "24 hours")


def test_a_data_request_is_called_by_its_description_or_else_its_id() -> None:
    assert view(description="Nightly").title == "Nightly"
    assert view(description="").title == REQUEST_ID


def test_the_newest_snapshot_is_the_last_one() -> None:
    found = view(make_past(1, days_ago=2), make_past(2, days_ago=1))

    assert (found.newest, found.schema_left) == ("2026-11-21 12:00", 0)


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
    assert [day.mark for day in days(view(skipped=[NOON]))] == [Mark.MISSED]


def test_what_is_missing_is_shown_from_the_time_of_the_first_snapshot_on() -> None:
    first, before = NOON - timedelta(days=5), NOON - timedelta(days=5, seconds=1)
    snapshots = make_past(1, days_ago=5), make_past(2, days_ago=1)

    for moment, marks in ((first, {Mark.LOST}), (before, {Mark.SNAPSHOT})):
        found = view(*snapshots, missing=[Missing(completed_at=moment, words="gone")])
        assert {day.mark for day in days(found) if day.number == 17} == marks
    for moment, marks in ((first, {Mark.MISSED}), (before, {Mark.SNAPSHOT})):
        found = view(*snapshots, skipped=[moment])
        assert {day.mark for day in days(found) if day.number == 17} == marks


def test_a_calendar_goes_by_years_newest_first() -> None:
    years = view(make_past(1, days_ago=800), make_past(2)).years

    assert [(year, [month.name for month in months]) for year, months in years] == [
        (2026, ["November 2026"]),
        (2024, ["September 2024"]),
    ]


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
    assert view(make_past(summary=Summary(files=1, size=1, added=3))).snapshots[0].changes == "3 added"


def test_changed_tables_stand_by_weight_with_their_rows_lately() -> None:
    before = [
        make_table("few.csv", 10),
        make_table("many.csv", 10),
        make_table("header.csv", 1, "a", "b"),
        make_table("gone.csv", 5),
    ]
    after = [
        make_table("few.csv", 11),
        make_table("many.csv", 5000),
        make_table("header.csv", 1, "b", version=1),
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


def test_tables_of_equal_rows_stand_by_the_change_of_their_size_then_by_name() -> None:
    sizes = {
        "much.html": (100, 200),
        "little.html": (300, 310),
        "a-new.html": (None, 50),
        "b-grown.html": (200, 250),
        "b-shrunk.html": (250, 200),
        "c-gone.html": (50, None),
        "y-new.html": (None, 50),
        "z-gone.html": (50, None),
    }
    before = [make_stored(name, b"1" * old) for name, (old, _) in sizes.items() if old is not None]
    after = [make_stored(name, b"2" * new) for name, (_, new) in sizes.items() if new is not None]

    found = view(make_past(), newest=compare(before, after))

    assert [row.name for row in found.tables] == [
        "much.html",
        "z-gone.html",
        "y-new.html",
        "c-gone.html",
        "b-shrunk.html",
        "b-grown.html",
        "a-new.html",
        "little.html",
    ]


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


def test_alerts_come_first_from_the_account_then_from_the_latest_snapshot() -> None:
    warned = Summary(
        files=1, size=1, warnings=(TableWarning(code="L-ROWS", table="t\u202e.csv", message="has 1 rows"),)
    )
    account = make_account(
        make_history(make_past(1, days_ago=2, summary=replace(warned, rows=3)), make_past(2)),
        make_history(make_past(3, summary=warned), make_past(4, is_pruned=True), description=""),
        make_history(make_past(5, summary=warned), description="n" * 81),
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
        Line(
            code="L-ROWS",
            text="t\\u202e.csv has 1 rows",
            account="acme",
            is_critical=False,
            request="n" * 80 + "…",
            anchor="r0-2",
        ),
    )


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
