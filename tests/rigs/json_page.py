"""docs/reference/json.md, and the keys of a document in the form of that page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

PAGE: Final = (Path(__file__).parents[2] / "docs/reference/json.md").read_text(encoding="utf-8")
#: Objects whose keys are not listed: job states and columns are data, the record is for dcsync itself, and the others
#: have the keys of a neighbour.
_OPEN: Final = {
    "accounts[].jobs",
    "record",
    "reduced.files[]",
    "b",
    "other_files[]",
    "tables[].changed_columns",
    "tables[].rows[].key",
    "tables[].rows[].before",
    "tables[].rows[].after",
}
#: Keys of these objects that are listed.
_LISTED: Final = {"reduced.files[].in_history"}


def documented(heading: str) -> set[str]:
    """Return the key paths in the first column of a section's table."""
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


def written(value: Any, path: str = "") -> Iterator[str]:
    """Yield the path of every key in a document. Elements of arrays share the path `key[]`."""
    if isinstance(value, list):
        for item in value:
            yield from written(item, f"{path}[]")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if path in _OPEN and f"{path}.{key}" not in _LISTED:
                continue
            below = f"{path}.{key}" if path else key
            yield below
            yield from written(inner, below)
