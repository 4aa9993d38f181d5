"""Find the line of a CSV table that no reader can be sure about. Pure.

Tables are read by DuckDB, which refuses such a file, but names lines in words of its own. This slower reader is used
only for a file that was refused.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

#: The longest line that is read, in bytes. DuckDB has several buffers of this size.
LONGEST_LINE = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvDefect:
    """A defect of a table: the line on which the record begins, from 1, and the reason in words."""

    line: int
    reason: str


def first_defect(lines: Iterable[bytes], columns: int) -> CsvDefect | None:
    """Return the first defect of a table with a header of `columns` columns, or None.

    `lines` are the file's lines with their ends, as a binary file yields them.
    """
    position = _Position()
    csv.field_size_limit(LONGEST_LINE)
    records = csv.reader(position.texts(lines), strict=True)
    began = 1
    mixed = None
    try:
        for record in records:
            # Every reader skips an empty line, which is a record only of a table with one column.
            if record and len(record) != columns:
                fields = "1 field" if len(record) == 1 else f"{len(record)} fields"
                return CsvDefect(line=began, reason=f"it has {fields} and the header {columns}")
            if mixed is None and position.has_other_end:
                mixed = CsvDefect(line=position.line, reason="it ends with another line break than the lines before")
            began = position.line + 1
    except UnicodeDecodeError:
        return CsvDefect(line=position.line, reason="it is not UTF-8")
    except csv.Error:
        return CsvDefect(line=began, reason=position.reason)
    return mixed


class _Position:
    """The line that is being read."""

    def __init__(self) -> None:
        self.line = 0
        self._text = ""
        self._first_end = ""
        self._is_at_end = False

    def texts(self, lines: Iterable[bytes]) -> Iterator[str]:
        """Yield the lines as text. Raises `UnicodeDecodeError`."""
        for line in lines:
            self.line += 1
            self._text = line.decode("utf-8-sig" if self.line == 1 else "utf-8")
            self._first_end = self._first_end or self._end
            yield self._text
        self._is_at_end = True

    @property
    def _end(self) -> str:
        return self._text[len(self._text.rstrip("\r\n")) :]

    @property
    def has_other_end(self) -> bool:
        """Whether this line ends differently than the first. The last line may have no end."""
        return self._end not in {"", self._first_end}

    @property
    def reason(self) -> str:
        """Why the record cannot be read."""
        if self._is_at_end:
            return "a quoted field has no end"
        if len(self._text) > LONGEST_LINE:
            return f"a field is longer than {LONGEST_LINE >> 20} MiB"
        if "\r" in self._text.rstrip("\r\n"):
            return "a carriage return stands inside a line, outside quotes"
        return "text follows the closing quote of a field"
