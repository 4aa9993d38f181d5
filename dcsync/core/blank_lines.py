"""Blank lines of a table. Pure.

`TableCounter` counts a blank line as a record, as RFC 4180 does. Readers skip it, unless the table has one column.
"""

from __future__ import annotations

from collections.abc import Iterable


def blank_lines(lines: Iterable[bytes]) -> int:
    """Return how many records after the header are a blank line. A blank line inside quotes is part of a field.

    `lines` are the file's lines with their ends, as a binary file yields them.
    """
    found = 0
    in_quotes = False
    for number, line in enumerate(lines):
        if number and not in_quotes and line in {b"\n", b"\r\n"}:
            found += 1
        in_quotes ^= line.count(b'"') % 2 == 1
    return found
