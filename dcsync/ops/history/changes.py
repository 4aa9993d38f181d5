"""Count the rows that changed on the newest day of a data request, for the report. Blocks."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path

import structlog

from dcsync.core.column_types import Described
from dcsync.core.model import Snapshot, StoredFile
from dcsync.core.row_changes import (
    CHANGES_NAME,
    MOST_NAMES,
    RowChanges,
    RowCounts,
    changes_json,
    name_column,
    parse_changes,
)
from dcsync.core.table import TableKind, has_rows
from dcsync.errors import DcsyncError, RowsInterrupted
from dcsync.mirror import disk
from dcsync.mirror.described import describe_tables
from dcsync.mirror.durable import replace_durably
from dcsync.mirror.root import OWN_FOLDER, MirrorRoot
from dcsync.ops.context import HistorySettings
from dcsync.ops.history.thread import Stopping
from dcsync.ops.integrity.history_files import WORK
from dcsync.rows import Engine, RowFate, TableChanges, compared, open_table, opened

log = structlog.get_logger(__name__)
_MODE = 0o644
#: The folder for what does not fit into the memory.
_SPILL = "changes"
#: The share of the memory that DuckDB gets. The rest is for what it does not count.
_DUCKDB_SHARE = 0.75


def day_changes(
    engine: Engine, root: MirrorRoot, before: Snapshot, after: Snapshot, wanted: Collection[str]
) -> dict[str, RowCounts]:
    """Return the rows that differ between two snapshots, for those tables in `wanted` that have all rows and differ.

    `wanted` are Autodesk's names. A table that cannot be compared is left out. Raises `RowsInterrupted`.
    """
    old = {stored.original: stored for stored in before.files}
    described = describe_tables(root, after.folder, after.files)
    found: dict[str, RowCounts] = {}
    for stored in after.files:
        name, previous = stored.original, old.get(stored.original)
        if name not in wanted or not _is_compared(stored) or previous is None or previous.sha256 == stored.sha256:
            continue
        paths = (f"{before.folder}/{previous.name}", f"{after.folder}/{stored.name}")
        try:
            with (
                disk.disk_errors(f"comparing {disk.shown(name)}"),
                open_table(paths[0], below=root.descriptor) as left,
                open_table(paths[1], below=root.descriptor) as right,
                compared(engine, left, right, described.get(name, Described()).key) as changes,
            ):
                found[name] = _counts(changes, name_column(name, [*left.columns, *right.columns]))
        except RowsInterrupted:
            raise
        except DcsyncError as error:
            # The alert of its row history names the table, and the report shows it without the rows.
            log.info("changed rows not counted", table=name, reason=error.message)
    return found


def update_changes(
    root: MirrorRoot, folder: str, before: Snapshot, after: Snapshot, settings: HistorySettings, stopping: Stopping
) -> None:
    """Count the rows that differ between two snapshots, and record them in the folder of a row history.

    Raises `RowsInterrupted`, and `DiskError`s.
    """
    wanted = [stored.original for stored in after.files if settings.wants(stored.original)]
    with disk.disk_errors(f"counting the changed rows of {folder}"), ExitStack() as stack:
        work = stack.enter_context(root.folder(f"{OWN_FOLDER}/{WORK}{root.mark}", create=True))
        disk.remove_tree(_SPILL, work)
        os.mkdir(_SPILL, 0o700, dir_fd=work)
        stack.callback(disk.remove_tree, _SPILL, work)
        spill = disk.open_folder(_SPILL, below=work)
        stack.callback(os.close, spill)
        memory = int(settings.memory * _DUCKDB_SHARE)
        engine = stack.enter_context(opened(memory=memory, spill=Path(f"/proc/self/fd/{spill}")))
        stopping.watch(engine)
        stopping.check()
        tables = day_changes(engine, root, before, after, wanted)
    changes = RowChanges(job=after.job, against=before.job, wanted=settings.tables, tables=tables)
    write_changes(root, folder, changes)


def read_changes(root: MirrorRoot, folder: str) -> RowChanges | None:
    """Return the changes in the folder of a row history. None if the file is missing or cannot be used."""
    try:
        return parse_changes(json.loads(root.read_file(folder, CHANGES_NAME)))
    except (FileNotFoundError, ValueError, DcsyncError):
        return None


def write_changes(root: MirrorRoot, folder: str, changes: RowChanges) -> None:
    """Replace the file of the changes, durably."""
    body = json.dumps(changes_json(changes), separators=(",", ":")).encode() + b"\n"
    path = f"{folder}/{CHANGES_NAME}"
    with root.folder(folder, create=True) as target, disk.disk_errors(f"writing {disk.shown(path)}"):
        replace_durably(target, CHANGES_NAME, body, mode=_MODE)


def _is_compared(stored: StoredFile) -> bool:
    return has_rows(stored.original) and stored.kind is TableKind.FULL


def _counts(changes: TableChanges, column: str | None) -> RowCounts:
    return RowCounts(
        added=changes.added,
        removed=changes.removed,
        changed=changes.changed,
        added_names=tuple(_names(changes, RowFate.ADDED, column)),
        removed_names=tuple(_names(changes, RowFate.REMOVED, column)),
    )


def _names(changes: TableChanges, fate: RowFate, column: str | None) -> Iterator[str]:
    if column is None:
        return
    for row in changes.rows(MOST_NAMES):
        values = row.after if fate is RowFate.ADDED else row.before
        if row.fate is fate and values is not None and values.get(column):
            yield str(values[column])
