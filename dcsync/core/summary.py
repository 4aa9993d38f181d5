"""The summary of a snapshot: totals, schema changes, and warnings. It remains when the snapshot is pruned. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dcsync.core.anomaly import TableWarning
from dcsync.core.coverage import Days, parse_days
from dcsync.core.model import JobId, Json, RequestId
from dcsync.core.table import ColumnChange


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The totals of a snapshot. `rows` is None if the rows of no table are known."""

    files: int
    size: int
    rows: int | None = None
    added: int = 0
    removed: int = 0
    changed: int = 0
    columns: tuple[ColumnChange, ...] = ()
    warnings: tuple[TableWarning, ...] = ()
    #: The days that its window tables have, by `coverage.window_of` at the time. Other snapshots have none.
    window: Days | None = None


#: The summary of a snapshot whose files were not counted.
NO_SUMMARY = Summary(files=0, size=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PastSnapshot:
    """A snapshot of the manifest without its files. A pruned one is no longer on disk.

    A reduced one has only the tables whose rows exist nowhere else. Its summary is that of the published snapshot.
    """

    job: JobId
    request: RequestId
    folder: str
    completed_at: datetime | None
    published_at: datetime | None
    is_pruned: bool
    fetched_bytes: int
    summary: Summary
    is_reduced: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether all its files are on disk."""
        return not (self.is_pruned or self.is_reduced)


def render(summary: Summary) -> str:
    """Return a summary as text for the manifest."""
    return json.dumps(summary_json(summary))


def summary_json(summary: Summary) -> dict[str, Json]:
    """Return a summary as JSON."""
    return {
        "files": summary.files,
        "size": summary.size,
        "rows": summary.rows,
        "added": summary.added,
        "removed": summary.removed,
        "changed": summary.changed,
        "columns": columns_json(summary.columns),
        "warnings": warnings_json(summary.warnings),
        **({} if summary.window is None else {"window": summary.window.text}),
    }


def parse(text: str) -> Summary:
    """Parse the text of the manifest. Malformed parts are left out, because only the report uses them."""
    return parse_summary(json.loads(text)) or NO_SUMMARY


def parse_summary(entry: Json) -> Summary | None:
    """Parse a summary from JSON. Returns None if the value is not an object."""
    if not isinstance(entry, Mapping):
        return None
    return Summary(
        files=whole(entry.get("files")) or 0,
        size=whole(entry.get("size")) or 0,
        rows=whole(entry.get("rows")),
        added=whole(entry.get("added")) or 0,
        removed=whole(entry.get("removed")) or 0,
        changed=whole(entry.get("changed")) or 0,
        columns=parse_columns(entry.get("columns")),
        warnings=parse_warnings(entry.get("warnings")),
        window=parse_days(entry.get("window")),
    )


def columns_json(changes: Sequence[ColumnChange]) -> Json:
    """Return schema changes as JSON."""
    return [
        {
            "table": change.table,
            "added": list(change.added),
            "removed": list(change.removed),
            "reordered": change.reordered,
        }
        for change in changes
    ]


def parse_columns(value: Json) -> tuple[ColumnChange, ...]:
    """Parse schema changes. Malformed ones are left out."""
    return tuple(
        ColumnChange(
            table=table,
            added=texts(entry.get("added")),
            removed=texts(entry.get("removed")),
            reordered=entry.get("reordered") is True,
        )
        for entry in _mappings(value)
        if isinstance(table := entry.get("table"), str)
    )


def warnings_json(found: Sequence[TableWarning]) -> Json:
    """Return warnings as JSON."""
    return [{"code": warning.code, "table": warning.table, "message": warning.message} for warning in found]


def parse_warnings(value: Json) -> tuple[TableWarning, ...]:
    """Parse warnings. Malformed ones are left out."""
    found = []
    for entry in _mappings(value):
        code, table, message = entry.get("code"), entry.get("table"), entry.get("message")
        if isinstance(code, str) and isinstance(table, str) and isinstance(message, str):
            found.append(TableWarning(code=code, table=table, message=message))
    return tuple(found)


def whole(value: Json) -> int | None:
    """Return a count that a column of the manifest can hold, or None for any other value."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63 else None


def texts(value: Json) -> tuple[str, ...]:
    """Return the strings of a list. For any other value the result is empty."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return ()
    return tuple(item for item in value if isinstance(item, str))


def _mappings(value: Json) -> list[Mapping[str, Json]]:
    if not isinstance(value, Sequence):
        return []
    return [entry for entry in value if isinstance(entry, Mapping)]
