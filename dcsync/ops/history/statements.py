"""The SQL of a step of the row history, by kind of table.

Rows are compared by a 64-bit hash of all their columns. That two different rows have the same hash is unlikely, and no
matter of trust: the proof uses another hash, over the columns in another order.

`mine` is a temporary table with the hashes of the rows in the snapshot, `known` one with those of the rows that the
history has, and `gone` has the numbers of the rows that the step ends. `again` has rows of the history of which the
step adds copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dcsync.core.row_history import DELETED_AT, FIRST_SEEN, KEY, ROW_NUMBER, VALID_FROM, VALID_TO
from dcsync.core.sql import identifier, text
from dcsync.core.table import TableKind

#: Begins the second hash, so that it differs from the first one also for a table with one column.
_SALT = "'dcsync'"
#: A third row of a delta extract with the same key follows the second one. Only the last one counts.
_POSITION = "_dcsync_position"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The tables of one step. `before` reads the Parquet file so far, None in the first step.

    `all_columns` are the history's columns after the step. `columns` are those of the snapshot, in its order, and
    `known_columns` those of the Parquet file so far.
    """

    kind: TableKind
    before: str | None
    csv: str
    all_columns: tuple[str, ...]
    columns: tuple[str, ...]
    known_columns: tuple[str, ...] = ()

    @property
    def mine(self) -> str:
        """The rows of the snapshot that the history takes."""
        if self.kind is not TableKind.DELTA:
            return self.csv
        last = f"row_number() OVER (PARTITION BY {identifier(self.key)} ORDER BY {_POSITION} DESC) = 1"
        return f"(SELECT * FROM {self.csv_in_order} QUALIFY {last})"

    @property
    def csv_in_order(self) -> str:
        """The rows of the snapshot with their positions."""
        return f"(SELECT *, row_number() OVER () AS {_POSITION} FROM {self.csv})"

    @property
    def key(self) -> str:
        """The key of a delta table."""
        return next(name for name in self.columns if name.casefold() == KEY)

    @property
    def is_live(self) -> str:
        """The condition for rows of a delta extract that are not deleted."""
        deleted_at = next((name for name in self.columns if name.casefold() == DELETED_AT), None)
        return "true" if deleted_at is None else f"coalesce({identifier(deleted_at)}, '') = ''"


def row_hash(sources: Sources, there: Sequence[str]) -> str:
    """Return the hash by which rows are compared. `there` are the columns that the rows have."""
    return f"hash({', '.join(_values(sources.all_columns, there))})"


def proof_hash(columns: Sequence[str], there: Sequence[str]) -> str:
    """Return the hash of the proof over the columns of a snapshot."""
    return f"hash({', '.join([_SALT, *_values(tuple(reversed(columns)), there)])})"


def fingerprint(columns: Sequence[str], there: Sequence[str]) -> str:
    """Return 64 bits of the SHA-256 of a row. Unlike `hash`, they are the same in every version of DuckDB.

    `columns` are the history's so far. A column that comes later is NULL in this row, and changes nothing.
    """
    fields = [
        f"coalesce({text(name)} || ' ' || strlen({value}) || ' ' || {value} || ' ', '')"
        for name, value in zip(columns, _values(columns, there), strict=True)
        if not value.startswith("NULL")
    ]
    return f"('0x' || left(sha256(concat({', '.join(fields)})), 16))::UBIGINT"


def current(kind: TableKind) -> str:
    """Return the condition for rows that the next step may end."""
    return "true" if kind is TableKind.WINDOW else f"{VALID_TO} IS NULL"


def valid_at(kind: TableKind, moment: datetime) -> str:
    """Return the condition for the rows that a history has at a time."""
    if kind is TableKind.WINDOW:
        return f"{FIRST_SEEN} <= {timestamp(moment)}"
    return f"{VALID_FROM} <= {timestamp(moment)} AND ({VALID_TO} IS NULL OR {timestamp(moment)} < {VALID_TO})"


def timestamp(moment: datetime) -> str:
    """Return a time as an SQL literal."""
    return f"TIMESTAMPTZ {text(moment.astimezone(UTC).isoformat(sep=' ', timespec='microseconds'))}"


def read_mine(sources: Sources) -> str:
    """Return the statement that fills `mine`."""
    hashed = row_hash(sources, sources.columns)
    proof = proof_hash(sources.columns, sources.columns)
    more = ""
    if sources.kind is TableKind.DELTA:
        more = f", {identifier(sources.key)} AS k, {sources.is_live} AS is_live"
    elif sources.kind is TableKind.WINDOW:
        more = f", {fingerprint(sources.all_columns, sources.columns)} AS f"
    return f"CREATE TEMP TABLE mine AS SELECT {hashed} AS h, {proof} AS s{more} FROM {sources.mine}"


def read_known(sources: Sources) -> str:
    """Return the statement that fills `known`."""
    hashed = row_hash(sources, sources.known_columns)
    key = ""
    if sources.kind is TableKind.DELTA:
        (value,) = _values((sources.key,), sources.known_columns)
        key = f", {value} AS k"
    return (
        f"CREATE TEMP TABLE known AS SELECT {hashed} AS h, {ROW_NUMBER} AS n{key} FROM {sources.before} "
        f"WHERE {current(sources.kind)}"
    )


def read_gone(kind: TableKind) -> str:
    """Return the statement that fills `gone`."""
    gone = {
        TableKind.FULL: "h NOT IN (SELECT h FROM mine)",
        TableKind.WINDOW: "false",
        TableKind.DELTA: "k IN (SELECT k FROM mine) AND h NOT IN (SELECT h FROM mine WHERE is_live)",
    }[kind]
    return f"CREATE TEMP TABLE gone AS SELECT n FROM known WHERE {gone}"


#: The counts and sums of the rows that both sides have. They are the same unless a row is there more or less often.
BOTH_SIDES = """
SELECT (SELECT (count(*), sum(h::HUGEINT)) FROM mine WHERE h IN (SELECT h FROM known))
     = (SELECT (count(*), sum(h::HUGEINT)) FROM known WHERE h IN (SELECT h FROM mine))
"""
#: The rows that are more or less often in the snapshot than in the history.
_OFTEN = """
CREATE TEMP TABLE often AS SELECT h, m.c - k.c AS more
  FROM (SELECT h, count(*) AS c FROM mine GROUP BY h) m
  JOIN (SELECT h, count(*) AS c FROM known WHERE h IN (SELECT h FROM mine) GROUP BY h) k USING (h) WHERE m.c <> k.c
"""
#: Copies that are less often end. The newest end first.
_FEWER = """
INSERT INTO gone SELECT n FROM (SELECT n, more, row_number() OVER (PARTITION BY h ORDER BY n DESC) AS i
  FROM known JOIN often USING (h) WHERE more < 0) WHERE i <= -more
"""
_AGAIN = "CREATE TEMP TABLE again AS SELECT max(n) AS n, any_value(more) AS more FROM known JOIN often USING (h) "
_AGAIN += "WHERE more > 0 GROUP BY h"
#: What a step leaves to the next one.
TABLES = ("mine", "known", "gone", "often", "again")


def count_copies(kind: TableKind) -> list[str]:
    """Return the statements that compare how often rows are there, and fill `again`."""
    return [_OFTEN, *([_FEWER] if kind is TableKind.FULL else []), _AGAIN]


def added_fingerprint(sources: Sources, *, copies: bool) -> str:
    """Return the query for the sum of the fingerprints of the rows that a step of a window table adds."""
    added = [f"SELECT f FROM mine WHERE {new_rows(sources, 'h')}"]
    if copies:
        rows = "(SELECT h, any_value(f) AS f FROM mine GROUP BY h) JOIN often USING (h), range(often.more)"
        added.append(f"SELECT f FROM {rows} WHERE more > 0")
    return f"SELECT count(*), sum(f::HUGEINT) FROM ({' UNION ALL '.join(added)})"


def new_rows(sources: Sources, mine: str = "") -> str:
    """Return the condition for the rows of the snapshot that the history does not have. `mine` is their hash."""
    hashed = mine or row_hash(sources, sources.columns)
    live = ""
    if sources.kind is TableKind.DELTA:
        live = " AND is_live" if mine else f" AND {sources.is_live}"
    return "true" + live if sources.before is None else f"{hashed} NOT IN (SELECT h FROM known){live}"


def write(sources: Sources, moment: datetime, *, copies: bool) -> str:
    """Return the query for the rows of the history after the step, in their order in the file.

    First the rows that ended, by their ends, then those that are valid, by their beginnings. Row groups thus have
    narrow ranges of both. With `copies`, `again` has rows.
    """
    ends = sources.kind is not TableKind.WINDOW
    now, added = timestamp(moment), ", ".join(_named(sources.all_columns, sources.columns))
    parts = []
    if sources.before is not None:
        kept = ", ".join(_named(sources.all_columns, sources.known_columns))
        began = VALID_FROM if ends else FIRST_SEEN
        before, numbers = sources.before, f"{ROW_NUMBER} IN (SELECT n FROM gone)"
        if ends:
            parts.append(f"SELECT {kept}, {VALID_FROM}, {VALID_TO} FROM {before} WHERE {VALID_TO} IS NOT NULL")
            parts.append(f"SELECT {kept}, {VALID_FROM}, {now} AS {VALID_TO} FROM {before} WHERE {numbers}")
        rest = f"{VALID_TO} IS NULL AND NOT {numbers}" if ends else "true"
        parts.append(f"SELECT {kept}, {began}{_open(ends=ends)} FROM {before} WHERE {rest}")
        if copies:
            joined = f"{before} JOIN again ON {ROW_NUMBER} = again.n, range(again.more)"
            parts.append(f"SELECT {kept}, {now} AS {began}{_open(ends=ends)} FROM {joined}")
    began = VALID_FROM if ends else FIRST_SEEN
    parts.append(f"SELECT {added}, {now} AS {began}{_open(ends=ends)} FROM {sources.mine} WHERE {new_rows(sources)}")
    return " UNION ALL ".join(parts)


def _open(*, ends: bool) -> str:
    return f", NULL::TIMESTAMPTZ AS {VALID_TO}" if ends else ""


def _values(columns: Sequence[str], there: Sequence[str]) -> list[str]:
    """Return the columns as expressions. A column that is not there is NULL."""
    found = {name.casefold() for name in there}
    return [identifier(name) if name.casefold() in found else "NULL::VARCHAR" for name in columns]


def _named(columns: Sequence[str], there: Sequence[str]) -> list[str]:
    return [f"{value} AS {identifier(name)}" for name, value in zip(columns, _values(columns, there), strict=True)]
