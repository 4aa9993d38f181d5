"""What a load is told, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dcsync.core.loads import NewColumn, Shown
from dcsync.rows import CsvTable


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryFile:
    """The open Parquet file of a table's row history. Its fields are text."""

    path: str
    descriptor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableLoad:
    """A table that is to be loaded: a `CsvTable` in `latest` mode, a `HistoryFile` in `history` mode.

    `types` has a type of DuckDB for columns by their names in lower case, as in `column_types.Described`. Other columns
    are text. In `history` mode, only what changed since the target's snapshot is loaded. `whole` loads all rows.

    `seen` is what the target showed when the load was planned. If it shows something else by now, and that is as new as
    `shown`, another loader was faster, and nothing is loaded.
    """

    shown: Shown
    source: CsvTable | HistoryFile
    types: Mapping[str, str] = field(default_factory=dict)
    on_new_column: NewColumn = NewColumn.ADD
    whole: bool = False
    seen: Shown | None = None

    def is_outrun_by(self, known: Shown) -> bool:
        """Say whether the target shows this snapshot or a newer one, by another loader than the one that planned."""
        shown = self.shown
        if (known.mode, known.account, known.request) != (shown.mode, shown.account, shown.request):
            return False
        is_seen = self.seen is not None and (known.job, known.sha256) == (self.seen.job, self.seen.sha256)
        return not is_seen and known.completed >= shown.completed


class Way(StrEnum):
    """How a table came to show its snapshot."""

    #: All rows were loaded.
    WHOLE = "whole"
    #: Only the rows that changed were loaded.
    CHANGES = "changes"
    #: Another loader had already loaded this snapshot or a newer one.
    ALREADY = "already"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A table that was loaded. `sent` counts the rows that went to the target."""

    shown: Shown
    way: Way
    sent: int
