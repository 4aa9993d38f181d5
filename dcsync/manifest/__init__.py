"""The manifest: known jobs, files and runs, in SQLite (WAL, `synchronous=FULL`)."""

from dcsync.manifest.notes import HookRun, HookState, Notes, PublishedRow
from dcsync.manifest.records import Records
from dcsync.manifest.store import SqlManifest, Sums, open_manifest

__all__ = ["HookRun", "HookState", "Notes", "PublishedRow", "Records", "SqlManifest", "Sums", "open_manifest"]
