"""The header and the row count of a table, determined while its bytes pass. Pure.

The count follows RFC 4180 §2: a line break inside quotes does not end a record. It is enough to count quotes. A doubled
quote inside a quoted field changes nothing, so a line break is inside quotes if the number of quotes before it is odd.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

#: A longer header is useless to any reader (docs/project/faults.md S13). It is cut here and marked as cut.
HEADER_CAP = 64 << 10

#: Every byte but quotes and line breaks. Removing them first counts 1.5 GB/s, splitting a piece at its quotes 0.4 GB/s.
_REST = bytes(set(range(256)) - set(b'"\n'))
_UTF8_BOM = b"\xef\xbb\xbf"
#: In UTF-16, line breaks and quotes are different bytes, and these bytes occur in other characters.
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


class TableKind(StrEnum):
    """Which rows of a table an extract has. `dcsync.core.kinds` decides it."""

    #: All rows. A newer extract has them too, unless they were deleted at Autodesk.
    FULL = "full"
    #: The rows of a period. No other extract has them, unless its period overlaps.
    WINDOW = "window"
    #: The rows that changed in a period.
    DELTA = "delta"

    @property
    def has_all_rows(self) -> bool:
        """Whether a newer extract of the table replaces this one."""
        return self is TableKind.FULL


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """The columns of a table in their order, and the number of its data rows, without the header.

    `rows` is None when the quotes do not pair up, because every count would be wrong. `is_cut` is true when the header
    is longer than `HEADER_CAP`, and `header` then has only its first columns.
    """

    header: tuple[str, ...]
    rows: int | None
    is_cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnChange:
    """How the columns of a table changed. `reordered` is true when the columns that stayed changed their order."""

    table: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    reordered: bool = False


def is_table(name: str) -> bool:
    """Whether a file of an extract is a table, by its name."""
    return name.lower().endswith(".csv")


def has_rows(name: str) -> bool:
    """Whether a file contains data of the account: a table, and not a document of the ZIP's `schemas` folder."""
    return is_table(name) and not name.lower().startswith("schemas/")


def count(pieces: Iterable[bytes | bytearray]) -> TableFacts | None:
    """Return the facts of a table that comes in pieces of any size."""
    counter = TableCounter()
    for piece in pieces:
        counter.update(piece)
    return counter.facts()


def columns_between(table: str, before: TableFacts | None, after: TableFacts | None) -> ColumnChange | None:
    """Compare the headers of a table. None when they are equal, or when one of them is unknown or cut."""
    if before is None or after is None or before.is_cut or after.is_cut or before.header == after.header:
        return None
    # Counters, because a header may have a column twice.
    old, new = Counter(before.header), Counter(after.header)
    kept = old & new
    return ColumnChange(
        table=table,
        added=_among(after.header, new - old, from_end=True),
        removed=_among(before.header, old - new, from_end=True),
        reordered=_among(before.header, kept) != _among(after.header, kept),
    )


class TableCounter:
    """Counts the records of a table while its bytes pass. It keeps only the first `HEADER_CAP` bytes."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._breaks = 0
        self._in_quotes = False
        self._ends_with_break = True

    def update(self, piece: bytes | bytearray) -> None:
        """Count the next bytes."""
        if not piece:
            return
        if len(self._head) <= HEADER_CAP:
            # One byte more than the cap, to know whether the header fits.
            self._head += piece[: HEADER_CAP + 1 - len(self._head)]
        if b'"' not in piece:
            if not self._in_quotes:
                self._breaks += piece.count(b"\n")
        else:
            # A pair of quotes without a line break between them changes nothing, so it is removed as well.
            between = piece.translate(None, _REST).replace(b'""', b"").split(b'"')
            self._breaks += sum(map(len, between[self._in_quotes :: 2]))
            self._in_quotes ^= len(between) % 2 == 0
        self._ends_with_break = piece.endswith(b"\n")

    def facts(self) -> TableFacts | None:
        """Return the facts of the bytes so far, as if the table ended here. None for UTF-16."""
        if self._head.startswith(_UTF16_BOMS):
            return None
        record, is_cut = self._first_record()
        header = _fields(record)
        # The last column of a cut header is incomplete.
        header = header[:-1] if is_cut else header
        # A last line without a line break is a record. An empty file has no record, and no header either.
        records = self._breaks + (not self._ends_with_break)
        return TableFacts(header=header, rows=None if self._in_quotes else max(0, records - 1), is_cut=is_cut)

    def _first_record(self) -> tuple[bytes, bool]:
        """Return the bytes up to the first line break outside quotes, and whether they exceed the cap."""
        head = bytes(self._head)
        in_quotes = False
        end = 0
        while (stop := head.find(b"\n", end)) >= 0:
            in_quotes ^= head.count(b'"', end, stop) % 2 == 1
            end = stop + 1
            if not in_quotes:
                return head[:stop].removesuffix(b"\r"), False
        return head[:HEADER_CAP], len(head) > HEADER_CAP


def _fields(record: bytes) -> tuple[str, ...]:
    text = record.removeprefix(_UTF8_BOM).decode("utf-8", "replace")
    try:
        return tuple(next(csv.reader([text]), ()))
    except csv.Error:
        # A lone carriage return, or a field beyond the csv module's limit. A plain split is better than no header.
        return tuple(text.split(","))


def _among(header: Sequence[str], wanted: Counter[str], *, from_end: bool = False) -> tuple[str, ...]:
    """Return the wanted columns of a header in the header's order, each as often as it is wanted."""
    left = Counter(wanted)
    found = []
    for column in reversed(header) if from_end else header:
        if left[column] > 0:
            left[column] -= 1
            found.append(column)
    return tuple(reversed(found) if from_end else found)
