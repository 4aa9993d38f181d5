"""The content of the report page, with every number and link as text. Pure.

Nothing here is HTML: the template escapes all of it. Names from outside are made printable first, so that no control
character and no change of the text's direction reaches the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from statistics import median
from urllib.parse import quote

from dcsync.core.alerts import Alert
from dcsync.core.calendar import Event, Mark, Month, months
from dcsync.core.chart import Point, chart, spark
from dcsync.core.coverage import Days
from dcsync.core.diff import FileDiff, SnapshotDiff
from dcsync.core.formatting import age_text, count_text, size_text
from dcsync.core.freshness import FreshnessState, RequestFreshness
from dcsync.core.model import JobId, RequestId
from dcsync.core.names import printable
from dcsync.core.page_alerts import Item, alert_item, alert_list, table_items
from dcsync.core.page_view import (
    AccountView,
    FreshnessView,
    History,
    Page,
    RequestView,
    SchemaRow,
    SnapshotRow,
    TableRow,
)
from dcsync.core.row_changes import RowChanges, counts_text, sentences
from dcsync.core.summary import PastSnapshot
from dcsync.core.table import ColumnChange
from dcsync.core.verdict import Tone, span_text, tone_of, verdict

#: The page stays below 2 MB, however many data requests there are. It says how much is not shown.
MOST_SNAPSHOTS = 1200
MOST_TABLES = 400
MOST_SCHEMA_CHANGES = 300
MOST_MISSED = 12
_MOST_GAPS = 400
_LEAST = 20
_MOST_COLUMNS = 12
_NAME = 320
_COLUMN = 80

#: A data request is overdue after this many of its usual intervals.
_LATE_INTERVALS = 2.0
_LATE_SLACK = timedelta(hours=6)
_LOOK_BACK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A job that was lost: its extract expired, or the job is quarantined."""

    completed_at: datetime
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHistory:
    """The history of a data request. `snapshots` are in order, oldest first. `folder` is that of the data request."""

    id: RequestId
    description: str
    folder: str | None
    latest: str | None
    is_delta: bool
    snapshots: Sequence[PastSnapshot]
    missing: Sequence[Missing] = ()
    #: None for a data request that the configuration does not mirror.
    freshness: RequestFreshness | None = None
    #: When the extracts of slots should have been complete that brought nothing, although later ones did.
    skipped: Sequence[datetime] = ()
    #: The days that the windows of no extract cover.
    gaps: Sequence[Days] = ()
    #: The latest snapshot compared with the previous one.
    newest: SnapshotDiff | None = None
    #: The rows of the tables that changed, by their original name and snapshot.
    rows: Mapping[str, Mapping[JobId, int]]
    #: The rows that differ between the two, if the row history has counted them.
    changes: RowChanges | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountHistory:
    """The history of an account. `alerts` are those without the warnings about tables."""

    name: str
    last_poll: datetime | None
    last_success: datetime | None
    alerts: Sequence[Alert]
    requests: Sequence[RequestHistory]


def page(
    accounts: Sequence[AccountHistory],
    *,
    now: datetime,
    zone: tzinfo = UTC,
    version: str = "",
    stale_after: timedelta = timedelta(days=1),
) -> Page:
    """Return the page for these accounts, as of `now`. It is outdated `stale_after` later unless it is rewritten."""
    requests = max(1, sum(len(account.requests) for account in accounts))
    view = _View(now=now, zone=zone, share=1 / requests)
    views = tuple(view.account(account, index) for index, account in enumerate(accounts))
    items = [item for index, account in enumerate(accounts) for item in _alerts(account, index)]
    return Page(
        verdict=verdict([_judged(account) for account in accounts], now=now, time_text=view.time),
        written_at=view.time(now),
        written_at_utc=f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        stale_s=int(stale_after.total_seconds()),
        stale_after=span_text(stale_after),
        version=version,
        zone="UTC" if zone is UTC else str(zone),
        alerts=alert_list(items),
        accounts=views,
    )


def link(folder: str) -> str:
    """Return the relative address of a folder below the root: `./` keeps a colon from reading as a scheme."""
    return f"./{quote(folder, errors='surrogatepass')}/"


def late_by(completed: Sequence[datetime], now: datetime) -> timedelta | None:
    """Return the usual interval of a data request whose next snapshot is overdue, or None.

    The last snapshots decide what is usual. A data request that ran once or twice has no usual interval.
    """
    times = completed[-_LOOK_BACK:]
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    if len(gaps) < 2:
        return None
    usual = timedelta(seconds=median(gaps))
    return usual if now - times[-1] > usual * _LATE_INTERVALS + _LATE_SLACK else None


def _alerts(account: AccountHistory, index: int) -> list[Item]:
    name = printable(account.name)
    items = [alert_item(alert, account=name) for alert in account.alerts]
    for place, request in enumerate(account.requests):
        newest = next((past for past in reversed(request.snapshots) if past.is_whole), None)
        title = printable(request.description, _COLUMN) or request.id
        warnings = () if newest is None else newest.summary.warnings
        items += table_items(warnings, account=name, request=title, anchor=_anchor(index, place))
    return items


def _judged(account: AccountHistory) -> tuple[str, list[RequestFreshness]]:
    return account.name, [request.freshness for request in account.requests if request.freshness is not None]


def _anchor(account: int, request: int) -> str:
    return f"r{account}-{request}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """Makes the parts of a page. `share` is the part of it that each data request may fill."""

    now: datetime
    zone: tzinfo
    share: float

    def account(self, account: AccountHistory, index: int) -> AccountView:
        return AccountView(
            name=printable(account.name),
            last_poll=self._when(account.last_poll),
            last_success=self._when(account.last_success),
            requests=tuple(
                self.request(request, _anchor(index, place)) for place, request in enumerate(account.requests)
            ),
        )

    def request(self, request: RequestHistory, anchor: str) -> RequestView:
        kept = [past for past in request.snapshots if past.is_whole]
        newest = kept[-1] if kept else None
        listed = request.snapshots[-self._most(MOST_SNAPSHOTS) :]
        missed = [*request.skipped]
        if request.freshness is not None:
            missed += [slot.due_at for slot in request.freshness.missed]
        tables = () if request.newest is None else (*request.newest.tables, *request.newest.others)
        # Sorted by importance: changed columns first, then the greatest change.
        tables = tuple(sorted(tables, key=_weight, reverse=True))
        shown = tables[: self._most(MOST_TABLES)]
        schema = [
            SchemaRow(day=self.day(past), table=printable(change.table, _NAME), change=columns_text(change))
            for past in reversed(request.snapshots)
            for change in past.summary.columns
        ]
        summary = None if newest is None else newest.summary
        return RequestView(
            anchor=anchor,
            title=printable(request.description, _NAME) or request.id,
            id=printable(request.id),
            folder=None if request.folder is None else link(request.folder),
            latest=None if request.latest is None else link(request.latest),
            is_delta=request.is_delta,
            newest="none yet" if newest is None else self.time(newest.completed_at),
            newest_target=None if newest is None else link(newest.folder),
            age="" if newest is None or newest.completed_at is None else self._age(newest.completed_at),
            freshness=self._freshness(request, kept),
            count=len(kept),
            pruned=len(request.snapshots) - len(kept),
            size="-" if summary is None else size_text(summary.size),
            rows=count_text(None if summary is None else summary.rows),
            files=count_text(None if summary is None else summary.files),
            charts=self._charts(request.snapshots),
            years=_by_year(months([*_gap_events(request.gaps), *self._events(listed, request.missing, missed)])),
            gap_days=_gaps_text(request.gaps),
            missed_days=self._days_text(missed),
            row_changes=() if request.changes is None else sentences(request.changes),
            tables=tuple(self._table(table, request) for table in shown),
            tables_left=len(tables) - len(shown),
            unchanged=None if request.newest is None else request.newest.unchanged,
            schema=tuple(schema[: self._most(MOST_SCHEMA_CHANGES)]),
            schema_left=max(0, len(schema) - self._most(MOST_SCHEMA_CHANGES)),
            snapshots=tuple(self._snapshot(past) for past in reversed(listed)),
            snapshots_left=len(request.snapshots) - len(listed),
        )

    def _freshness(self, request: RequestHistory, kept: Sequence[PastSnapshot]) -> FreshnessView:
        fresh = request.freshness
        if fresh is None:
            late = late_by([past.completed_at for past in kept if past.completed_at is not None], self.now)
            badge = "" if late is None else f"Overdue (usually every {span_text(late)})"
            return FreshnessView(tone=Tone.UNKNOWN, badge=badge, next_expected="", missed="", ends="")
        missed = "none"
        if fresh.missed:
            missed = f"{len(fresh.missed)} since {self.time(fresh.missed[0].due_at)}"
        return FreshnessView(
            tone=tone_of(fresh),
            badge=_BADGES[fresh.state],
            next_expected="none" if fresh.next_expected_at is None else self.time(fresh.next_expected_at),
            missed=missed,
            ends="no end" if fresh.ends_at is None else self.time(fresh.ends_at),
        )

    def _days_text(self, missed: Sequence[datetime]) -> str:
        """Return the missed days in words, the newest first: the text alternative of the calendar."""
        days = sorted({f"{due_at.astimezone(self.zone):%Y-%m-%d}" for due_at in missed}, reverse=True)
        left = len(days) - MOST_MISSED
        return ", ".join(days[:MOST_MISSED]) + (f" and {left} more" if left > 0 else "")

    def time(self, moment: datetime | None) -> str:
        if moment is None:
            return "undated"
        local = moment.astimezone(self.zone)
        # The page says once that all times are in UTC.
        return f"{local:%Y-%m-%d %H:%M}{'' if self.zone is UTC else f'{local:%z}'}"

    def day(self, past: PastSnapshot) -> str:
        return "undated" if past.completed_at is None else f"{past.completed_at.astimezone(self.zone):%Y-%m-%d}"

    def _when(self, moment: datetime | None) -> str:
        return "never" if moment is None else self.time(moment)

    def _age(self, moment: datetime) -> str:
        # The page may be read long after it was written, and its script updates only the age of the page.
        return f"{age_text(moment, self.now).removesuffix(' ago')} old when this page was written"

    def _most(self, most: int) -> int:
        return max(_LEAST, int(most * self.share))

    def _charts(self, snapshots: Sequence[PastSnapshot]) -> tuple[History, ...]:
        dated = [(past.completed_at, past.summary) for past in snapshots if past.completed_at is not None]
        sizes = [Point(at=at, value=summary.size) for at, summary in dated]
        rows = [Point(at=at, value=summary.rows) for at, summary in dated if summary.rows is not None]
        drawn = []
        for title, points, text in (("Size", sizes, size_text), ("Rows", rows, count_text)):
            drawing = chart(points)
            if drawing is None:
                continue
            first, last = (f"{point.at.astimezone(self.zone):%Y-%m-%d}" for point in (drawing.first, drawing.last))
            words = (
                f"{title} of {len(points)} snapshots, from {text(drawing.first.value)} on {first} to "
                f"{text(drawing.last.value)} on {last}; min {text(drawing.least)}, max {text(drawing.most)}"
            )
            least, most = text(drawing.least), text(drawing.most)
            drawn.append(
                History(title=title, drawing=drawing, words=words, least=least, most=most, first=first, last=last)
            )
        return tuple(drawn)

    def _events(
        self, snapshots: Sequence[PastSnapshot], missing: Sequence[Missing], missed: Sequence[datetime]
    ) -> list[Event]:
        events = []
        for past in snapshots:
            if past.completed_at is None:
                continue
            local = past.completed_at.astimezone(self.zone)
            mark = Mark.PRUNED if not past.is_whole else Mark.WARNED if past.summary.warnings else Mark.SNAPSHOT
            fate = " (pruned)" if past.is_pruned else " (full tables pruned)" if past.is_reduced else ""
            words = f"{local:%H:%M} {size_text(past.summary.size)}{fate}"
            target = None if past.is_pruned else link(past.folder)
            events.append((past.completed_at, Event(day=local.date(), mark=mark, target=target, words=words)))
        first = events[0][0] if events else None
        for lost in missing:
            # Losses older than the snapshots shown have no month on the page.
            if first is None or lost.completed_at >= first:
                day = lost.completed_at.astimezone(self.zone).date()
                event = Event(day=day, mark=Mark.LOST, target=None, words=printable(lost.words, _COLUMN))
                events.append((lost.completed_at, event))
        for due_at in missed:
            if first is None or due_at >= first:
                local = due_at.astimezone(self.zone)
                words = f"no extract (expected at {local:%H:%M})"
                events.append((due_at, Event(day=local.date(), mark=Mark.MISSED, target=None, words=words)))
        return [event for _, event in sorted(events, key=lambda pair: pair[0])]

    def _table(self, table: FileDiff, request: RequestHistory) -> TableRow:
        counts = request.rows.get(table.name, {})
        more = table.rows_more
        changes = None if request.changes is None else request.changes.tables.get(table.name)
        return TableRow(
            name=printable(table.name, _NAME),
            change=table.fate.value,
            rows=count_text(table.rows_before if table.size_after is None else table.rows_after),
            more="" if more is None else f"{more:+,}",
            row_changes="" if changes is None else counts_text(changes),
            size=size_text(table.size_before or 0 if table.size_after is None else table.size_after),
            columns="" if table.columns is None else columns_text(table.columns),
            spark=spark([counts[past.job] for past in request.snapshots if past.job in counts]),
        )

    def _snapshot(self, past: PastSnapshot) -> SnapshotRow:
        summary = past.summary
        changes = [
            f"{count} {word}"
            for count, word in (
                (summary.changed, "changed"),
                (summary.added, "added"),
                (summary.removed, "removed"),
            )
            if count
        ]
        return SnapshotRow(
            when=self.time(past.completed_at),
            target=None if past.is_pruned else link(past.folder),
            files=count_text(summary.files),
            rows=count_text(summary.rows),
            size=size_text(summary.size),
            fetched=size_text(past.fetched_bytes),
            changes=", ".join(changes),
            warnings=len(summary.warnings),
        )


_BADGES = {
    FreshnessState.OK: "Up to date",
    FreshnessState.DUE: "Expected now",
    FreshnessState.LATE: "Overdue",
    FreshnessState.ENDED: "Schedule ended",
    FreshnessState.RETIRED: "Retired",
    FreshnessState.DONE: "Done",
    FreshnessState.INACTIVE: "Inactive",
    FreshnessState.GONE: "No longer visible",
    FreshnessState.UNKNOWN: "Not known",
}


def columns_text(change: ColumnChange) -> str:
    """Return the changes of the columns as one line."""
    words = [f"+{printable(column, _COLUMN)}" for column in change.added[:_MOST_COLUMNS]]
    words += [f"-{printable(column, _COLUMN)}" for column in change.removed[:_MOST_COLUMNS]]
    left = len(change.added) + len(change.removed) - len(words)
    if left:
        words.append(f"and {left} more")
    if change.reordered:
        words.append("reordered")
    return ", ".join(words)


def _gap_events(gaps: Sequence[Days]) -> list[Event]:
    days = [gap.first + timedelta(days=number) for gap in gaps for number in range(gap.count)]
    return [
        Event(day=day, mark=Mark.GAP, target=None, words="no extract has its activities") for day in days[-_MOST_GAPS:]
    ]


def _gaps_text(gaps: Sequence[Days]) -> str:
    """Return the gaps in words, the newest first."""
    texts = [f"{gap.first}" if gap.count == 1 else f"{gap.first} to {gap.last}" for gap in reversed(gaps)]
    left = len(texts) - MOST_MISSED
    return ", ".join(texts[:MOST_MISSED]) + (f" and {left} more periods" if left > 0 else "")


def _weight(table: FileDiff) -> tuple[bool, int, int, str]:
    grown = (table.size_after or 0) - (table.size_before or 0)
    return (table.columns is not None, abs(table.rows_more or 0), abs(grown), table.name)


def _by_year(found: Sequence[Month]) -> tuple[tuple[int, tuple[Month, ...]], ...]:
    years = sorted({month.year for month in found}, reverse=True)
    return tuple((year, tuple(month for month in found if month.year == year)) for year in years)
