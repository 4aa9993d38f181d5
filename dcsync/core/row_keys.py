"""The columns that may identify the rows of a table. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

#: More columns than these are not tried one by one, because each one is a pass over both tables.
_MOST_SINGLE = 12
_MOST_FIRST = 4
#: Names such as `project_id` and `guid`, before those such as `item_urn`.
_ENDINGS = ("id", "urn")
_NAMES = ("id", "adsk_row_id")


class KeySource(StrEnum):
    """Where a key comes from."""

    #: The schema documents of the extract.
    SCHEMA = "schema"
    #: Columns that are unique and never empty in both tables.
    UNIQUE = "unique"
    #: No column is unique. Rows are compared as a whole.
    ROWS = "rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowKey:
    """Columns that identify a row, by name. Without any, the whole row does."""

    columns: tuple[str, ...] = ()
    source: KeySource = KeySource.ROWS


def key_candidates(columns: Sequence[str], documented: Sequence[str] = ()) -> Iterator[RowKey]:
    """Yield the keys to try for a table, the best one first. The caller checks that a key is unique.

    `columns` are those that both tables have, in order. `documented` are those of the schema documents, in any case.
    """
    by_name = {name.casefold(): name for name in columns}
    given = tuple(by_name[name.casefold()] for name in documented if name.casefold() in by_name)
    if given and len(given) == len(documented):
        yield RowKey(columns=given, source=KeySource.SCHEMA)
    ranked = [(rank, name) for name in columns if (rank := _rank(name)) is not None]
    ids = [name for _, name in sorted(ranked, key=lambda item: item[0])]
    first = [columns[:count] for count in range(1, min(_MOST_FIRST, len(columns)) + 1)]
    others = [(name,) for name in columns]
    tried = {given}
    for key in [*((name,) for name in ids[:_MOST_SINGLE]), *map(tuple, first), *others[:_MOST_SINGLE]]:
        if key not in tried:
            tried.add(key)
            yield RowKey(columns=key, source=KeySource.UNIQUE)


def _rank(name: str) -> int | None:
    """Return how likely a column is to identify rows by its name, from 0. None if its name does not say so."""
    folded = name.casefold()
    if folded in _NAMES:
        return _NAMES.index(folded)
    return next((place for place, ending in enumerate(_ENDINGS, len(_NAMES)) if folded.endswith(ending)), None)
