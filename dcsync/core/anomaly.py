"""Tables of a new snapshot that look wrong compared with previous snapshots. Pure.

A warning never prevents publishing. An extract that is half empty passes every check of its bytes. Only a comparison
with previous snapshots can find it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType

from dcsync.core.table import TableFacts, TableKind, columns_between

#: Rows are compared with the median of this many snapshots. Up to three bad days do not change the median.
LOOK_BACK = 7
#: A table with less than this share of the median gets a warning.
LEAST_SHARE = 0.5
#: A table that usually has fewer rows gets no warning about rows: deleting a few dozen rows is ordinary work, and in a
#: small table that is more than half of them. A table of 100 rows does not halve by ordinary work in a day.
LEAST_ROWS = 100

COLUMNS_LOST = "L-COLUMNS"
ROWS_LOST = "L-ROWS"
TABLE_LOST = "L-TABLE"
CODES = frozenset({COLUMNS_LOST, ROWS_LOST, TABLE_LOST})
#: Worst first: without a table, all of its rows are missing.
_ORDER = (TABLE_LOST, ROWS_LOST, COLUMNS_LOST)

_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TableWarning:
    """A table that looks wrong. `message` does not begin with the name of the table."""

    code: str
    table: str
    message: str


def table_warnings(
    tables: Mapping[str, TableFacts | None],
    before: Sequence[Mapping[str, TableFacts | None]],
    *,
    kinds: Mapping[str, TableKind | None] = MappingProxyType({}),
    left_out: AbstractSet[str] = frozenset(),
) -> tuple[TableWarning, ...]:
    """Compare the tables of a new snapshot with those of up to `LOOK_BACK` snapshots, newest first, by original name.

    Returns the worst warnings first. `kinds` has the kind of each table, of now and before: the rows of a window or a
    delta differ every day, so they are not counted. Without a kind, a table counts as full. `left_out` are tables that
    the configuration excludes. They are not missing.
    """
    if not before:
        return ()
    before = before[:LOOK_BACK]
    found: list[TableWarning] = []
    for table in sorted(before[0].keys() - tables.keys() - left_out):
        found += _table_lost(table, [snapshot.get(table) for snapshot in before if table in snapshot], kinds.get(table))
    shrunk: list[tuple[float, TableWarning]] = []
    for table in sorted(tables):
        if kinds.get(table) in {None, TableKind.FULL}:
            shrunk += _rows_lost(table, tables[table], [snapshot.get(table) for snapshot in before])
    found += [warning for _, warning in sorted(shrunk, key=lambda pair: -pair[0])]
    for table in sorted(tables):
        found += _columns_lost(table, tables[table], before[0].get(table))
    return tuple(found)


def worst_first(warnings: Iterable[TableWarning]) -> tuple[TableWarning, ...]:
    """Return warnings in the order of `table_warnings`. Version 0.2 recorded them by table."""
    return tuple(sorted(warnings, key=lambda warning: _ORDER.index(warning.code) if warning.code in _ORDER else -1))


def _columns_lost(table: str, now: TableFacts | None, before: TableFacts | None) -> list[TableWarning]:
    change = columns_between(table, before, now)
    if change is None or before is None or not change.removed:
        return []
    shown = ", ".join(repr(column) for column in change.removed[:_SHOWN])
    more = f" and {len(change.removed) - _SHOWN} more" if len(change.removed) > _SHOWN else ""
    message = f"lost {len(change.removed)} of its {len(before.header)} columns: {shown}{more}"
    return [TableWarning(code=COLUMNS_LOST, table=table, message=message)]


def _rows_lost(
    table: str, now: TableFacts | None, before: Sequence[TableFacts | None]
) -> list[tuple[float, TableWarning]]:
    """Return the warning for a table with far fewer rows, and the number of rows that it lost."""
    counts = [facts.rows for facts in before if facts is not None and facts.rows is not None]
    if now is None or now.rows is None or not counts:
        return []
    usual = median(counts)
    if usual < LEAST_ROWS or now.rows >= usual * LEAST_SHARE:
        return []
    rows = "1 row" if now.rows == 1 else f"{now.rows:,} rows"
    of = f", the median of the last {len(counts)} snapshots" if len(counts) > 1 else " in the previous snapshot"
    message = f"has {rows}, down from {usual:,.0f}{of}"
    return [(usual - now.rows, TableWarning(code=ROWS_LOST, table=table, message=message))]


def _table_lost(table: str, before: Sequence[TableFacts | None], kind: TableKind | None) -> list[TableWarning]:
    """Return the warning for a missing table. `before` has its facts in the snapshots that had it, newest first.

    A window may be left out on a day without rows. But if it was never left out before, a quiet day is not the reason.
    A delta without changes may be left out too, and does not say how often that happens.
    """
    if kind is TableKind.DELTA or (kind is TableKind.WINDOW and len(before) < LOOK_BACK):
        return []
    newest = before[0]
    if kind is TableKind.WINDOW:
        message = f"is missing; each of the last {LOOK_BACK} snapshots had it"
    elif newest is None or not newest.rows:
        # A table without rows is not missed.
        return []
    else:
        message = f"is missing; the previous snapshot had {newest.rows:,} rows"
    return [TableWarning(code=TABLE_LOST, table=table, message=message)]
