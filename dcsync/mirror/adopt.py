"""Published folders that the manifest does not know: read back from their sidecar, believed after hashing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from dcsync.core import names, sidecar
from dcsync.core.model import StoredFile
from dcsync.core.sidecar import Adopted
from dcsync.core.table import is_table
from dcsync.core.wire import WireError
from dcsync.errors import DiskError, MirrorTampered
from dcsync.mirror import disk
from dcsync.mirror.hashing import hash_descriptor
from dcsync.mirror.root import OWN_FOLDER, MirrorRoot

#: `2026/11/22/163405Z-9bd7c8a0` below account and request is six deep; templates may be deeper, but not without end.
_MAX_DEPTH = 12


def read_snapshot(root: MirrorRoot, folder: str) -> Adopted | None:
    """Return what a published folder says of itself; None when it has no sidecar that can be used. Blocks."""
    try:
        body = root.read_file(folder, names.SIDECAR_NAME)
        adopted = sidecar.parse(body, folder=folder)
    except (FileNotFoundError, WireError):
        return None
    digest = hashlib.sha256(body).hexdigest()
    proved = read_sums(root, folder).get(names.SIDECAR_NAME) == digest
    return replace(adopted, sha256=digest if proved else None)


def read_sums(root: MirrorRoot, folder: str) -> Mapping[str, str]:
    """Return what `SHA256SUMS` of a snapshot says; nothing when it is missing. Blocks."""
    try:
        return sidecar.parse_sums(root.read_file(folder, names.SUMS_NAME))
    except FileNotFoundError:
        return {}


def verify(root: MirrorRoot, adopted: Adopted) -> Adopted:
    """Hash every file against the sidecar and return the snapshot with what the disk says of them now. Blocks.

    Raises `MirrorTampered` naming the first file that differs or is missing; a file that cannot be read is a
    `DiskError`, not a difference.
    """
    with root.folder(adopted.snapshot.folder) as folder:
        files = tuple(_verified(folder, adopted.snapshot.folder, stored) for stored in adopted.snapshot.files)
    return replace(adopted, snapshot=replace(adopted.snapshot, files=files))


def find_snapshots(root: MirrorRoot, *, is_one: Callable[[str], bool] = lambda _: False) -> Iterator[str]:
    """Yield every folder below the root that has a sidecar or sums, without descending into snapshots. Blocks.

    `is_one` may know others by their path.
    """
    pending = [name for name in sorted(os.listdir(root.descriptor)) if name != OWN_FOLDER]
    while pending:
        relative = pending.pop(0)
        try:
            with root.folder(relative) as folder:
                if any(disk.is_there(name, below=folder) for name in names.OWN_FILES) or is_one(relative):
                    yield relative
                elif relative.count("/") < _MAX_DEPTH:
                    with os.scandir(folder) as entries:
                        below = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
                    pending.extend(f"{relative}/{name}" for name in below)
        except (MirrorTampered, DiskError, FileNotFoundError):
            # A file, a symlink, or a folder that is not ours to read (lost+found): not a snapshot.
            continue


def _verified(folder: int, relative: str, stored: StoredFile) -> StoredFile:
    shown = disk.shown(f"{relative}/{stored.name}")
    with disk.disk_errors(f"reading {shown}"):
        try:
            descriptor = disk.open_file(stored.name, below=folder)
        except FileNotFoundError:
            descriptor = None
        if descriptor is None:
            message = f"{shown} is missing, though {names.SIDECAR_NAME} names it"
            raise MirrorTampered(message, hint=_ASIDE)
        try:
            facts = os.fstat(descriptor)
            # The sidecars of older versions do not say header and rows; the bytes pass anyway.
            uncounted = stored.table is None and is_table(stored.original)
            digest = hash_descriptor(descriptor, with_table=uncounted) if facts.st_size == stored.size else None
        finally:
            os.close(descriptor)
    if digest is None or digest.sha256 != stored.sha256:
        message = f"{shown} is not what {names.SIDECAR_NAME} says"
        raise MirrorTampered(message, hint=_ASIDE)
    table = digest.table if uncounted else stored.table
    return replace(stored, mtime_ns=facts.st_mtime_ns, inode=facts.st_ino, table=table)


_ASIDE = "move the folder aside; dcsync fetches the snapshot again if the server still has it"
