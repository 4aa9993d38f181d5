"""Published folders that have no row in the manifest: read back from `_dcsync.json`.

Such a folder is adopted only after every file in it was hashed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from dcsync.core import names, sidecar
from dcsync.core.model import StoredFile
from dcsync.core.sidecar import Adopted
from dcsync.core.system_files import is_system_name
from dcsync.core.table import is_table
from dcsync.core.wire import WireError
from dcsync.errors import DcsyncError, DiskError, MirrorTampered
from dcsync.mirror import disk
from dcsync.mirror.hashing import hash_descriptor
from dcsync.mirror.nesting import is_other_mirror
from dcsync.mirror.root import OWN_FOLDER, MirrorRoot

#: `2026/11/22/163405Z-9bd7c8a0` below account and data request has a depth of six. Path templates may go deeper. The
#: limit ends the search in a mirror with endless folders.
_MAX_DEPTH = 12


def read_snapshot(root: MirrorRoot, folder: str) -> Adopted | None:
    """Return the snapshot that a folder's `_dcsync.json` describes. None without a usable `_dcsync.json`. Blocks."""
    try:
        body = root.read_file(folder, names.SIDECAR_NAME)
        adopted = sidecar.parse(body, folder=folder)
    except (FileNotFoundError, WireError):
        return None
    digest = hashlib.sha256(body).hexdigest()
    proved = usable_sums(root, folder).get(names.SIDECAR_NAME) == digest
    return replace(adopted, sha256=digest if proved else None)


def read_sums(root: MirrorRoot, folder: str) -> Mapping[str, str]:
    """Return the hashes in a snapshot's `SHA256SUMS` by name. Empty without such a file. Blocks."""
    try:
        return sidecar.parse_sums(root.read_file(folder, names.SUMS_NAME))
    except (FileNotFoundError, MirrorTampered):
        return {}


def usable_sums(root: MirrorRoot, folder: str) -> Mapping[str, str]:
    """Return the same, and nothing when the file cannot be read: `_dcsync.json` has the hashes as well. Blocks."""
    try:
        return read_sums(root, folder)
    except DcsyncError:
        return {}


def verify(root: MirrorRoot, adopted: Adopted) -> Adopted:
    """Check every file against the SHA-256 in `_dcsync.json`. Blocks.

    Returns the snapshot with the inodes and times that the files have now. Raises `MirrorTampered` with the name of the
    first file that differs or is missing. A file that cannot be read raises a `DiskError`, because it may be intact.
    """
    with root.folder(adopted.snapshot.folder) as folder:
        files = tuple(_verified(folder, adopted.snapshot.folder, stored) for stored in adopted.snapshot.files)
    return replace(adopted, snapshot=replace(adopted.snapshot, files=files))


def find_snapshots(root: MirrorRoot, *, is_snapshot: Callable[[str], bool] = lambda _: False) -> Iterator[str]:
    """Yield every folder below the root that has `_dcsync.json` or `SHA256SUMS`. Blocks.

    `is_snapshot` can name further snapshots by their path. The search does not descend into snapshots, nor into other
    mirrors, nor into the folders of a NAS or file system, which may have copies of the whole mirror (`.snapshot`,
    `#recycle`), nor into those of dcsync itself: a snapshot that is being copied into place is not published yet.
    """
    pending = sorted(filter(_may_hold_snapshots, os.listdir(root.descriptor)))
    while pending:
        relative = pending.pop(0)
        if is_other_mirror(root, relative):
            continue
        try:
            with root.folder(relative) as folder:
                if any(disk.is_there(name, below=folder) for name in names.OWN_FILES) or is_snapshot(relative):
                    yield relative
                elif relative.count("/") < _MAX_DEPTH:
                    with os.scandir(folder) as entries:
                        below = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
                    pending.extend(f"{relative}/{name}" for name in filter(_may_hold_snapshots, below))
        except (MirrorTampered, DiskError, OSError):
            # A file, a symlink, or a folder that dcsync may not read (lost+found) is not a snapshot.
            continue


def _may_hold_snapshots(name: str) -> bool:
    return not name.startswith(OWN_FOLDER) and not is_system_name(name)


def _verified(folder: int, relative: str, stored: StoredFile) -> StoredFile:
    shown = disk.shown(f"{relative}/{stored.name}")
    with disk.disk_errors(f"reading {shown}"):
        try:
            descriptor = disk.open_file(stored.name, below=folder)
        except FileNotFoundError:
            descriptor = None
        if descriptor is None:
            message = f"{shown} is missing, but {names.SIDECAR_NAME} lists it"
            raise MirrorTampered(message, hint=_HINT)
        try:
            facts = os.fstat(descriptor)
            # `_dcsync.json` of older versions has no header and row count. The bytes are read here anyway.
            uncounted = stored.table is None and is_table(stored.original)
            digest = hash_descriptor(descriptor, with_table=uncounted) if facts.st_size == stored.size else None
        finally:
            os.close(descriptor)
    if digest is None or digest.sha256 != stored.sha256:
        message = f"{shown} does not match its SHA-256 in {names.SIDECAR_NAME}"
        raise MirrorTampered(message, hint=_HINT)
    table = digest.table if uncounted else stored.table
    return replace(stored, mtime_ns=facts.st_mtime_ns, inode=facts.st_ino, table=table)


_HINT = "move the folder out of the mirror. dcsync then downloads the snapshot again if Autodesk still has its extract"
