"""One step of a table's history: read, compare, write, prove. Blocks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from dcsync.core.columns import distinct_names
from dcsync.core.row_history import KEY, METADATA_KEY, NO_ROWS, RESERVED, Extract, Step, TableHistory, merged_columns
from dcsync.core.row_history_json import parse_table, table_json
from dcsync.core.sql import csv_text, text
from dcsync.core.table import TableKind
from dcsync.core.wire import WireError
from dcsync.errors import RowsFailed, RowsUnreadable
from dcsync.ops.history import statements
from dcsync.ops.history.prove import (
    content_of,
    content_of_snapshot,
    prove,
    prove_added,
    prove_carried,
    prove_counts,
    prove_download,
)
from dcsync.ops.history.statements import Sources
from dcsync.rows import CsvTable, Engine
from dcsync.rows.engine import THREADS
from dcsync.rows.table import descriptor_path

#: Level 1 takes 10 % less time than DuckDB's default, level 3, for files that are 2 % larger.
_FORM = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, USE_TMP_FILE false"
#: DuckDB counts 256 KiB for each column and buffer. From this width on, one thread writes smaller row groups.
_WIDE = 500
_ROW_GROUP = 122_880
_LEAST_ROW_GROUP = 2048
#: DuckDB guesses that a CSV file has few rows, and would keep the hashes of all its rows in memory for a join.
_SETTINGS = "SET disabled_optimizers = 'build_side_probe_side'; SET threads = {threads}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The open files of a step: the Parquet file so far, None in the first step, and an empty one for the result."""

    before: int | None
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A step that was taken and proved. Without `is_written`, the Parquet file stays as it is."""

    history: TableHistory
    is_written: bool


def take_step(engine: Engine, history: TableHistory, extract: Extract, table: CsvTable, files: Files) -> Taken:
    """Take the table to this extract. Writes into `files.after`, and does not fsync it.

    Raises `RowsUnreadable` for a table that cannot be read, `RowsUnproved`, and `RowsFailed`.
    """
    sources = _sources(history, table, files.before)
    moment = extract.time
    if history.steps:
        moment = max(moment, history.steps[-1].time + timedelta(microseconds=1))
    wide = len(sources.all_columns) >= _WIDE
    engine.run(_SETTINGS.format(threads=1 if wide else THREADS))
    with temporary_tables(engine), table.reading():
        return _Taking(engine, sources, table, files).take(history, replace(extract, time=moment))


def unchanged_step(history: TableHistory, extract: Extract) -> TableHistory | None:
    """Return the history after a step to a table with the same bytes. None for other bytes."""
    if not history.steps or history.steps[-1].sha256 != extract.sha256:
        return None
    last = history.steps[-1]
    moment = max(extract.time, last.time + timedelta(microseconds=1))
    nothing = NO_ROWS if history.kind is TableKind.WINDOW else None
    step = replace(last, job=extract.job, time=moment, added=0, removed=0, fingerprint=nothing)
    return history.with_step(step)


def read_metadata(engine: Engine, descriptor: int) -> TableHistory:
    """Return what a Parquet file says about its steps. Raises `RowsFailed` if it is damaged or of another format."""
    path = text(descriptor_path(descriptor))
    found = engine.all(f"SELECT value FROM parquet_kv_metadata({path}) WHERE key = {text(METADATA_KEY)}::BLOB")
    try:
        (value,) = found[0]
        return parse_table(json.loads(bytes(value) if isinstance(value, bytes | bytearray) else str(value)))
    except (IndexError, ValueError) as error:
        reason = str(error) if isinstance(error, WireError) else "it has no steps"
        raise RowsFailed(reason) from None


def parquet(descriptor: int) -> str:
    """Return a Parquet file as an SQL expression, for FROM."""
    return f"read_parquet({text(descriptor_path(descriptor))}, file_row_number = true)"


def columns_of(table: CsvTable) -> tuple[str, ...]:
    """Return the names that the columns of a CSV table have in a history, before they are merged with earlier ones."""
    return distinct_names(table.header, reserved=RESERVED)


def sources_of(kind: TableKind, known: tuple[str, ...], table: CsvTable, before: str | None) -> Sources:
    """Return the sources for a table and a history with these columns. Raises `RowsUnreadable` without a header."""
    if not any(table.header):
        raise RowsUnreadable(f"{table.path}, line 1: it has no header", path=table.path, reason="it has no header")
    all_columns, columns = merged_columns(known, columns_of(table))
    if kind is TableKind.DELTA and not any(name.casefold() == KEY for name in columns):
        reason = f"it has no column {KEY}, by which a delta table is merged"
        raise RowsUnreadable(f"{table.path}, line 1: {reason}", path=table.path, reason=reason)
    return Sources(
        kind=kind,
        before=before,
        csv=csv_text(descriptor_path(table.descriptor), columns),
        all_columns=all_columns,
        columns=columns,
        known_columns=known,
    )


def _sources(history: TableHistory, table: CsvTable, before: int | None) -> Sources:
    known = history.columns if history.steps else ()
    return sources_of(history.kind, known, table, None if before is None else parquet(before))


def _row_group(columns: int) -> int:
    """Return the number of rows in a row group, a multiple of what DuckDB handles at once."""
    if columns < _WIDE:
        return _ROW_GROUP
    return max(_LEAST_ROW_GROUP, _ROW_GROUP * 20 // columns // _LEAST_ROW_GROUP * _LEAST_ROW_GROUP)


@contextmanager
def temporary_tables(engine: Engine) -> Iterator[None]:
    """Remove the temporary tables of a step at its end, and those of a step that failed."""
    drop = "; ".join(f"DROP TABLE IF EXISTS {name}" for name in statements.TABLES)
    engine.run(drop)
    yield
    engine.run(drop)


class _Taking:
    """One step that is being taken."""

    def __init__(self, engine: Engine, sources: Sources, table: CsvTable, files: Files) -> None:
        self._engine = engine
        self._sources = sources
        self._table = table
        self._files = files
        self._has_copies = False

    def take(self, history: TableHistory, extract: Extract) -> Taken:
        added, removed = self._compare()
        content = content_of_snapshot(self._engine, self._sources.kind)
        step = Step(
            job=extract.job,
            time=extract.time,
            sha256=extract.sha256,
            rows=self._rows(),
            digest=content.digest,
            columns=self._sources.columns,
            added=added,
            removed=removed,
            fingerprint=self._fingerprint(),
        )
        prove_download(step, extract.rows, self._table)
        after = history.with_step(step)
        is_written = self._is_new(added, removed)
        if is_written:
            self._write(after, extract)
        source = parquet(self._files.after) if is_written or self._files.before is None else self._sources.before
        assert source is not None  # noqa: S101 - one of the files
        prove(self._engine, self._sources, source, extract.time)
        if is_written:
            prove_counts(self._count(self._sources.before), added, self._count(source))
            if self._sources.kind is TableKind.WINDOW:
                prove_added(self._engine, self._sources, source, step)
                if self._sources.before is not None:
                    prove_carried(self._engine, self._sources, source, extract.time)
        return Taken(history=after, is_written=is_written)

    def _is_new(self, added: int, removed: int) -> bool:
        sources = self._sources
        return bool(self._files.before is None or added or removed or sources.all_columns != sources.known_columns)

    def _compare(self) -> tuple[int, int]:
        """Fill the temporary tables, and return how many rows begin and end."""
        engine, sources = self._engine, self._sources
        if sources.before is None:
            engine.run(statements.read_mine(sources))
            return self._number(f"SELECT count(*) FROM mine WHERE {statements.new_rows(sources, 'h')}"), 0
        engine.run(statements.read_known(sources))
        engine.run(statements.read_mine(sources))
        engine.run(statements.read_gone(sources.kind))
        added = self._number(f"SELECT count(*) FROM mine WHERE {statements.new_rows(sources, 'h')}")
        if sources.kind is not TableKind.DELTA and engine.one(statements.BOTH_SIDES) != (True,):
            for statement in statements.count_copies(sources.kind):
                engine.run(statement)
            self._has_copies = True
            added += self._number("SELECT coalesce(sum(more), 0) FROM again")
        return added, self._number("SELECT count(*) FROM gone")

    def _fingerprint(self) -> str | None:
        """Return the fingerprint of the rows that a step of a window table adds."""
        if self._sources.kind is not TableKind.WINDOW:
            return None
        sql = statements.added_fingerprint(self._sources, copies=self._has_copies)
        return content_of(self._engine, sql).digest

    def _write(self, after: TableHistory, extract: Extract) -> None:
        query = statements.write(self._sources, extract.time, copies=self._has_copies)
        metadata = text(
            json.dumps(table_json(replace(after, file=None, sha256=None)), ensure_ascii=True, separators=(",", ":"))
        )
        path = text(descriptor_path(self._files.after))
        group = _row_group(len(self._sources.all_columns))
        options = f"{_FORM}, ROW_GROUP_SIZE {group}, KV_METADATA {{{METADATA_KEY}: {metadata}}}"
        self._engine.run(f"COPY ({query}) TO {path} ({options})")

    def _rows(self) -> int:
        """Return the number of rows of the table in the snapshot."""
        if self._sources.kind is TableKind.DELTA:
            return self._number(f"SELECT count(*) FROM {self._sources.csv}")
        return self._number("SELECT count(*) FROM mine")

    def _count(self, source: str | None) -> int:
        return 0 if source is None else self._number(f"SELECT count(*) FROM {source}")

    def _number(self, sql: str) -> int:
        return int(str(self._engine.one(sql)[0]))
