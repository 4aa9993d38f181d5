"""What a table is: its header and how many rows it has, found while its bytes pass. Pure.

Quote-aware after RFC 4180 §2: a line break within quotes ends no record. Quotes are only counted: a doubled one within
a quoted field opens and closes nothing, so at a line break all there is to know is whether they were odd so far.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: A header longer than this is no header that anybody reads (FAULTS S13); what is over is left out, and that is marked.
HEADER_CAP = 64 << 10

#: With everything but quotes and line breaks taken out, a piece shrinks to what counts: 1.5 GB/s against 0.4 for
#: splitting it at its quotes.
_REST = bytes(set(range(256)) - set(b'"\n'))
_UTF8_BOM = b"\xef\xbb\xbf"
#: UTF-16 has line breaks and quotes elsewhere, and bytes of theirs in other characters.
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """A table's columns in their order and its data rows, the header not among them.

    `rows` is None when the quotes do not pair up: no count would be right. `is_cut` says that the header was longer
    than `HEADER_CAP`; `header` then has its first columns.
    """

    header: tuple[str, ...]
    rows: int | None
    is_cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnChange:
    """What became of a table's columns. `reordered` says that those which stayed stand in another order."""

    table: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    reordered: bool = False


def is_table(name: str) -> bool:
    """Say whether a file of an extract is a table, by its name."""
    return name.lower().endswith(".csv")


def count(pieces: Iterable[bytes | bytearray]) -> TableFacts | None:
    """Return the facts of a table that comes in pieces; any cutting gives the same."""
    counter = TableCounter()
    for piece in pieces:
        counter.update(piece)
    return counter.facts()


def columns_between(table: str, before: TableFacts | None, after: TableFacts | None) -> ColumnChange | None:
    """Compare the headers of a table; None when they are the same, or one of them is not known as a whole."""
    if before is None or after is None or before.is_cut or after.is_cut or before.header == after.header:
        return None
    # Counted, since nothing keeps a header from naming a column twice.
    old, new = Counter(before.header), Counter(after.header)
    kept = old & new
    return ColumnChange(
        table=table,
        added=_among(after.header, new - old, from_end=True),
        removed=_among(before.header, old - new, from_end=True),
        reordered=_among(before.header, kept) != _among(after.header, kept),
    )


class TableCounter:
    """Counts the records of a table while its bytes pass; of the bytes it keeps the first `HEADER_CAP`."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._breaks = 0
        self._in_quotes = False
        self._ends_with_break = True

    def update(self, piece: bytes | bytearray) -> None:
        """Take in the next bytes."""
        if not piece:
            return
        if len(self._head) <= HEADER_CAP:
            # One byte more than counts: it tells a header that fits from one that does not.
            self._head += piece[: HEADER_CAP + 1 - len(self._head)]
        if b'"' not in piece:
            if not self._in_quotes:
                self._breaks += piece.count(b"\n")
        else:
            # What opens and closes without a line break between goes too; a run of quotes is left as none or one.
            between = piece.translate(None, _REST).replace(b'""', b"").split(b'"')
            self._breaks += sum(map(len, between[self._in_quotes :: 2]))
            self._in_quotes ^= len(between) % 2 == 0
        self._ends_with_break = piece.endswith(b"\n")

    def facts(self) -> TableFacts | None:
        """Return the facts of what came so far, as if it were all; None for what is no text that can be read so."""
        if self._head.startswith(_UTF16_BOMS):
            return None
        record, is_cut = self._first_record()
        header = _fields(record)
        # The last column of a cut header is half there.
        header = header[:-1] if is_cut else header
        # An unfinished last line is a record; an empty file has none, not even a header.
        records = self._breaks + (not self._ends_with_break)
        return TableFacts(header=header, rows=None if self._in_quotes else max(0, records - 1), is_cut=is_cut)

    def _first_record(self) -> tuple[bytes, bool]:
        """Return the bytes up to the first line break outside of quotes, and whether there are more than counts."""
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
        # A lone carriage return, or a field beyond the module's limit: split plainly rather than not at all.
        return tuple(text.split(","))


def _among(header: Sequence[str], wanted: Counter[str], *, from_end: bool = False) -> tuple[str, ...]:
    """Return the columns of a header that are wanted, each as often as it is, in the header's order."""
    left = Counter(wanted)
    found = []
    for column in reversed(header) if from_end else header:
        if left[column] > 0:
            left[column] -= 1
            found.append(column)
    return tuple(reversed(found) if from_end else found)
