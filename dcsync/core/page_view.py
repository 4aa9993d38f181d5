"""What the report page shows: every number and link as text, ready for the template. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dcsync.core.calendar import Month
from dcsync.core.chart import Chart
from dcsync.core.page_alerts import AlertList
from dcsync.core.verdict import Tone, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A chart and its captions."""

    title: str
    drawing: Chart
    words: str
    least: str
    most: str
    first: str
    last: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """A table that changed."""

    name: str
    change: str
    rows: str
    more: str
    #: The rows that were added, removed and changed. Empty if they were not counted.
    row_changes: str
    size: str
    columns: str
    spark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaRow:
    """A change of a table's columns."""

    day: str
    table: str
    change: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRow:
    """A snapshot in the list of all."""

    when: str
    target: str | None
    files: str
    rows: str
    size: str
    fetched: str
    changes: str
    warnings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshnessView:
    """Whether a data request's data is here, in words."""

    tone: Tone
    badge: str
    next_expected: str
    missed: str
    ends: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestView:
    """A data request's part of the page. Each `_left` counts what is not shown."""

    anchor: str
    title: str
    id: str
    folder: str | None
    latest: str | None
    is_delta: bool
    newest: str
    newest_target: str | None
    age: str
    freshness: FreshnessView
    count: int
    pruned: int
    size: str
    rows: str
    files: str
    charts: tuple[History, ...]
    years: tuple[tuple[int, tuple[Month, ...]], ...]
    missed_days: str
    gap_days: str
    row_changes: tuple[str, ...]
    tables: tuple[TableRow, ...]
    tables_left: int
    unchanged: int | None
    schema: tuple[SchemaRow, ...]
    schema_left: int
    snapshots: tuple[SnapshotRow, ...]
    snapshots_left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountView:
    """An account's part of the page."""

    name: str
    last_poll: str
    last_success: str
    requests: tuple[RequestView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The whole page."""

    verdict: Verdict
    written_at: str
    #: The same for programs, and the age in seconds and words from which the page is outdated.
    written_at_utc: str
    stale_s: int
    stale_after: str
    version: str
    zone: str
    alerts: AlertList
    accounts: tuple[AccountView, ...]
