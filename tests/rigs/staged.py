"""The staging of one job, and files in it, for tests."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from dcsync.core.model import Snapshot, StoredFile
from dcsync.mirror.root import MirrorRoot, open_root
from dcsync.mirror.staging import Staging
from tests.fakes import JOB_ID, make_snapshot, make_stored

FOLDER = "acme/request/2026/11/22/120000Z-9bd7c8a0"
BODY = b"id,name\n" + bytes(range(256)) * 20
ETAG = '"9f86d081884c7d65"'
MIB = 1 << 20


@contextmanager
def small_mirror(path: Path) -> Iterator[MirrorRoot]:
    """A root on a disk of 1 MiB."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", path], check=True)
    try:
        with open_root(path) as root:
            yield root
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def staged(root: MirrorRoot) -> Path:
    """Return the staging folder of the job."""
    return root.path / ".dcsync/staging" / JOB_ID


def journal(root: MirrorRoot) -> Path:
    """Return the journal of the job."""
    return root.path / ".dcsync/staging" / f"{JOB_ID}.journal"


def mode(path: Path) -> int:
    """Return the permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def listing(path: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def stage(staging: Staging, name: str = "admin_users.csv", body: bytes = BODY, etag: str | None = None) -> StoredFile:
    """Write a file into the staging, as a download does."""
    part = staging.part(name, name, len(body))
    part.begin(etag)
    part.write(body)
    return part.finish(etag)


def suspended(root: MirrorRoot, name: str, body: bytes, *, size: int = len(BODY), etag: str = ETAG) -> None:
    """Leave an incomplete file, as a stopped run does."""
    with Staging(root, JOB_ID) as staging:
        part = staging.part(name, name, size)
        part.begin(etag)
        part.write(body)
        part.suspend()


def publish_before(root: MirrorRoot, files: Mapping[str, bytes]) -> Snapshot:
    """Put an earlier snapshot into the mirror and return its record."""
    snapshot = make_snapshot({})
    stored = []
    for name, body in files.items():
        path = root.path / snapshot.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        path.chmod(0o444)
        facts = path.stat()
        stored.append(make_stored(name, body, mtime_ns=facts.st_mtime_ns, inode=facts.st_ino))
    return replace(snapshot, files=tuple(stored))
