"""The rows that changed on the newest day of a data request, as the report shows them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dcsync.core.model import JobId, Json
from dcsync.core.names import printable
from dcsync.core.wire import WireError

FORMAT: Final = 1
#: The name of the file in the folder of a row history.
CHANGES_NAME: Final = "changes.json"
#: The tables whose rows people know by name, with the words for one and for several, and the columns with the name.
NAMED: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
    "admin_projects.csv": ("project", "projects", ("name", "title", "number")),
    "admin_users.csv": ("user", "users", ("name", "email", "first_name")),
}
#: The names that are recorded of each kind.
MOST_NAMES: Final = 20
_SHOWN: Final = 6
_NAME: Final = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCounts:
    """The rows of a table that were added, removed and changed, and names of the first ones if people know them."""

    added: int
    removed: int
    changed: int
    added_names: tuple[str, ...] = ()
    removed_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChanges:
    """The changes from one snapshot to the next, for tables with all rows, by Autodesk's names.

    `wanted` are the globs of the configuration for which they were counted.
    """

    job: JobId
    against: JobId
    wanted: tuple[str, ...] = ()
    tables: Mapping[str, RowCounts] = field(default_factory=dict)


def sentences(changes: RowChanges) -> tuple[str, ...]:
    """Return what people know by name, in words: "2 projects added: Tower C, Depot"."""
    found = []
    for table, (one, several, _) in NAMED.items():
        counts = changes.tables.get(table)
        if counts is None:
            continue
        for count, word, names in (
            (counts.added, "added", counts.added_names),
            (counts.removed, "removed", counts.removed_names),
        ):
            if count:
                found.append(f"{count:,} {one if count == 1 else several} {word}{_listed(count, names)}")
    return tuple(found)


def _listed(count: int, names: Sequence[str]) -> str:
    shown = [printable(name, _NAME) for name in names[:_SHOWN]]
    if not shown:
        return ""
    left = count - len(shown)
    return f": {', '.join(shown)}" + (f" and {left:,} more" if left else "")


def counts_text(counts: RowCounts) -> str:
    """Return the counts of a table as text. Empty without a change."""
    words = ((counts.added, "added"), (counts.removed, "removed"), (counts.changed, "changed"))
    return ", ".join(f"{count:,} {word}" for count, word in words if count)


def name_column(table: str, columns: Sequence[str]) -> str | None:
    """Return the column with the name of a table's rows, if people know them by name."""
    _, _, known = NAMED.get(table, ("", "", ()))
    by_name = {column.casefold(): column for column in columns}
    return next((by_name[name] for name in known if name in by_name), None)


def changes_json(changes: RowChanges) -> dict[str, Json]:
    """Return the content of `changes.json`."""
    return {
        "format": FORMAT,
        "job": changes.job,
        "against": changes.against,
        "wanted": list(changes.wanted),
        "tables": {
            name: {
                "added": counts.added,
                "removed": counts.removed,
                "changed": counts.changed,
                "added_names": list(counts.added_names),
                "removed_names": list(counts.removed_names),
            }
            for name, counts in sorted(changes.tables.items())
        },
    }


def parse_changes(value: Json) -> RowChanges:
    """Parse `changes.json`. Raises `WireError` if it is damaged or of another format."""
    if not isinstance(value, Mapping) or value.get("format") != FORMAT or not isinstance(value.get("tables"), Mapping):
        raise WireError("it has another format")
    tables = value["tables"]
    assert isinstance(tables, Mapping)  # noqa: S101 - checked above
    return RowChanges(
        job=JobId(str(value.get("job"))),
        against=JobId(str(value.get("against"))),
        wanted=_texts(value.get("wanted")),
        tables={name: _counts(counts) for name, counts in tables.items()},
    )


def _counts(value: Json) -> RowCounts:
    if not isinstance(value, Mapping):
        raise WireError("a table has no counts")
    added, removed, changed = (value.get(key) for key in ("added", "removed", "changed"))
    if not (isinstance(added, int) and isinstance(removed, int) and isinstance(changed, int)):
        raise WireError("a count is not a number")
    return RowCounts(
        added=added,
        removed=removed,
        changed=changed,
        added_names=_texts(value.get("added_names")),
        removed_names=_texts(value.get("removed_names")),
    )


def _texts(value: Json) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()
