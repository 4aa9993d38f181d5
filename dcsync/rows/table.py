"""A CSV table of a snapshot, read exactly: every field is the text in the file."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from dcsync.core.blank_lines import blank_lines
from dcsync.core.columns import distinct_names
from dcsync.core.csv_defects import first_defect
from dcsync.core.sql import csv_text, has_line_break
from dcsync.core.table import HEADER_CAP, TableCounter
from dcsync.errors import RowsFailed, RowsInterrupted, RowsUnproved, RowsUnreadable
from dcsync.mirror import disk
from dcsync.rows.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvTable:
    """An open CSV table. `columns` are its columns by distinct names, `source` is what SQL selects from.

    An empty field is NULL. The field `""` is the empty string.
    """

    path: str
    descriptor: int
    header: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def source(self) -> str:
        """The table as an SQL expression, for FROM."""
        return csv_text(descriptor_path(self.descriptor), self.columns)

    def count(self, engine: Engine) -> int:
        """Return the number of rows. Reads the whole file. Raises `RowsUnreadable`."""
        with self.reading():
            return int(str(engine.one(f"SELECT count(*) FROM {self.source}")[0]))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn a failure to read this file into `RowsUnreadable`, with the line and the reason."""
        try:
            yield
        except RowsInterrupted:
            raise
        except RowsFailed as error:
            defect = self._defect()
            if defect is None and has_line_break(self.header) and not isinstance(error, RowsUnproved):
                defect = 1, "the name of a column has a line break that is not that of the lines"
            if defect is None:
                raise
            raise _unreadable(self.path, *defect) from error

    def blank_lines(self) -> int:
        """Return the number of blank lines, which are rows only of a table with one column. Reads the whole file."""
        with self._lines() as lines:
            return blank_lines(lines)

    def _defect(self) -> tuple[int, str] | None:
        with self._lines() as lines:
            found = first_defect(lines, len(self.header))
        return None if found is None else (found.line, found.reason)

    def _lines(self) -> BinaryIO:
        return os.fdopen(os.open(descriptor_path(self.descriptor), os.O_RDONLY | os.O_CLOEXEC), "rb")


@contextmanager
def open_table(path: str, *, below: int, reserved: Collection[str] = ()) -> Iterator[CsvTable]:
    """Open the table at a path below the open folder of its snapshot.

    Raises `OSError`, and `RowsUnreadable` if its header cannot be used.
    """
    descriptor = disk.open_file(path, below=below)
    try:
        header = _header(path, descriptor)
        columns = distinct_names(header, reserved=reserved)
        yield CsvTable(path=path, descriptor=descriptor, header=header, columns=columns)
    finally:
        os.close(descriptor)


def descriptor_path(descriptor: int) -> str:
    """Return a path by which DuckDB opens this very file, whatever its name is and whatever happens to its name."""
    return f"/proc/self/fd/{descriptor}"


def _header(path: str, descriptor: int) -> tuple[str, ...]:
    counter = TableCounter()
    counter.update(os.pread(descriptor, HEADER_CAP + 1, 0))
    facts = counter.facts()
    if facts is None:
        raise _unreadable(path, 1, "it is UTF-16 and not UTF-8")
    if facts.is_cut:
        raise _unreadable(path, 1, f"the header is longer than {HEADER_CAP >> 10} KiB")
    return facts.header


def _unreadable(path: str, line: int, reason: str) -> RowsUnreadable:
    return RowsUnreadable(f"{path}, line {line}: {reason}", path=path, line=line, reason=reason)
