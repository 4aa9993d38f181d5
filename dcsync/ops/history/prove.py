"""The proof of a step: the rows that a history has at the time of a snapshot are the rows of the snapshot.

Both sides are read from the disk. The rows are compared as a multiset, by their number and the sum of their hashes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from dcsync.core.row_history import FIRST_SEEN, NO_ROWS, Step, TableHistory
from dcsync.core.sql import identifier
from dcsync.core.table import TableKind
from dcsync.errors import RowsUnproved
from dcsync.ops.history.statements import Sources, fingerprint, proof_hash, timestamp, valid_at
from dcsync.rows import CsvTable, Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The rows of one side: their number, and the sum of their hashes."""

    rows: int
    digest: str


def content_of(engine: Engine, sql: str) -> Content:
    """Return the content of a query that gives the number of rows and the sum of their hashes."""
    rows, total = engine.one(sql)
    return Content(rows=int(str(rows)), digest=_hex(total))


def _hex(total: object) -> str:
    return f"{int(str(total or 0)):032x}"


def _microseconds(moment: datetime) -> int:
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


def content_of_snapshot(engine: Engine, kind: TableKind) -> Content:
    """Return the rows of the snapshot that are in the history. Needs the table `mine`."""
    live = " WHERE is_live" if kind is TableKind.DELTA else ""
    return content_of(engine, f"SELECT count(*), sum(s::HUGEINT) FROM mine{live}")


def prove(engine: Engine, sources: Sources, after: str, moment: datetime) -> None:
    """Raise `RowsUnproved` unless the history in `after` has the rows of `mine` at that time.

    `after` has the columns of `sources`.
    """
    wanted = content_of_snapshot(engine, sources.kind)
    hashed = proof_hash(sources.columns, sources.all_columns)
    where = valid_at(sources.kind, moment)
    if sources.kind is TableKind.WINDOW:
        if not _has_all(engine, f"SELECT {hashed} AS s FROM {after} WHERE {where}"):
            raise RowsUnproved(f"the snapshot has {wanted.rows} rows, and the history not all of them")
        return
    if sources.kind is TableKind.DELTA:
        where += f" AND {identifier(sources.key)} IN (SELECT k FROM mine)"
    found = content_of(engine, f"SELECT count(*), sum({hashed}::HUGEINT) FROM {after} WHERE {where}")
    if found != wanted:
        there = f"{found.rows} rows with digest {found.digest}"
        raise RowsUnproved(f"the snapshot has {wanted.rows} rows with digest {wanted.digest}, and the history {there}")


def _has_all(engine: Engine, hashes: str) -> bool:
    """Say whether each row of `mine` is among these hashes, and not less often."""
    missing = f"""
    SELECT count(*) FROM (SELECT s, count(*) AS c FROM mine GROUP BY s) m
    LEFT JOIN (SELECT s, count(*) AS c FROM ({hashes}) WHERE s IN (SELECT s FROM mine) GROUP BY s) t USING (s)
    WHERE t.c IS NULL OR t.c < m.c
    """
    return engine.one(missing) == (0,)


def prove_counts(before: int, added: int, after: int) -> None:
    """Raise `RowsUnproved` unless a step added this many rows to the file, and lost none."""
    if before + added != after:
        raise RowsUnproved(f"the history had {before} rows, and after {added} more it has {after}")


def prove_carried(engine: Engine, sources: Sources, after: str, moment: datetime) -> None:
    """Raise `RowsUnproved` unless the file has the rows from before this step of a window table, unchanged.

    They may be the only copy: the retention policy may have removed their snapshots.
    """
    columns = (*sources.known_columns, FIRST_SEEN)
    hashed = f"SELECT count(*), sum({proof_hash(columns, columns)}::HUGEINT) FROM"
    earlier = f"WHERE {FIRST_SEEN} < {timestamp(moment)}"
    if content_of(engine, f"{hashed} {sources.before}") != content_of(engine, f"{hashed} {after} {earlier}"):
        raise RowsUnproved("the step would change rows of earlier steps")


def prove_added(engine: Engine, sources: Sources, after: str, step: Step) -> None:
    """Raise `RowsUnproved` unless the rows that a step of a window table added are in the file as it recorded them."""
    hashed = fingerprint(sources.all_columns, sources.all_columns)
    where = f"{FIRST_SEEN} = {timestamp(step.time)}"
    found = content_of(engine, f"SELECT count(*), sum({hashed}::HUGEINT) FROM {after} WHERE {where}")
    if found != Content(rows=step.added, digest=step.fingerprint or NO_ROWS):
        raise RowsUnproved(f"the step added {step.added} rows, and the file has {found.rows} others")


def sealed(engine: Engine, history: TableHistory, source: str) -> TableHistory:
    """Return the history of a window table with the fingerprints of all steps.

    Raises `RowsUnproved` unless the file has exactly the rows that each step added, whatever is left of the snapshots.
    """
    hashed = fingerprint(history.columns, history.columns)
    sql = f"SELECT epoch_us({FIRST_SEEN}), count(*), sum({hashed}::HUGEINT) FROM {source} GROUP BY 1"
    there = {moment: Content(rows=int(str(rows)), digest=_hex(total)) for moment, rows, total in engine.all(sql)}
    steps = []
    for step in history.steps:
        found = there.pop(_microseconds(step.time), Content(rows=0, digest=NO_ROWS))
        if found.rows != step.added or step.fingerprint not in {None, found.digest}:
            added = f"the step to job {step.job} added {step.added} rows"
            raise RowsUnproved(f"{added}, and the file has {found.rows} with digest {found.digest}")
        steps.append(replace(step, fingerprint=found.digest))
    if there:
        raise RowsUnproved(f"the file has rows of {len(there)} times at which there was no step")
    return replace(history, steps=tuple(steps))


def prove_download(step: Step, counted: int | None, table: CsvTable) -> None:
    """Raise `RowsUnproved` unless the snapshot has as many rows as dcsync counted at the download.

    dcsync counts blank lines, which are rows only of a table with one column.
    """
    if counted in {None, step.rows}:
        return
    blank = table.blank_lines() if len(table.header) > 1 else 0
    if counted != step.rows + blank:
        raise RowsUnproved(f"the table has {step.rows} rows, and dcsync counted {counted} at the download")
