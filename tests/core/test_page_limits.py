"""Where the page cuts its lists and texts, and when a data request without a schedule is overdue."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import pytest

from dcsync.core import page as report
from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.calendar import Mark
from dcsync.core.coverage import Days
from dcsync.core.diff import compare
from dcsync.core.model import JobId
from dcsync.core.page import Missing
from dcsync.core.row_changes import RowChanges, RowCounts
from dcsync.core.summary import Summary
from dcsync.core.table import ColumnChange
from tests.fakes import NOON
from tests.rigs.pages import make_account, make_history, make_past, make_table, page_of, view


def test_a_long_change_of_columns_is_cut() -> None:
    change = ColumnChange(table="t", added=tuple(f"c{number}" for number in range(15)), removed=("r\n",))

    assert report.columns_text(change) == ", ".join([*(f"+c{number}" for number in range(12)), "-r\\n", "and 3 more"])


def test_the_page_has_limits_and_says_what_it_leaves_out() -> None:
    changes = tuple(ColumnChange(table=f"t{number}.csv", added=("x",)) for number in range(100))
    snapshots = [
        make_past(number, days_ago=3000 - number, summary=Summary(files=1, size=1, columns=changes))
        for number in range(2000)
    ]
    before = [make_table(f"t{number}.csv", 1) for number in range(500)]
    after = [make_table(f"t{number}.csv", 2) for number in range(500)]
    alerts = [Alert.of(AlertCode.L_LOST, account="acme", message=str(number)) for number in range(100)]

    found = report.page(
        [make_account(make_history(*snapshots, newest=compare(before, after)), alerts=alerts)], now=NOON
    )

    (request,) = found.accounts[0].requests
    assert (len(request.snapshots), request.snapshots_left) == (report.MOST_SNAPSHOTS, 800)
    assert (len(request.tables), request.tables_left) == (report.MOST_TABLES, 100)
    assert (len(request.schema), request.schema_left) == (report.MOST_SCHEMA_CHANGES, 199_700)
    assert (found.alerts.count, len(found.alerts.items), found.alerts.left) == (100, 60, 40)


def test_counted_rows_stand_beside_the_table_and_projects_in_words() -> None:
    names = tuple(f"{'p' * 300}{number}" for number in range(20))
    counts = RowCounts(added=3000, removed=1, changed=2, added_names=names)
    changes = RowChanges(job=JobId("b"), against=JobId("a"), tables={"admin_projects.csv": counts})
    before, after = [make_table("admin_projects.csv", 1)], [make_table("admin_projects.csv", 2)]

    counted = view(newest=compare(before, after), changes=changes)
    uncounted = view(newest=compare(before, after))

    assert counted.tables[0].row_changes == "3,000 added, 1 removed, 2 changed"
    assert [len(sentence) < 700 for sentence in counted.row_changes] == [True, True]
    assert counted.row_changes[0].endswith(" and 2,994 more")
    assert (uncounted.tables[0].row_changes, uncounted.row_changes) == ("", ())


def test_many_requests_share_the_page() -> None:
    snapshots = [make_past(number, days_ago=500 - number) for number in range(500)]

    found = page_of(*[make_history(*snapshots)] * 30)

    assert [(len(request.snapshots), request.snapshots_left) for request in found.accounts[0].requests] == [
        (40, 460)
    ] * 30


def test_a_data_request_has_twenty_lines_however_many_there_are() -> None:
    snapshots = [make_past(number, days_ago=30 - number) for number in range(30)]

    found = page_of(*[make_history(*snapshots)] * 100)

    assert {(len(request.snapshots), request.snapshots_left) for request in found.accounts[0].requests} == {(20, 10)}


def test_a_long_name_is_cut() -> None:
    assert view(description="n" * 320).title == "n" * 320
    assert view(description="n" * 321).title == "n" * 320 + "…"
    assert report.columns_text(ColumnChange(table="t", added=("c" * 80, "d" * 81))) == f"+{'c' * 80}, +{'d' * 80}…"
    lost = view(missing=[Missing(completed_at=NOON, words="w" * 81)])
    words = {day.words for _, (month,) in lost.years for week in month.weeks for day in week if day and day.mark}
    assert words == {"w" * 80 + "…"}


def test_the_newest_days_without_activities_are_marked() -> None:
    last = date(2026, 11, 20)
    found = view(gaps=[Days(first=last - timedelta(days=404), last=last)])

    marked = [
        date(month.year, number, day.number)
        for _, months in found.years
        for month in months
        for number in [datetime.strptime(month.name, "%B %Y").astimezone().month]
        for week in month.weeks
        for day in week
        if day is not None and day.mark is Mark.GAP
    ]
    assert (len(marked), min(marked), max(marked)) == (400, last - timedelta(days=399), last)


@pytest.mark.parametrize(("count", "rest"), [(1, ""), (12, ""), (13, " and 1 more"), (20, " and 8 more")])
def test_twelve_missed_days_and_gaps_are_named(count: int, rest: str) -> None:
    days = [NOON - timedelta(days=2 * number) for number in range(count)]
    gaps = [Days(first=moment.date(), last=moment.date()) for moment in reversed(days)]

    found = view(make_past(days_ago=99), skipped=days, gaps=gaps)

    named = ", ".join(f"{moment:%Y-%m-%d}" for moment in days[:12])
    assert found.missed_days == named + rest
    assert found.gap_days == named + (f"{rest} periods" if rest else "")


# --- lateness by habit ------------------------------------------------------------------------------------------------


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
        (daily(30, 27, 24), timedelta(days=3)),
        # More than twice the usual interval, and six hours.
        (daily(4 + 6 / 24, 3 + 6 / 24, 2 + 6 / 24), None),
        (daily(4 + 7 / 24, 3 + 7 / 24, 2 + 7 / 24), timedelta(days=1)),
        # Of these gaps, 9, 1, 1, 1, 2, 5, 5 and 5 days, the newest seven count.
        (daily(49, 40, 39, 38, 37, 35, 30, 25, 20), timedelta(days=2)),
        (daily(70, 63, 56, 29), timedelta(days=7)),
    ],
)
def test_late_is_what_is_late_by_its_own_habit(completed: list[datetime], late: timedelta | None) -> None:
    assert report.late_by(completed, NOON) == late


@pytest.mark.parametrize(
    ("hours", "said"),
    [(1, "1 hour"), (35, "35 hours"), (48, "2 days"), (7 * 24, "7 days")],
)
def test_the_habit_is_said(hours: int, said: str) -> None:
    snapshots = [make_past(number, days_ago=(20 - number) * hours / 24) for number in range(5)]

    assert view(*snapshots).freshness.badge == f"Overdue (usually every {said})"
