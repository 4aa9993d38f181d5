"""Loads into a folder of Parquet files, on a disk or in S3.

Each table is one file, `SCHEMA/TABLE.parquet`, which is replaced in one step. It has its row of `_dcsync_loads` in its
metadata. `_dcsync_loads.parquet` has the rows of all tables, and is replaced right after.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from dcsync.core.loads import Shown
from dcsync.core.sql import text
from dcsync.errors import LoadFailed, LoadRefused, RowsUnreadable, TargetUnusable
from dcsync.load.places import Place
from dcsync.load.reading import Reading, reading_of
from dcsync.load.target import FIELDS, LOADS, TIMES, Options, Target, now, parse_record, record
from dcsync.load.values import Loaded, TableLoad, Way
from dcsync.rows.table import descriptor_path

#: The key of a file's row of `_dcsync_loads` in its metadata.
METADATA: Final = "dcsync_load"
_FORM: Final = "FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false"
#: The errors of the folder, not of a file.
_UNUSABLE: Final = frozenset(
    {*(errno.EACCES, errno.EDQUOT, errno.EIO, errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.EROFS, errno.ESTALE)}
)
_FILE: Final = f"{LOADS}.parquet"
_KINDS: Final = {"row_count": "BIGINT"} | dict.fromkeys(TIMES, "TIMESTAMPTZ")


class FolderTarget(Target):
    """A folder of Parquet files."""

    def __init__(self, options: Options, place: Place) -> None:
        super().__init__(options)
        self._place = place

    def shown(self) -> dict[str, Shown]:
        with self.failing(""):
            there = self._place.names()
            return {row.table: row for row in self._rows(there) if f"{row.table}.parquet" in there}

    def check_writable(self) -> None:
        with self.failing(""):
            self._place.check_writable()

    def mark(self, shown: Sequence[Shown]) -> None:
        with self.failing(""), self._place.locked():
            rows = {row.table: row for row in self._rows(self._place.names())}
            for row in shown:
                old = rows.get(row.table)
                if old is not None and (old.sha256, old.mode) == (row.sha256, row.mode):
                    rows[row.table] = replace(old, job=row.job, completed=row.completed, loaded_at=now())
            self._write_loads(rows.values())

    def load(self, load: TableLoad) -> Loaded:
        name = load.shown.table
        if "/" in name or name.startswith(".") or name == LOADS:
            raise LoadRefused(self.name, name, "the name of the table cannot be the name of a file")
        with self.failing(name):
            reading = reading_of(load, self.engine(), 0)
        if not any(column.source for column in reading.columns):
            raise RowsUnreadable(f"{load.source.path}: it has no header", path=load.source.path)
        with self.failing(name, reading), self._place.locked():
            there = self._place.names()
            rows = {row.table: row for row in self._rows(there)}
            if f"{name}.parquet" in there:
                known = rows.get(name) if name in rows else self._own_row(name)
                if known is not None and load.is_outrun_by(known):
                    return Loaded(shown=known, way=Way.ALREADY, sent=0)
                self.check_columns(load, self._columns_of(name), reading.names)
            rows[name] = written = self._write_table(load, reading)
            self._write_loads(rows.values())
        return Loaded(shown=written, way=Way.WHOLE, sent=written.rows or 0)

    def close(self) -> None:
        """Nothing is open between two loads."""

    def explained(self, error: Exception, table: str) -> LoadFailed:
        reason = self.clean(str(error) or type(error).__name__)
        if isinstance(error, BlockingIOError):
            reason = f"another loader used the folder for {self._options.patience_s:g} s"
            return LoadFailed(self.name, table, reason, hint="wait for the end of the other load")
        if isinstance(error, OSError) and error.strerror and error.errno is not None:
            reason = self.clean(error.strerror)
            if error.errno not in _UNUSABLE:
                return LoadFailed(self.name, table, reason)
        cause = self._place.cause(error, reason)
        return TargetUnusable(self.name, table, self.clean(cause.reason), hint=cause.hint)

    def own_folder(self) -> Path:
        return self._place.folder

    def _rows(self, there: Iterable[str]) -> list[Shown]:
        if _FILE not in there:
            return []
        fields = ", ".join(f"{name}::VARCHAR" for name in FIELDS)
        with self._place.reading(_FILE) as path:
            return [parse_record(row) for row in self.engine().all(f"SELECT {fields} FROM read_parquet({text(path)})")]

    def _own_row(self, table: str) -> Shown | None:
        """Return the row in a file's metadata. Raises `LoadRefused` for a file that dcsync did not write."""
        key = f"{text(METADATA)}::BLOB"
        with self._place.reading(f"{table}.parquet") as path:
            found = self.engine().all(f"SELECT value FROM parquet_kv_metadata({text(path)}) WHERE key = {key}")
        if not found:
            hint = "move that file, or choose another schema, and run dcsync load"
            raise LoadRefused(self.name, table, "dcsync did not write the file that has this name", hint=hint)
        value = found[0][0]
        return parse_record(json.loads(bytes(value) if isinstance(value, bytes | bytearray) else str(value)))

    def _columns_of(self, table: str) -> list[str]:
        with self._place.reading(f"{table}.parquet") as path:
            return [str(row[0]) for row in self.engine().all(f"DESCRIBE SELECT * FROM read_parquet({text(path)})")]

    def _write_table(self, load: TableLoad, reading: Reading) -> Shown:
        name = load.shown.table
        rows = self._count(load, reading)
        shown = replace(load.shown, rows=rows, loaded_at=now())
        metadata = text(json.dumps(record(shown), ensure_ascii=True, separators=(",", ":")))
        with self._place.replacing(f"{name}.parquet") as descriptor:
            path = text(descriptor_path(descriptor))
            copy = f"COPY ({reading.all()}) TO {path} ({_FORM}, KV_METADATA {{{METADATA}: {metadata}}})"
            with reading.failing():
                self.engine().run(copy)
            written = int(str(self.engine().one(f"SELECT count(*) FROM read_parquet({path})")[0]))
            if written != rows:
                raise LoadFailed(self.name, name, f"the file has {written} rows of {rows}")
        return shown

    def _count(self, load: TableLoad, reading: Reading) -> int:
        with reading.failing():
            rows = int(str(self.engine().one(f"SELECT count(*) FROM {reading.table}")[0]))
        self.check_rows(load, rows)
        return rows

    def _write_loads(self, rows: Iterable[Shown]) -> None:
        names = ", ".join(f"{name} {_KINDS.get(name, 'VARCHAR')}" for name in FIELDS)
        engine = self.engine()
        engine.run(f"CREATE OR REPLACE TEMP TABLE {LOADS} ({names})")
        values = ", ".join("(" + ", ".join(map(_literal, record(row))) + ")" for row in rows)
        if values:
            engine.run(f"INSERT INTO {LOADS} VALUES {values}")
        with self._place.replacing(_FILE) as descriptor:
            engine.run(f"COPY (FROM {LOADS} ORDER BY table_name) TO {text(descriptor_path(descriptor))} ({_FORM})")


def _literal(value: str | int | None) -> str:
    return "NULL" if value is None else str(value) if isinstance(value, int) else text(value)
