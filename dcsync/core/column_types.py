"""The types and keys of a table's columns, from the schema documents of an extract. Pure.

A page has a section for each table: a heading with the table's name, and a table of its columns (docs/project/api.md
§8). The layout of the JSON is not documented, so it is searched for objects that describe columns. What a document
calls a type is mapped to a type of DuckDB.
"""

from __future__ import annotations

import html
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from dcsync.core.kinds import group_of
from dcsync.core.model import Json
from dcsync.core.schema_documents import groups_of_document, names_of_table
from dcsync.core.table import is_table
from dcsync.core.wire import WireError, decode_json

TEXT = "VARCHAR"

_TAG = re.compile(r"<([^<>]*)>")
_HEADING_ENDS = frozenset(f"/h{level}" for level in range(1, 7))
_ELEMENTS = frozenset({"td", "th", "tr", *(name.removeprefix("/") for name in _HEADING_ENDS)})
_WORD = re.compile(r"[a-z0-9]+")
_PRECISION = re.compile(r"\b(?:numeric|decimal)\s*\(\s*(\d{1,2})\s*(?:,\s*(\d{1,2})\s*)?\)", re.IGNORECASE)
_MAX_PRECISION = 38
#: The titles of a page's columns, and the keys of a JSON document, by what is below them.
_NAMES = ("column_name", "column", "field", "name")
_TYPES = ("data_type", "type")
_MARKS = ("constraints", "primary_key", "key")
_NOTES = ("notes", "description")
_COLUMNS = ("columns", "fields", "properties")
_KEYS = ("primary_key", "primary_keys", "key")
_TABLES = ("table_name", "table", "name")
_KEY = re.compile(r"\bprimary[\s_-]*key\b|^\s*(?:pk|yes|true)\s*$", re.IGNORECASE)
#: Autodesk's words for `adsk_row_id`, by which rows of delta tables are merged.
_ROW_ID = re.compile(r"\bunique\s+row\s+identifier\b", re.IGNORECASE)
#: Types that contain others. Their values stay text.
_CONTAINERS = frozenset({"array", "json", "list", "object"})
_NUMBERS = frozenset({"decimal", "double", "float", "number", "numeric", "real"})
_INTEGERS = frozenset({"bigint", "int", "integer", "long", "smallint"})
_BOOLEANS = frozenset({"bool", "boolean"})
_TIMES = frozenset({"datetime", "timestamp", "timestamptz"})
_TEXTS = frozenset({"char", "date", "enum", "string", "text", "time", "uuid", "varchar"})
_KNOWN = _CONTAINERS | _NUMBERS | _INTEGERS | _BOOLEANS | _TIMES | _TEXTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What the documents say about a table.

    `types` has a type of DuckDB for each described column, by its name in lower case. `key` are the columns that
    identify a row, in lower case, or none if the documents do not name them. A document can be wrong: check that the
    key is unique before you rely on it.
    """

    types: Mapping[str, str] = field(default_factory=dict)
    key: tuple[str, ...] = ()


#: What one document says, by the table's name in it, in lower case and without `.csv`.
Sections: TypeAlias = Mapping[str, Described]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    name: str
    type: str
    is_key: bool
    is_row_id: bool


def described(documents: Mapping[str, bytes], tables: Iterable[str]) -> Mapping[str, Described]:
    """Return what documents say about each table, both by their original names. Tables without columns are left out."""
    return matched({name: sections(name, body) for name, body in documents.items()}, tables)


def matched(documents: Mapping[str, Sections], tables: Iterable[str]) -> Mapping[str, Described]:
    """Return what the sections of documents say about each table. The first document by name decides, others add."""
    of_group: defaultdict[str, list[Sections]] = defaultdict(list)
    for path, parts in sorted(documents.items()):
        for group in groups_of_document(path):
            of_group[group].append(parts)
    found: dict[str, Described] = {}
    for table in filter(is_table, tables):
        names = names_of_table(table)
        about = [parts[name] for parts in of_group.get(group_of(table), ()) for name in names if name in parts]
        if about:
            types = {column: kind for part in reversed(about) for column, kind in part.types.items()}
            found[table] = Described(types=types, key=next((part.key for part in about if part.key), ()))
    return found


def sections(name: str, body: bytes) -> Sections:
    """Return what one document says about tables. A document that cannot be read says nothing."""
    found: dict[str, Described] = {}
    for table, columns in _json(body) if name.lower().endswith(".json") else _page(name, body):
        if columns:
            label = table.strip(" \t#*`").lower().removesuffix(".csv")
            found.setdefault(label, _table(columns))
    return found


def duckdb_type(name: str) -> str:
    """Return the type of DuckDB for a type's name in a document, such as `timestamp: SQL`.

    A UUID stays text: Autodesk's documents call columns so that have other identifiers too, and the row history, which
    has text, can be joined. A number without a precision is a DOUBLE, which is exact up to 2^53.
    """
    words = set(_WORD.findall(name.lower()))
    precise = _PRECISION.search(name)
    if words & _CONTAINERS or "[]" in name:
        return TEXT
    if precise is not None:
        width, scale = int(precise[1]), int(precise[2] or 0)
        return f"DECIMAL({width}, {scale})" if 0 < width <= _MAX_PRECISION and scale <= width else "DOUBLE"
    if words & _TIMES or {"date", "time"} <= words:
        return "TIMESTAMP"
    for kinds, found in ((frozenset({"date"}), "DATE"), (_BOOLEANS, "BOOLEAN"), (_INTEGERS, "BIGINT")):
        if words & kinds:
            return found
    return "DOUBLE" if words & _NUMBERS else TEXT


def _table(columns: Sequence[_Column]) -> Described:
    key = [column.name for column in columns if column.is_key]
    key = key or [column.name for column in columns if column.is_row_id]
    return Described(
        types={column.name.lower(): duckdb_type(column.type) for column in columns},
        key=tuple(dict.fromkeys(name.lower() for name in key)),
    )


def _page(name: str, body: bytes) -> Iterator[tuple[str, Sequence[_Column]]]:
    """Yield each heading of a page with the columns in the table below it."""
    text = body.decode("utf-8", "replace")
    heading, columns = "", list[_Column]()
    roles: Mapping[str, int] = {}
    for line in _html_lines(text) if re.search(r"\.html?$", name, re.IGNORECASE) else _markdown_lines(text):
        if isinstance(line, str):
            yield heading, columns
            heading, columns, roles = line, [], {}
        elif not roles:
            roles = _roles(line)
        elif max(roles["name"], roles["type"]) < len(line) and line[roles["name"]]:
            columns.append(_cells(line, roles))
    yield heading, columns


def _html_lines(text: str) -> Iterator[str | Sequence[str]]:
    """Yield the text of each heading, and the cells of each row of a table."""
    pieces = _TAG.split(text)
    collected, cells = list[str](), list[str]()
    for before, tag in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        collected.append(before)
        name = "".join(tag.lower().split()[:1])
        if name in {"/td", "/th"}:
            cells.append(_plain(collected))
        elif name == "/tr":
            yield cells
            cells = []
        elif name in _HEADING_ENDS:
            yield _plain(collected)
        if name.removeprefix("/") in _ELEMENTS:
            collected = []


def _plain(pieces: Iterable[str]) -> str:
    return " ".join(html.unescape(" ".join(pieces)).split())


def _markdown_lines(text: str) -> Iterator[str | Sequence[str]]:
    """Yield the text of each heading, and the cells of each row of a table."""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("#"):
            yield line
        elif line.strip("|-: \t"):
            yield [cell.strip(" \t*`") for cell in line.strip("|").split("|")]


def _roles(cells: Sequence[str]) -> Mapping[str, int]:
    """Return the position of a column's name, type, marks and notes. Empty unless the row is a header."""
    names = ["_".join(_WORD.findall(cell.lower())) for cell in cells]
    roles: dict[str, int] = {}
    for role, known in (("name", _NAMES), ("type", _TYPES), ("marks", _MARKS), ("notes", _NOTES)):
        position = next((names.index(name) for name in known if name in names), None)
        if position is not None:
            roles[role] = position
    return roles if {"name", "type"} <= roles.keys() else {}


def _cells(cells: Sequence[str], roles: Mapping[str, int]) -> _Column:
    found = {role: cells[position] for role, position in roles.items() if position < len(cells)}
    return _Column(
        name=found["name"],
        type=found["type"],
        is_key=_KEY.search(found.get("marks", "")) is not None,
        is_row_id=_ROW_ID.search(found.get("notes", "")) is not None,
    )


def _json(body: bytes) -> Iterator[tuple[str, Sequence[_Column]]]:
    """Yield each name that a table has in a JSON document, with its columns."""
    try:
        left: list[tuple[str | None, Json]] = [(None, decode_json(body))]
    except WireError:
        return
    while left:
        label, item = left.pop()
        columns, place = _columns_of(item)
        if isinstance(item, list) and not columns:
            left += ((None, inner) for inner in item)
        labels: list[Json] = [label]
        if isinstance(item, Mapping) and item is not place:
            labels += (item.get(key) for key in _TABLES)
            for key, inner in item.items():
                name = None if key.lower() in _COLUMNS else key
                # A column is not searched as if it were a table.
                if inner is place:
                    labels.append(name)
                else:
                    left.append((name, inner))
        yield from ((name, columns) for name in labels if isinstance(name, str))


def _columns_of(item: Json) -> tuple[Sequence[_Column], Json]:
    """Return the columns that a JSON value lists, and the value where they are: itself, or one in it."""
    found = _listed(item, ())
    if not found and isinstance(item, Mapping):
        keys = _strings(_value(item, _KEYS))
        return next(((columns, inner) for inner in item.values() if (columns := _listed(inner, keys))), ((), None))
    return found, item


def _listed(item: Json, keys: Sequence[str]) -> Sequence[_Column]:
    """Return the columns of a list of objects, or of an object with a type for each column."""
    pairs: list[tuple[Json, Json]] = []
    if isinstance(item, list):
        pairs = [(_value(inner, _NAMES), inner) for inner in item if isinstance(inner, Mapping)]
    elif isinstance(item, Mapping):
        pairs = [(name, {"type": inner} if isinstance(inner, str) else inner) for name, inner in item.items()]
    found = []
    for name, inner in pairs:
        kind = _type_of(inner)
        if not isinstance(name, str) or not name or not isinstance(inner, Mapping) or kind is None:
            return ()
        marks = _value(inner, _MARKS)
        found.append(
            _Column(
                name=name,
                type=kind,
                is_key=name in keys or marks is True or any(map(_KEY.search, _strings(marks))),
                is_row_id=any(map(_ROW_ID.search, _strings(_value(inner, _NOTES)))),
            )
        )
    return found


def _type_of(item: Json) -> str | None:
    """Return the type's name of an object that describes a column. None if it describes something else."""
    if not isinstance(item, Mapping) or _value(item, _COLUMNS) is not None:
        return None
    # In a JSON schema, the format of a string says more.
    name = " ".join((*_strings(_value(item, _TYPES)), *_strings(item.get("format"))))
    return name if _KNOWN & set(_WORD.findall(name.lower())) else None


def _value(item: Mapping[str, Json], names: Sequence[str]) -> Json:
    """Return the first value whose key is one of these names, however it is written."""
    values = {"".join(_WORD.findall(key.lower())): inner for key, inner in item.items()}
    return next((values[name] for name in (name.replace("_", "") for name in names) if name in values), None)


def _strings(value: Json) -> Sequence[str]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str)]
