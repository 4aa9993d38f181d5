"""Find what the schema documents of an extract say about each of its tables. Pure.

An extract has a folder with one HTML page and one JSON document for each schema (api.md §8). A page has a section
for each table, which begins with the table's name. The layout of the JSON is not documented, so it is searched for
objects that belong to a table.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dcsync.core.kinds import SUPPORTED, group_of
from dcsync.core.model import Json
from dcsync.core.table import is_table
from dcsync.core.wire import WireError, decode_json

#: The largest schema, with its types and descriptions, is a page of about 100 KB.
MAX_SIZE = 4 << 20
_PATH = re.compile(r"(?:^|/)schemas?/[^/]+\.(?:html?|json|md|txt)$", re.IGNORECASE)
#: A `<` that begins no tag is text, and many of them take no quadratic time.
_TAG = re.compile(r"<[^<>]*>")
_WORD = re.compile(r"[^a-z0-9]+")


def is_schema_document(name: str) -> bool:
    """Whether a file of an extract is a schema document, by its name."""
    return _PATH.search(name) is not None


def texts_of_tables(documents: Mapping[str, bytes], tables: Iterable[str]) -> Mapping[str, str]:
    """Return the text about each table, by its original name, from documents by their original names.

    A schema counts only if its documents mention date ranges for at least one of its tables. Otherwise silence about
    the others would say nothing, and they are left out.
    """
    groups: dict[str, dict[str, str]] = {}
    for table in tables:
        if is_table(table):
            stem, short = names_of_table(table)
            groups.setdefault(group_of(table), {}).update(dict.fromkeys((stem, f"{stem}.csv", short), table))
    found: dict[str, str] = {}
    for group, names in groups.items():
        texts: dict[str, list[str]] = {}
        for path, body in sorted(documents.items()):
            if group in groups_of_document(path):
                for name, text in _sections(path.lower(), body, names):
                    texts.setdefault(name, []).append(text)
        joined = {name: "\n".join(parts) for name, parts in texts.items()}
        if any(SUPPORTED.search(text) for text in joined.values()):
            found |= joined
    return found


def names_of_table(table: str) -> tuple[str, str]:
    """Return the names that documents have for a table: `group_table`, and `table` as in the sections of its group."""
    stem = table.rpartition("/")[2].lower().removesuffix(".csv")
    return stem, stem.partition("_")[2] or stem


def groups_of_document(path: str) -> Sequence[str]:
    """Return the words of a document's name. One of them is the service group whose tables it is about."""
    return _WORD.split(path.rpartition("/")[2].lower().rpartition(".")[0])


def _sections(path: str, body: bytes, names: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Return pairs of an original name and a text about that table."""
    if not path.endswith(".json"):
        return _headed(body, names)
    try:
        return _objects(decode_json(body), names)
    except WireError:
        return ()


def _headed(body: bytes, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the text below each line that is the name of a table."""
    table: str | None = None
    lines: list[str] = []
    for line in _lines(body):
        heading = names.get(line.lower())
        if heading is not None:
            if table is not None:
                yield table, "\n".join(lines)
            table, lines = heading, []
        lines.append(line)
    if table is not None:
        yield table, "\n".join(lines)


def _lines(body: bytes) -> Iterator[str]:
    for line in html.unescape(_TAG.sub("\n", body.decode("utf-8", "replace"))).splitlines():
        text = line.strip(" \t#*`")
        if text:
            yield text


def _objects(value: Json, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the text below each key that is a table, and of each object that has a table's name as a value."""
    left: list[Json] = [value]
    while left:
        item = left.pop()
        if isinstance(item, Mapping):
            for key, inner in item.items():
                table = names.get(key.lower())
                if table is not None:
                    yield table, _text(inner)
                elif isinstance(inner, str) and inner.lower() in names:
                    yield names[inner.lower()], _text(item)
            left += item.values()
        elif isinstance(item, list):
            left += item


def _text(value: Json) -> str:
    """Return all strings of a value."""
    left, found = [value], []
    while left:
        item = left.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, Mapping):
            left += item.values()
        elif isinstance(item, list):
            left += item
    return "\n".join(found)
