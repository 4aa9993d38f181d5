"""`views.sql`: DuckDB views over the latest snapshot and over all snapshots of each data request. Pure.

DuckDB reads the files when a view is created. From a glob it reads only the first file's header and takes columns by
name. With `union_by_name` it opens every file (measured for 300 snapshots of one table: 149 ms, and 4 ms without), so
the views use that option only where a table's columns have changed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dcsync.core.names import printable
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
    for request, name in zip(requests, names, strict=True):
        lines += ["", *_request(root.rstrip("/"), request, name)]
    if requests:
        lines += [
            "",
            "-- latest.… and history.… without a prefix belong to this data request:",
            f"USE {_identifier(names[0])};",
        ]
    return "\n".join(lines) + "\n"


def _request(root: str, request: RequestTables, name: str) -> list[str]:
    database = _identifier(name)
    lines = [
        f"-- {printable(request.account)}: {printable(request.description, 200)}",
        f"ATTACH IF NOT EXISTS ':memory:' AS {database};",
        f"CREATE SCHEMA IF NOT EXISTS {database}.latest;",
        f"CREATE SCHEMA IF NOT EXISTS {database}.history;",
    ]
    for table in request.tables:
        if table.has_columns:
            lines += _table(root, request, database, table)
    return lines


def _table(root: str, request: RequestTables, database: str, table: TableHistory) -> list[str]:
    view = _identifier(re.sub(r"\.csv$", "", table.name, flags=re.IGNORECASE) or table.name)
    lines = []
    if request.latest is not None and table.size:
        path = _path(f"{root}/{request.latest}/{table.name}")
        sample = -1 if table.size <= _WHOLE_SAMPLE else _SAMPLE_ROWS
        lines.append(
            f"CREATE OR REPLACE VIEW {database}.latest.{view} AS SELECT * FROM read_csv({path}, {_FORM}, "
            f"sample_size = {sample}{_filename(table)});"
        )
    above = f"{root}/{request.folder}/"
    path = _path(above, "*/" * request.depth, table.name)
    union = "" if table.is_steady else ", union_by_name = true"
    # The part between the request's folder and the file's name is the snapshot's folder.
    snapshot = f"filename[{len(above) + 1}:-{len(table.name) + 2}]"
    more = "" if _has(table, "snapshot") or _has(table, "filename") else f", {snapshot} AS snapshot"
    # If snapshots are directly in the request's folder, so is `latest`, which would repeat one of them.
    filtered = f" WHERE NOT starts_with(filename, {_text(f'{root}/{request.latest}/')})" if _has_latest(request) else ""
    lines.append(
        f"CREATE OR REPLACE VIEW {database}.history.{view} AS SELECT *{more} FROM read_csv({path}, {_FORM}, "
        f"all_varchar = true{_filename(table)}{union}){filtered};"
    )
    return lines


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
    return _text("".join(part if index % 2 else _GLOB.sub(r"[\g<0>]", part) for index, part in enumerate(parts)))


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
