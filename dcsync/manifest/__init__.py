"""The manifest: known jobs, files, and runs. It is in SQLite (WAL, `synchronous=FULL`), or a cluster's PostgreSQL."""

from dcsync.manifest.alerts import StandingAlerts
from dcsync.manifest.hook_runs import HookRun, HookRuns, HookState
from dcsync.manifest.published import PublishedRow
from dcsync.manifest.snapshots import SnapshotRows
from dcsync.manifest.sql import SqlManifest, Sums, open_manifest
from dcsync.manifest.state import StoredValues

__all__ = [
    "HookRun",
    "HookRuns",
    "HookState",
    "PublishedRow",
    "SnapshotRows",
    "SqlManifest",
    "StandingAlerts",
    "StoredValues",
    "Sums",
    "open_manifest",
]
