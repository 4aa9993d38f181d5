"""`views.sql`: DuckDB views over the latest snapshot, all snapshots and the row history of each data request. Pure.

A statement that fails ends the file: the CLI exits, and Python's `execute` skips the rest. So no statement reads a
table. With the names of the columns, DuckDB opens no file when a view is created, and a file that it cannot read fails
in its own view only, when that is queried. Only the views of the row history open a file, the Parquet that dcsync
wrote. They come last.

The mirror's place is in a variable. A view evaluates it at each query, so the views follow when it is set again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from functools import lru_cache
from typing import TypeAlias

from dcsync.core.column_types import TEXT
from dcsync.core.columns import distinct_names
from dcsync.core.names import printable
from dcsync.core.sql import csv_form, has_line_break, identifier, text
from dcsync.core.table import TableKind
from dcsync.core.wire import time_json

#: The database of the macros that all data requests share.
_SHARED = "dcsync_mirror"
_SCHEMAS = ("latest", "snapshots", "history", "as_of")
#: The columns of the row history's Parquet that are ours. A ledger has the last one, other tables have the others.
_VALIDITY = ("_valid_from", "_valid_to", "_first_seen")
_GLOB = re.compile(r"[*?\[]")
#: The columns of a file whose header is not known, because it is too long or not UTF-8. To read it is an error.
_UNKNOWN = ("unknown_header",)

#: A table's header. None is an unknown one.
Header: TypeAlias = tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableHistory:
    """A table of a data request, by its name on disk.

    `headers` are all its headers so far. If there are several, `runs` say from which snapshot on each applies: pairs
    of a snapshot's folder below the data request's and a header, in the order of the folders. Without `runs`, such a
    table has no view of its snapshots. `types` are those
    of `column_types.Described`. `parquet` is the path of the table's row history, if there is one.
    """

    name: str
    headers: Sequence[Header]
    runs: Sequence[tuple[str, Header]] = ()
    #: The header in the latest snapshot. None if that is not known.
    columns: Header = None
    #: Whether the latest snapshot has the table.
    is_current: bool = True
    types: Mapping[str, str] = field(default_factory=dict)
    kind: TableKind | None = None
    parquet: str | None = None

    @property
    def has_columns(self) -> bool:
        """Whether the table can be queried: an empty file has no header."""
        return self.parquet is not None or any(header is None or any(header) for header in self.headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTables:
    """A data request's folder and tables. `depth` is the number of folders from the request's to a snapshot's.

    `snapshots` are the folders of the snapshots below the request's, with the time when Autodesk completed each.
    """

    account: str
    slug: str
    description: str
    folder: str
    latest: str | None
    depth: int
    tables: Sequence[TableHistory]
    snapshots: Sequence[tuple[datetime, str]] = ()
    #: The folder of its row history.
    history: str = ""


_HEAD = """\
-- DuckDB views over this mirror, written by dcsync at {written_at}. The next run replaces it.
--   duckdb -init views.sql
--   or in Python: duckdb.connect().execute(open("views.sql").read())
-- latest.TABLE: the latest snapshot, with the types in Autodesk's schema documents. A value that does not fit is NULL.
-- snapshots.TABLE: all snapshots, as text, with the columns filename and snapshot (the snapshot's folder).
-- history.TABLE: the row history, as text, with _valid_from and _valid_to or _first_seen, if the mirror has one.
--   Otherwise, it is snapshots.TABLE.
-- as_of.TABLE(day): the rows at the end of a day ('2026-11-01') or at a time ('2026-11-01 12:00', in UTC), with types.

-- The place of the mirror. For a copy or a share, set it to the path there, before or after you load this file.
SET VARIABLE dcsync_root = coalesce(getvariable('dcsync_root'), {root});
ATTACH IF NOT EXISTS ':memory:' AS {shared};
CREATE OR REPLACE MACRO {shared}.main.path(below) AS \
regexp_replace(rtrim(getvariable('dcsync_root'), '/'), '([*?[])', '[\\1]', 'g') || below;
CREATE OR REPLACE MACRO {shared}.main.utc(value) AS CASE \
WHEN regexp_matches(value, ':.*[+-]\\d\\d(:?\\d\\d)?$') THEN TRY_CAST(value AS TIMESTAMPTZ) AT TIME ZONE 'UTC' \
ELSE TRY_CAST(value AS TIMESTAMP) END;
CREATE OR REPLACE MACRO {shared}.main.moment(day) AS CASE \
WHEN length(day::VARCHAR) = 10 THEN \
((day::VARCHAR::DATE + 1)::TIMESTAMP AT TIME ZONE {zone}) - INTERVAL 1 MICROSECOND \
WHEN regexp_matches(day::VARCHAR, '(Z|[+-]\\d\\d(:?\\d\\d)?)$') THEN day::VARCHAR::TIMESTAMPTZ \
ELSE (day::VARCHAR || 'Z')::TIMESTAMPTZ END;"""


def render(root: str, requests: Sequence[RequestTables], *, written_at: datetime, zone: tzinfo) -> str:
    """Return the text of `views.sql` for a mirror at the absolute path `root`. The first data request is in use.

    A day ends in `zone`. A path that is not UTF-8 cannot be written in SQL: the file then works in the mirror's folder.
    """
    names = _database_names(requests)
    root = root if root == root.encode("utf-8", "ignore").decode() else "."
    zone_name, at = text(str(zone)), time_json(written_at)
    lines = [_HEAD.format(written_at=at, root=text(root), shared=_SHARED, zone=zone_name)]
    if not requests:
        lines.append("-- The mirror has no snapshots yet.")
    reading = []
    for request, name in zip(requests, names, strict=True):
        lines += _request(request, name)
        for table in request.tables:
            if table.has_columns:
                view = _View(request, identifier(name), table)
                lines += view.without_reading()
                reading += view.with_reading()
    if requests:
        lines += [
            "",
            "-- latest.… and the others without a prefix belong to this data request:",
            f"USE {identifier(names[0])};",
        ]
    if reading:
        lines += ["", "-- From here on DuckDB opens files.", *reading]
    return "\n".join(lines) + "\n"


def stem(name: str) -> str:
    """Return the name of a table's views and of its row history, by the table's name on disk."""
    return re.sub(r"\.csv$", "", name, flags=re.IGNORECASE) or name


def _request(request: RequestTables, name: str) -> list[str]:
    database = identifier(name)
    lines = [
        f"-- {printable(request.account)}: {printable(request.description, 200)}",
        f"ATTACH IF NOT EXISTS ':memory:' AS {database};",
        *(f"CREATE SCHEMA IF NOT EXISTS {database}.{schema};" for schema in _SCHEMAS),
    ]
    if request.snapshots:
        listed = ", ".join(
            f"{{'completed_at': TIMESTAMPTZ {text(at.isoformat())}, 'snapshot': {text(folder)}}}"
            for at, folder in sorted(request.snapshots)
        )
        variable = f"getvariable({text(f'dcsync_snapshots_{name}')})"
        newest = f"list_last(list_filter({variable}, lambda s: s.completed_at <= {_moment('_day')}))"
        lines += [
            f"SET VARIABLE dcsync_snapshots_{name} = [{listed}];",
            f"CREATE OR REPLACE MACRO {database}.main.snapshot_at(_day) AS {newest}.snapshot;",
        ]
    return ["", *lines]


class _View:
    """The views of one table. The headers of all snapshots are looked at once."""

    def __init__(self, request: RequestTables, database: str, table: TableHistory) -> None:
        self.request, self.database, self.table = request, database, table
        self._name = identifier(stem(table.name))
        headers = [_UNKNOWN if header is None else header for header in table.headers]
        # The columns of all snapshots, as SQL compares names.
        columns = {name.lower(): name for header in headers for name in _names(header)}
        self._columns = list(columns.values())
        self._filename, self._snapshot = _own("filename", columns), _own("snapshot", columns)
        #: The parameter of the table's macro. A column of that name would be taken for it.
        self._day = _own("_day", columns)
        below = table.name.count("/") + 1
        part = f"[-{request.depth + below}:-{below + 1}]"
        #: The part of a file's path that is the snapshot's folder, wherever the mirror is.
        self._folder = f"array_to_string(string_split({identifier(self._filename)}, '/'){part}, '/')"

    def without_reading(self) -> list[str]:
        """Return the statements that succeed whatever the files contain."""
        found = []
        if self.request.latest is not None and self.table.is_current:
            found.append(self._create("latest", self._latest(self.table.columns or _UNKNOWN)))
        query = self._snapshots()
        if query is not None:
            found.append(self._create("snapshots", query))
            if self.table.parquet is None:
                found += self._over_snapshots()
        return found

    def with_reading(self) -> list[str]:
        """Return the statements that fail if DuckDB cannot open a file."""
        if self.table.parquet is None:
            return []
        source = f"read_parquet({_path(f'/{self.table.parquet}')}, hive_partitioning = false)"
        return [self._create("history", f"FROM {source}"), self._as_of_history(source)]

    def _latest(self, header: tuple[str, ...]) -> str:
        source = self._source(_path(f"/{self.request.latest}/{self.table.name}"), header)
        rows = f"(SELECT * FROM {source}{without})" if (without := self._without_header(header)) else source
        return f"SELECT *{self._typed(_names(header))} FROM {rows}"

    def _snapshots(self) -> str | None:
        """Return the query over all snapshots, in which each file is read with its own header. None if none has one."""
        runs = self.table.runs or [("", header) for header in self.table.headers]
        if len(runs) != 1 and not self.table.runs:
            return None
        found: dict[tuple[str, ...], list[str]] = {}
        for (first, header), (following, _) in zip(runs, [*runs[1:], ("", None)], strict=True):
            bounds = [f">= {text(first)}"] * (first != runs[0][0]) + [f"< {text(following)}"] * (following != "")
            columns = _UNKNOWN if header is None else header
            if any(columns):
                where = " AND ".join(f"{self._folder} {bound}" for bound in bounds)
                found.setdefault(columns, []).append(f"({where})" if where else "true")
        # The columns of the newest snapshot come first.
        queries = [self._select_snapshots(columns, " OR ".join(where)) for columns, where in reversed(found.items())]
        return " UNION ALL BY NAME ".join(queries) or None

    def _over_snapshots(self) -> list[str]:
        """Return the statements for a table without a row history."""
        rows = f"{self.database}.snapshots.{self._name}"
        found = [self._create("history", f"FROM {rows}")]
        if self.request.snapshots and self.table.kind not in {TableKind.WINDOW, TableKind.DELTA}:
            own = identifier(self._filename), identifier(self._snapshot)
            where = f"{own[1]} = {self.database}.main.snapshot_at({self._day})"
            typed = self._typed(self._columns)
            found.append(self._as_of(f"SELECT * EXCLUDE ({', '.join(own)}){typed} FROM {rows} WHERE {where}"))
        return found

    def _select_snapshots(self, header: tuple[str, ...], where: str) -> str:
        request = self.request
        path = _path(f"/{request.folder}/", "*/" * request.depth, self.table.name)
        # If snapshots are directly in the request's folder, so is `latest`, which would repeat one of them.
        if request.depth == 1 and request.latest is not None:
            beside = f"{self._folder} <> {text(request.latest.rpartition('/')[2])}"
            where = f"{beside} AND ({where})"
        own = f"{self._folder} AS {identifier(self._snapshot)}"
        chosen = "" if where == "true" else f" WHERE {where}"
        return f"SELECT *, {own} FROM {self._source(path, header)}{chosen}{self._without_header(header)}"

    def _as_of_history(self, source: str) -> str:
        """Return the macro over the row history, whichever of our columns it has."""
        names = [name for name in self._columns if self.table.types.get(name.lower(), TEXT) != TEXT]
        nulls = [f"NULL::TIMESTAMPTZ AS {name}" for name in _VALIDITY]
        nulls += [f"NULL::VARCHAR AS {identifier(name)}" for name in names]
        rows = f"(FROM {source} UNION ALL BY NAME SELECT {', '.join(nulls)} WHERE false)"
        (start, end, seen), moment = _VALIDITY, _moment(self._day)
        return self._as_of(
            f"SELECT * EXCLUDE ({', '.join(_VALIDITY)}){self._typed(names)} FROM {rows} "
            f"WHERE ({start} <= {moment} OR {seen} <= {moment}) AND ({end} IS NULL OR {moment} < {end})"
        )

    def _create(self, schema: str, query: str) -> str:
        return f"CREATE OR REPLACE VIEW {self.database}.{schema}.{self._name} AS {query};"

    def _as_of(self, query: str) -> str:
        return f"CREATE OR REPLACE MACRO {self.database}.as_of.{self._name}({self._day}) AS TABLE {query};"

    def _source(self, path: str, header: tuple[str, ...]) -> str:
        filename = "true" if self._filename == "filename" else text(self._filename)
        return f"read_csv({path}, {csv_form(header)}, {_declared(header)}, filename = {filename})"

    def _without_header(self, header: tuple[str, ...]) -> str:
        """Return the clause that leaves out the header of each file, if it is read as a row."""
        if not has_line_break(header):
            return ""
        names = zip(_names(header), header, strict=True)
        is_header = " AND ".join(f"coalesce({identifier(name)}, '') = {_portable(title)}" for name, title in names)
        number = f"row_number() OVER (PARTITION BY {identifier(self._filename)}, {is_header})"
        return f" QUALIFY NOT ({is_header}) OR {number} > 1"

    def _typed(self, names: Sequence[str]) -> str:
        types = [(identifier(name), self.table.types.get(name.lower(), TEXT)) for name in names]
        casts = ", ".join(f"{_cast(name, kind)} AS {name}" for name, kind in types if kind != TEXT)
        return f" REPLACE ({casts})" if casts else ""


@lru_cache(maxsize=1024)
def _names(header: tuple[str, ...]) -> tuple[str, ...]:
    return distinct_names(header)


@lru_cache(maxsize=1024)
def _declared(header: tuple[str, ...]) -> str:
    """Return the option that declares the columns of a header as text. Most data requests have the same tables."""
    return f"columns = {{{', '.join(f'{text(name)}: {text(TEXT)}' for name in _names(header))}}}"


def _own(name: str, taken: Collection[str]) -> str:
    """Return a name that no column of the table has."""
    while name in taken:
        name = f"source_{name}"
    return name


def _database_names(requests: Sequence[RequestTables]) -> list[str]:
    """Return a distinct name for each data request's views, which SQL accepts without quotes."""
    names: list[str] = []
    for request in requests:
        plain = re.sub(r"[^a-z0-9]+", "_", f"{request.account} {request.slug}".lower()).strip("_") or "mirror"
        name, number = plain, 1
        while name in {*names, _SHARED}:
            number += 1
            name = f"{plain}_{number}"
        names.append(name)
    return names


def _cast(name: str, kind: str) -> str:
    """Return the value of a text column as a type, or NULL.

    DuckDB 2.0 lets the CSV reader cast a mere column, and then a value that does not fit is an error. It ignores the
    offset of a time that is cast to a TIMESTAMP.
    """
    value = f"trim({name})"
    return f"{_SHARED}.main.utc({value})" if kind == "TIMESTAMP" else f"TRY_CAST({value} AS {kind})"


def _portable(title: str) -> str:
    """Return a text as SQL without a carriage return, which a program that reads the file may replace."""
    return text(title).replace("\r", "' || chr(13) || '")


def _moment(day: str) -> str:
    return f"{_SHARED}.main.moment({day})"


def _path(*parts: str) -> str:
    """Return a path below the root as an SQL expression. Every second part is a pattern. The others are escaped."""
    below = "".join(part if index % 2 else _GLOB.sub(r"[\g<0>]", part) for index, part in enumerate(parts))
    return f"{_SHARED}.main.path({text(below)})"
