"""Tables in a database or folder of the user, through dlt, which the extra `load` installs.

`opened` gives a `Target`. Its methods block, and belong into one thread.

    with load.opened(address, dataset="dcsync", work=folder, memory=256 << 20) as target:
        shown = target.shown()              # what each table shows now, {} in a new target
        target.load(TableLoad(...))         # one table, with its row in `_dcsync_loads`: both or nothing
        target.mark([...])                  # tables whose bytes did not change show a newer snapshot

Every failure is a `LoadFailed` without the secrets of the address, or a `RowsUnreadable` for a CSV file. After
`TargetUnusable`, the other tables cannot be loaded either.
"""

from __future__ import annotations

from pathlib import Path

from dcsync.core.load_addresses import scheme_of
from dcsync.core.loads import LoadMode, NewColumn, Shown
from dcsync.load.clients import check_installed
from dcsync.load.target import LOADS, Options, Target
from dcsync.load.values import HistoryFile, Loaded, TableLoad, Way

__all__ = [
    "LOADS",
    "HistoryFile",
    "LoadMode",
    "Loaded",
    "NewColumn",
    "Shown",
    "TableLoad",
    "Target",
    "Way",
    "check_installed",
    "opened",
]


def opened(address: str, *, dataset: str, work: Path, memory: int, patience_s: float = 60.0) -> Target:
    """Open a target. It connects when it is first used.

    `work` is a folder of this target alone, for data that does not fit into `memory` bytes. A load waits `patience_s`
    for other users of its table. Raises `ConfigError` if dlt is not installed or the address cannot be used.
    """
    check_installed()
    options = Options(address=address, dataset=dataset, work=work, memory=memory, patience_s=patience_s)
    match scheme_of(address):
        case "postgresql" | "postgres":
            from dcsync.load.postgres import PostgresTarget

            return PostgresTarget(options)
        case "duckdb":
            from dcsync.load.duckdb import DuckDbTarget

            return DuckDbTarget(options)
        case "sqlite":
            from dcsync.load.sqlite import SqliteTarget

            return SqliteTarget(options)
        case "file" | "s3" as scheme:
            from dcsync.load.folder import FolderTarget
            from dcsync.load.places import DiskPlace, S3Place

            return FolderTarget(options, DiskPlace(options) if scheme == "file" else S3Place(options))
        case other:
            from dcsync.load.pipeline import PipelineTarget

            return PipelineTarget(options, other)
