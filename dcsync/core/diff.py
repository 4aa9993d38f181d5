"""The differences between two snapshots: tables, columns, rows, bytes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dcsync.core.model import StoredFile
from dcsync.core.table import ColumnChange, columns_between, is_table


class Fate(StrEnum):
    """How a file changed from one snapshot to the other."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDiff:
    """One file, by Autodesk's name. None stands for a value that is unknown, or that of a file that is missing."""

    name: str
    fate: Fate
    rows_before: int | None = None
    rows_after: int | None = None
    size_before: int | None = None
    size_after: int | None = None
    columns: ColumnChange | None = None

    @property
    def rows_more(self) -> int | None:
        """The change of the row count. Negative if there are fewer rows."""
        if self.rows_before is None or self.rows_after is None:
            return None
        return self.rows_after - self.rows_before


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotDiff:
    """The differences between two snapshots: tables and other files, ordered by name."""

    tables: tuple[FileDiff, ...]
    others: tuple[FileDiff, ...]
    #: The number of tables and other files that are equal in both.
    unchanged: int
    rows_before: int
    rows_after: int
    size_before: int
    size_after: int


def compare(before: Sequence[StoredFile], after: Sequence[StoredFile]) -> SnapshotDiff:
    """Compare two snapshots by original name and SHA-256."""
    old, new = ({stored.original: stored for stored in files} for files in (before, after))
    diffs = [_diff(name, old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys())]
    differing = [diff for diff in diffs if diff.fate is not Fate.UNCHANGED]
    return SnapshotDiff(
        tables=tuple(diff for diff in differing if is_table(diff.name)),
        others=tuple(diff for diff in differing if not is_table(diff.name)),
        unchanged=len(diffs) - len(differing),
        rows_before=total_rows(before) or 0,
        rows_after=total_rows(after) or 0,
        size_before=sum(stored.size for stored in before),
        size_after=sum(stored.size for stored in after),
    )


def total_rows(files: Iterable[StoredFile]) -> int | None:
    """Return the sum of all known row counts. None if no table has one."""
    counts = [stored.table.rows for stored in files if stored.table is not None and stored.table.rows is not None]
    return sum(counts) if counts else None


def _diff(name: str, old: StoredFile | None, new: StoredFile | None) -> FileDiff:
    before, after = (None if stored is None else stored.table for stored in (old, new))
    if old is None:
        fate = Fate.ADDED
    elif new is None:
        fate = Fate.REMOVED
    else:
        fate = Fate.UNCHANGED if old.sha256 == new.sha256 else Fate.CHANGED
    return FileDiff(
        name=name,
        fate=fate,
        rows_before=None if before is None else before.rows,
        rows_after=None if after is None else after.rows,
        size_before=None if old is None else old.size,
        size_after=None if new is None else new.size,
        columns=columns_between(name, before, after),
    )
