"""The tables that an operator means. Pure."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from fnmatch import fnmatchcase

_SUGGESTED = 3


def stem(name: str) -> str:
    """Return the name of a table without `.csv`, as people write it."""
    return name[:-4] if name.lower().endswith(".csv") else name


def matching(word: str, names: Collection[str]) -> list[str]:
    """Return the tables that a name or a glob means, sorted, by the closest match that there is.

    A name may lack `.csv` and its folder, and differ in case.
    """
    wanted = stem(word)
    folded = wanted.casefold()
    for is_meant in (
        lambda name: name == word,
        lambda name: stem(name) == wanted,
        lambda name: stem(name).casefold() == folded,
        lambda name: stem(name).casefold().rpartition("/")[2] == folded,
        lambda name: fnmatchcase(stem(name).casefold(), folded),
    ):
        found = sorted(filter(is_meant, names))
        if found:
            return found
    return []


def similar(word: str, names: Collection[str]) -> list[str]:
    """Return the names of tables that look like a mistyped one, without `.csv`."""
    by_folded = {stem(name).casefold(): stem(name) for name in sorted(names)}
    wanted = stem(word).casefold()
    close = get_close_matches(wanted, by_folded, n=_SUGGESTED)
    close = close or sorted(name for name in by_folded if wanted and wanted in name)[:_SUGGESTED]
    return [by_folded[name] for name in close]
