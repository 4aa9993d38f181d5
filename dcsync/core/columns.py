"""The names of a table's columns where they must be distinct. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def distinct_names(header: Sequence[str], *, reserved: Collection[str] = ()) -> tuple[str, ...]:
    """Return a name for each column that differs from all others and from `reserved`, as SQL compares names.

    A name stays as it is where it can. A column without a name is `column_N`, with its position from 1. A name that
    occurs before, or differs from one only in case, gets a number: `name_2`.
    """
    taken = {name.casefold() for name in (*reserved, *header)}
    used = {name.casefold() for name in reserved}
    found = []
    for position, original in enumerate(header, 1):
        name = base = original or f"column_{position}"
        number = 2 if original else 1
        while name.casefold() in used or (name != original and name.casefold() in taken):
            name, number = f"{base}_{number}", number + 1
        used.add(name.casefold())
        found.append(name)
    return tuple(found)
