"""The manifest: known jobs, files and runs, in SQLite (WAL, `synchronous=FULL`) or, for several hosts, PostgreSQL."""

from dcsync.manifest.claims import Claim, Ticket
from dcsync.manifest.notes import HookRun, HookState, Notes, PublishedRow
from dcsync.manifest.snapshots import SnapshotRows
from dcsync.manifest.sql import SqlManifest, Sums, open_manifest

__all__ = [
    "Claim",
    "HookRun",
    "HookState",
    "Notes",
    "PublishedRow",
    "SnapshotRows",
    "SqlManifest",
    "Sums",
    "Ticket",
    "open_manifest",
]
