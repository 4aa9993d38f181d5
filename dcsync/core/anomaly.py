"""Tables of a new snapshot that look wrong compared with previous snapshots. Pure.

A warning never prevents publishing. An extract that is half empty passes every check of its bytes. Only a comparison
with previous snapshots can find it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from statistics import median

from dcsync.core.table import TableFacts, columns_between

#: Rows are compared with the median of this many snapshots. Up to three bad days do not change the median.
LOOK_BACK = 7
#: A table with less than this share of the median gets a warning.
LEAST_SHARE = 0.5

COLUMNS_LOST = "L-COLUMNS"
ROWS_LOST = "L-ROWS"
TABLE_LOST = "L-TABLE"
CODES = frozenset({COLUMNS_LOST, ROWS_LOST, TABLE_LOST})

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
    is_delta: bool = False,
    left_out: AbstractSet[str] = frozenset(),
) -> tuple[TableWarning, ...]:
    """Compare the tables of a new snapshot with those of up to `LOOK_BACK` snapshots, newest first, by original name.

    A delta extract holds only changed rows, so only its columns are compared. `left_out` are tables that the
    configuration excludes. They are not missing.
    """
    if not before:
        return ()
    found: list[TableWarning] = []
    for table in sorted(tables):
        found += _columns_lost(table, tables[table], before[0].get(table))
        if not is_delta:
            found += _rows_lost(table, tables[table], [snapshot.get(table) for snapshot in before[:LOOK_BACK]])
    if not is_delta:
        for table in sorted(before[0].keys() - tables.keys() - left_out):
            found += _table_lost(table, before[0][table])
    return tuple(found)


def _columns_lost(table: str, now: TableFacts | None, before: TableFacts | None) -> list[TableWarning]:
    change = columns_between(table, before, now)
    if change is None or before is None or not change.removed:
        return []
    shown = ", ".join(repr(column) for column in change.removed[:_SHOWN])
    more = f" and {len(change.removed) - _SHOWN} more" if len(change.removed) > _SHOWN else ""
    message = f"lost {len(change.removed)} of its {len(before.header)} columns: {shown}{more}"
    return [TableWarning(code=COLUMNS_LOST, table=table, message=message)]


def _rows_lost(table: str, now: TableFacts | None, before: Sequence[TableFacts | None]) -> list[TableWarning]:
    counts = [facts.rows for facts in before if facts is not None and facts.rows is not None]
    if now is None or now.rows is None or not counts:
        return []
    usual = median(counts)
    if now.rows >= usual * LEAST_SHARE:
        return []
    rows = "1 row" if now.rows == 1 else f"{now.rows:,} rows"
    of = f", the median of the last {len(counts)} snapshots" if len(counts) > 1 else " in the previous snapshot"
    message = f"has {rows}, down from {usual:,.0f}{of}"
    return [TableWarning(code=ROWS_LOST, table=table, message=message)]


def _table_lost(table: str, before: TableFacts | None) -> list[TableWarning]:
    if before is None or not before.rows:
        # A table without rows is not missed.
        return []
    return [
        TableWarning(
            code=TABLE_LOST, table=table, message=f"is missing; the previous snapshot had {before.rows:,} rows"
        )
    ]
