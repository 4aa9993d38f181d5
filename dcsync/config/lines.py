"""The line number of each key in a TOML text, so that a message can point to a mistake.

tomllib does not report positions. This scan knows tables, arrays of tables, and dotted and quoted keys. A key in an
inline table gets the line on which the table begins. Multi-line strings and arrays are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

KeyPath = tuple[str | int, ...]

_TABLE = re.compile(r"\s*\[(\[)?\s*(?P<keys>[^\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(
    r"""\s*(?P<keys>(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
_TOKEN = re.compile(r"""\"{3}|'{3}|"(?:\\.|[^"\\])*"|'[^']*'|#.*""")
_INLINE = re.compile(r"""[{,]\s*([A-Za-z0-9_-]+|"[^"]*"|'[^']*')\s*=""")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line (from 1) of every table and key by its path. Arrays of tables count from 0."""
    lines: dict[KeyPath, int] = {}
    counts: dict[KeyPath, int] = {}
    table: KeyPath = ()
    closing: str | None = None
    depth = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if closing is not None:
            if closing in line:
                closing = None
            continue
        if depth > 0:
            depth += _balance(line)
            continue
        header = _TABLE.match(line)
        if header is not None:
            path: KeyPath = _resolve(_parts(header["keys"]), counts)
            if header[1]:
                index = counts.get(path, -1) + 1
                counts[path] = index
                lines.setdefault(path, number)
                path = (*path, index)
            table = path
            lines.setdefault(table, number)
            continue
        key = _KEY.match(line)
        if key is None:
            continue
        path = (*table, *_parts(key["keys"]))
        for length in range(len(table) + 1, len(path) + 1):
            lines.setdefault(path[:length], number)
        value = line[key.end() :]
        for inner in _INLINE.findall(value):
            lines.setdefault((*path, inner.strip("\"'")), number)
        closing = _left_open(value)
        depth = _balance(value) if closing is None else 0
    return lines


def line_of(path: Sequence[str | int], lines: dict[KeyPath, int]) -> int | None:
    """Return the line of a path, or of the nearest enclosing table in the file."""
    for length in range(len(path), 0, -1):
        found = lines.get(tuple(path[:length]))
        if found is not None:
            return found
    return None


def _parts(keys: str) -> KeyPath:
    return tuple(part.strip("\"'") for part in _PART.findall(keys))


def _resolve(path: KeyPath, counts: dict[KeyPath, int]) -> KeyPath:
    """Return the path with indexes: `[account.x]` after `[[account]]` belongs to the last account."""
    resolved: KeyPath = ()
    for index, part in enumerate(path):
        resolved = (*resolved, part)
        if resolved in counts and index < len(path) - 1:
            resolved = (*resolved, counts[resolved])
    return resolved


def _left_open(value: str) -> str | None:
    """Return the closing quotes of a multi-line string that begins in a value and does not end on its line."""
    opened: str | None = None
    for token in _TOKEN.finditer(value):
        if opened is None and token[0].startswith("#"):
            break
        if token[0] in {'"""', "'''"}:
            opened = token[0] if opened is None else None if opened == token[0] else opened
    return opened


def _balance(text: str) -> int:
    """Return the number of brackets left open, not counting strings and comments."""
    plain = re.sub(r'"(?:\\.|[^"\\])*"|\'[^\']*\'', "", text).split("#", 1)[0]
    return plain.count("[") + plain.count("{") - plain.count("]") - plain.count("}")
