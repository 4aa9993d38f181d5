"""`views.sql`: DuckDB views over the latest snapshot and over all snapshots of each data request. Pure.

DuckDB reads the files when a view is created. From a glob it reads only the first file's header and takes columns by
name. With `union_by_name` it opens every file (measured for 300 snapshots of one table: 149 ms, and 4 ms without), so
the views use that option only where a table's columns have changed.

A file that DuckDB cannot read makes its statement fail, and Python's `execute` then skips the rest of the script. With
the names of the columns, DuckDB does not read the file when a view is created. Such views come first, of all tables and
data requests. The statements that read files come last, and give the tables of the latest snapshot their types.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dcsync.core.names import printable
from dcsync.core.sql import identifier, text
from dcsync.core.wire import time_json

#: Up to this size DuckDB reads the whole table to detect its types. From a larger table it reads this many rows.
_WHOLE_SAMPLE = 4 << 20
_SAMPLE_ROWS = 200_000
_GLOB = re.compile(r"[*?\[]")
#: Autodesk writes RFC 4180. With these options DuckDB does not guess, which goes wrong on a table without rows.
_FORM = "header = true, delim = ',', quote = '\"', escape = '\"'"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableHistory:
    """A table of a data request, by its name on disk. `headers` are all its headers so far. None is an unknown one."""

    name: str
    headers: Sequence[tuple[str, ...] | None]
    #: The size in the latest snapshot. None if that snapshot does not have the table.
    size: int | None
    #: The header in the latest snapshot, if it is known.
    columns: tuple[str, ...] | None = None
    #: Whether the latest snapshot's table is known to be malformed. Its types are then not detected.
    is_malformed: bool = False

    @property
    def has_columns(self) -> bool:
        """Whether the table can be queried: an empty file has no header."""
        return any(header is None or any(header) for header in self.headers)

    @property
    def is_steady(self) -> bool:
        """Whether the table has the same columns in every snapshot."""
        return len(self.headers) == 1 and self.headers[0] is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTables:
    """A data request's folder and tables. `depth` is the number of folders from the request's to a snapshot's."""

    account: str
    slug: str
    description: str
    folder: str
    latest: str | None
    depth: int
    tables: Sequence[TableHistory]


def render(root: str, requests: Sequence[RequestTables], *, written_at: datetime) -> str:
    """Return the text of `views.sql` for a mirror at the absolute path `root`. The first data request is in use."""
    names = _database_names(requests)
    lines = [
        f"-- DuckDB views over this mirror, written by dcsync at {time_json(written_at)}. The next run replaces it.",
        "--   duckdb -init views.sql",
        '--   or in Python: duckdb.connect().execute(open("views.sql").read())',
        "-- latest.<table> is the latest snapshot, with the types that DuckDB detects.",
        "-- history.<table> is every snapshot. Its columns are text, because types can change between snapshots.",
        "-- It also has the columns filename and snapshot (the snapshot's folder, which sorts by time).",
    ]
    if not requests:
        lines.append("-- The mirror has no snapshots yet.")
    reading = []
    for request, name in zip(requests, names, strict=True):
        lines += ["", *_request(request, name)]
        for table in request.tables:
            if table.has_columns:
                view = _View(root.rstrip("/"), request, identifier(name), table)
                lines += view.without_reading()
                reading += view.with_reading()
    if requests:
        lines += [
            "",
            "-- latest.… and history.… without a prefix belong to this data request:",
            f"USE {identifier(names[0])};",
        ]
    if reading:
        lines += ["", "-- From here on DuckDB reads the files, for the types and for columns that changed.", *reading]
    return "\n".join(lines) + "\n"


def _request(request: RequestTables, name: str) -> list[str]:
    database = identifier(name)
    return [
        f"-- {printable(request.account)}: {printable(request.description, 200)}",
        f"ATTACH IF NOT EXISTS ':memory:' AS {database};",
        f"CREATE SCHEMA IF NOT EXISTS {database}.latest;",
        f"CREATE SCHEMA IF NOT EXISTS {database}.history;",
    ]


@dataclass(frozen=True, slots=True)
class _View:
    """The views of one table."""

    root: str
    request: RequestTables
    database: str
    table: TableHistory

    def without_reading(self) -> list[str]:
        """Return the statements that succeed whatever the files contain. All columns are text."""
        found = []
        known = _declared(self.table.columns)
        if self._has_latest and known is not None:
            found.append(self._latest(known))
        known = _declared(self.table.headers[0]) if self.table.is_steady else None
        if known is not None:
            found.append(self._history(known))
        return found

    def with_reading(self) -> list[str]:
        """Return the statements that fail if DuckDB cannot read a file."""
        found = []
        if self._has_latest and not self.table.is_malformed:
            size = self.table.size or 0
            found.append(self._latest(f"sample_size = {-1 if size <= _WHOLE_SAMPLE else _SAMPLE_ROWS}"))
        if not self.table.is_steady:
            found.append(self._history("all_varchar = true, union_by_name = true"))
        elif _declared(self.table.headers[0]) is None:
            found.append(self._history("all_varchar = true"))
        return found

    @property
    def _has_latest(self) -> bool:
        return self.request.latest is not None and bool(self.table.size)

    @property
    def _name(self) -> str:
        return identifier(re.sub(r"\.csv$", "", self.table.name, flags=re.IGNORECASE) or self.table.name)

    def _latest(self, options: str) -> str:
        path = _path(f"{self.root}/{self.request.latest}/{self.table.name}")
        return (
            f"CREATE OR REPLACE VIEW {self.database}.latest.{self._name} AS SELECT * FROM read_csv({path}, {_FORM}, "
            f"{options}{_filename(self.table)});"
        )

    def _history(self, options: str) -> str:
        table, request = self.table, self.request
        above = f"{self.root}/{request.folder}/"
        path = _path(above, "*/" * request.depth, table.name)
        # The part between the request's folder and the file's name is the snapshot's folder.
        snapshot = f"filename[{len(above) + 1}:-{len(table.name) + 2}]"
        more = "" if _has(table, "snapshot") or _has(table, "filename") else f", {snapshot} AS snapshot"
        # If snapshots are directly in the request's folder, so is `latest`, which would repeat one of them.
        latest = text(f"{self.root}/{request.latest}/")
        filtered = f" WHERE NOT starts_with(filename, {latest})" if _has_latest(request) else ""
        return (
            f"CREATE OR REPLACE VIEW {self.database}.history.{self._name} AS SELECT *{more} FROM read_csv({path}, "
            f"{_FORM}, {options}{_filename(table)}){filtered};"
        )


def _declared(header: tuple[str, ...] | None) -> str | None:
    """Return the options that declare these columns as text. None if DuckDB would name the columns differently."""
    if header is None or not all(header) or len({name.lower() for name in header}) != len(header):
        return None
    columns = ", ".join(f"{text(name)}: 'VARCHAR'" for name in header)
    return f"auto_detect = false, columns = {{{columns}}}"


def _has_latest(request: RequestTables) -> bool:
    """Whether a glob over the snapshots also matches `latest`."""
    return request.depth == 1 and request.latest is not None


def _filename(table: TableHistory) -> str:
    """Return the option that adds the file's name in a column whose name the table does not have."""
    return ", filename = 'source_filename'" if _has(table, "filename") else ", filename = true"


def _has(table: TableHistory, column: str) -> bool:
    return any(column in map(str.lower, header) for header in table.headers if header is not None)


def _database_names(requests: Sequence[RequestTables]) -> list[str]:
    """Return a distinct name for each data request's views, which SQL accepts without quotes."""
    names: list[str] = []
    for request in requests:
        plain = re.sub(r"[^a-z0-9]+", "_", f"{request.account} {request.slug}".lower()).strip("_") or "mirror"
        name, number = plain, 1
        while name in names:
            number += 1
            name = f"{plain}_{number}"
        names.append(name)
    return names


def _path(*parts: str) -> str:
    """Return a path as an SQL string. Every second part is a pattern. The other parts are escaped."""
    return text("".join(part if index % 2 else _GLOB.sub(r"[\g<0>]", part) for index, part in enumerate(parts)))
