"""The manifest: known jobs, files and runs, in SQLite (WAL, `synchronous=FULL`)."""

from dcsync.manifest.store import SqlManifest, open_manifest

__all__ = ["SqlManifest", "open_manifest"]
