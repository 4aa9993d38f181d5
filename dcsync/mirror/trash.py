"""Snapshots on their way out: renamed into `.dcsync/trash` in one step, removed there, and a line kept of each.

The line is written first. It lets a crash between the rename and the manifest's row be finished, and a manifest made
anew from the tree know what was pruned, so that it is neither fetched again nor called a loss.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dcsync.core.model import AccountName, JobId
from dcsync.core.snapshot import Record, parse_record, record_json
from dcsync.core.wire import WireError, decode_json
from dcsync.mirror import disk
from dcsync.mirror.root import OWN_FOLDER, MirrorRoot

TRASH = "trash"
_PRUNED = "pruned.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What is left of a snapshot that was pruned."""

    account: AccountName
    record: Record


def trash_leaf(account: AccountName, job: JobId) -> str:
    """Return the name of a job's snapshot in the trash: one name for one job, safe whatever its id is."""
    return hashlib.sha256(f"{account}/{job}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def note_pruned(root: MirrorRoot, pruned: Pruned) -> None:
    """Append a line, durably. Blocks; the caller holds the lock."""
    entry = {"account": pruned.account, "folder": pruned.record.folder, "record": record_json(pruned.record)}
    line = json.dumps(entry).encode("ascii") + b"\n"
    with disk.disk_errors(f"writing {OWN_FOLDER}/{_PRUNED}"), root.folder(OWN_FOLDER, create=True) as own:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(_PRUNED, flags, 0o644, dir_fd=own)
        try:
            end = os.lseek(descriptor, 0, os.SEEK_END)
            if end and os.pread(descriptor, 1, end - 1) != b"\n":
                # The last line was cut by a crash or a full disk.
                line = b"\n" + line
            disk.write_all(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.fsync(own)


def all_pruned(root: MirrorRoot) -> Iterator[Pruned]:
    """Yield what was pruned, oldest first; lines that cannot be read are passed over. Blocks."""
    try:
        body = root.read_file(OWN_FOLDER, _PRUNED)
    except FileNotFoundError:
        return
    for line in body.splitlines():
        try:
            entry = decode_json(line)
            if isinstance(entry, dict) and isinstance(entry.get("account"), str) and isinstance(entry["folder"], str):
                yield Pruned(
                    account=AccountName(entry["account"]),
                    record=parse_record(entry.get("record"), folder=entry["folder"]),
                )
        except (WireError, KeyError):
            continue


def discard(root: MirrorRoot, folder: str, leaf: str, *, depth: int) -> None:
    """Rename a snapshot into the trash, durably: it is there, or it is gone. Blocks; the caller holds the lock.

    Folders above it that are empty then go too, but for the first `depth` ones. Raises `DiskError`s, and
    `FileNotFoundError` when the snapshot is not there.
    """
    parent_path, _, name = folder.rpartition("/")
    with (
        root.folder(parent_path) as parent,
        # Not to be found is for the caller to judge, everything else is the disk's.
        _disk_errors_but_missing(f"moving {disk.shown(folder)} to the trash"),
        root.folder(f"{OWN_FOLDER}/{TRASH}", create=True) as trash,
    ):
        disk.remove_tree(leaf, trash)
        os.rename(name, leaf, src_dir_fd=parent, dst_dir_fd=trash)
        # The new name first: a crash between the two may leave it in both, never in none.
        os.fsync(trash)
        os.fsync(parent)
    with root.reshaping:
        _remove_empty(root, parent_path, depth)


def empty(root: MirrorRoot, leaf: str) -> int:
    """Remove what is under a name in the trash and return the bytes that this freed. Blocks."""
    try:
        with root.folder(f"{OWN_FOLDER}/{TRASH}") as trash, disk.disk_errors("emptying the trash"):
            freed = _last_links(leaf, trash)
            disk.remove_tree(leaf, trash)
            return freed
    except FileNotFoundError:
        return 0


def leaves(root: MirrorRoot) -> set[str]:
    """Return what is in the trash."""
    try:
        with root.folder(f"{OWN_FOLDER}/{TRASH}") as trash, disk.disk_errors("reading the trash"):
            return set(os.listdir(trash))
    except FileNotFoundError:
        return set()


@contextmanager
def _disk_errors_but_missing(doing: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise disk.disk_error(error, doing) from None


def _remove_empty(root: MirrorRoot, folder: str, depth: int) -> None:
    components = folder.split("/")
    while len(components) > depth:
        *above, name = components
        try:
            with root.folder("/".join(above)) as parent, disk.disk_errors(f"tidying up {disk.shown(folder)}"):
                try:
                    os.rmdir(name, dir_fd=parent)
                except OSError:
                    # Not empty: other snapshots of that day.
                    return
        except FileNotFoundError:
            return
        components = above


def _last_links(name: str, parent: int) -> int:
    """Return the bytes of the files that no other snapshot shares."""
    try:
        folder = disk.open_folder(name, below=parent)
    except OSError:
        return 0
    try:
        total = 0
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += _last_links(entry.name, folder)
                else:
                    facts = entry.stat(follow_symlinks=False)
                    total += facts.st_size if facts.st_nlink == 1 else 0
        return total
    finally:
        os.close(folder)
