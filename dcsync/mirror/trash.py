"""Pruned snapshots: renamed into `.dcsync/trash` in one step, and removed there. One line of each is kept.

The line is written after the rename, so that no line names a snapshot that is still in its place. The manifest is
updated after that, and the trash is emptied last: a snapshot in the trash whose row is still `published` was renamed by
a run that was killed. A manifest that is rebuilt from the mirror, or older than the pruning, reads the lines. A pruned
snapshot is therefore neither downloaded again nor reported as lost.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from dcsync.core.model import AccountName, JobId, Json
from dcsync.core.names import SIDECAR_NAME
from dcsync.core.snapshot import Record, parse_record, record_json
from dcsync.core.wire import WireError
from dcsync.errors import DcsyncError, DiskReadOnly
from dcsync.mirror import disk
from dcsync.mirror.lines import append_lines, read_lines
from dcsync.mirror.root import OWN_FOLDER, MirrorRoot

TRASH = "trash"
PRUNED = "pruned.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """The record that is kept of a pruned snapshot."""

    account: AccountName
    record: Record


def trash_leaf(account: AccountName, job: JobId) -> str:
    """Return the name of a job's snapshot in the trash. It is unique to the job, and safe whatever the job's ID is."""
    return hashlib.sha256(f"{account}/{job}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def note_pruned(root: MirrorRoot, *pruned: Pruned) -> None:
    """Append the lines of pruned snapshots, durably. Blocks. The caller holds the lock."""
    entries: list[Mapping[str, Json]] = [
        {"account": one.account, "folder": one.record.folder, "record": record_json(one.record)} for one in pruned
    ]
    append_lines(root, PRUNED, *entries)


def all_pruned(root: MirrorRoot) -> Iterator[Pruned]:
    """Yield the pruned snapshots, oldest first. Malformed and withdrawn lines are skipped. Blocks."""
    for entry in _valid_lines(root):
        try:
            record = parse_record(entry.get("record"), folder=str(entry["folder"]))
        except WireError:
            continue
        yield Pruned(account=AccountName(str(entry["account"])), record=record)


def withdraw_unpruned(root: MirrorRoot, folders: Mapping[AccountName, Mapping[JobId, str]]) -> list[str]:
    """Withdraw the lines of snapshots that are in their place: they were not pruned. Return their folders. Blocks.

    `folders` are those of the recorded snapshots. A line may be durable although the call that wrote it failed, and the
    snapshot was put back then. If the line stayed valid, a later loss of the snapshot would look like a pruning.
    """
    here = {(account, folder) for account, known in folders.items() for folder in known.values()}
    lines = {(str(entry["account"]), str(entry["folder"])) for entry in _valid_lines(root)}
    withdrawn = []
    for account, folder in sorted(here & lines):
        if root.has_folder(folder):
            append_lines(root, PRUNED, {"account": account, "withdrawn": folder})
            withdrawn.append(folder)
    return withdrawn


def _valid_lines(root: MirrorRoot) -> list[Mapping[str, Json]]:
    """Return the lines with an account and a folder that no later line withdraws, oldest first."""
    valid: list[Mapping[str, Json]] = []
    for entry in read_lines(root, PRUNED):
        account, folder, withdrawn = entry.get("account"), entry.get("folder"), entry.get("withdrawn")
        if isinstance(withdrawn, str):
            valid = [line for line in valid if (line["account"], line["folder"]) != (account, withdrawn)]
        elif isinstance(account, str) and isinstance(folder, str):
            valid.append(entry)
    return valid


def discard(root: MirrorRoot, folder: str, leaf: str, *, depth: int) -> None:
    """Rename a snapshot into the trash, durably and in one step. Blocks. The caller holds the lock.

    Removes the folders above it that are now unused, except the first `depth` ones. Raises `DiskError`s, and
    `FileNotFoundError` when the snapshot does not exist.
    """
    for error in discard_all(root, {folder: leaf}, depth=depth).values():
        raise error


def discard_all(
    root: MirrorRoot, leaves: Mapping[str, str], *, depth: int
) -> dict[str, DcsyncError | FileNotFoundError]:
    """Do the same for several snapshots, which share the fsyncs. `leaves` has the name in the trash of each folder.

    Return the error of each snapshot that did not go. The first `DiskReadOnly` is that of all snapshots after it. After
    an error, a snapshot is in its place, or in the trash until the next start.
    """
    failed: dict[str, DcsyncError | FileNotFoundError] = {}
    moved: dict[str, int] = {}
    with ExitStack() as opened:
        with disk.disk_errors(f"opening {OWN_FOLDER}/{TRASH}"):
            trash = opened.enter_context(root.folder(f"{OWN_FOLDER}/{TRASH}", create=True))
        for folder, leaf in leaves.items():
            try:
                moved[folder] = opened.enter_context(_moved(root, folder, leaf, trash))
            except DiskReadOnly as error:
                failed |= dict.fromkeys(leaves.keys() - moved.keys() - failed.keys(), error)
                break
            except (DcsyncError, FileNotFoundError) as error:
                failed[folder] = error
        with disk.disk_errors(f"moving snapshots to {OWN_FOLDER}/{TRASH}"):
            # The new names first: a crash in between may leave a snapshot under both names, never under none.
            os.fsync(trash)
            for parent in moved.values():
                os.fsync(parent)
    with root.reshaping:
        for folder in moved:
            try:
                _remove_empty(root, folder.rpartition("/")[0], depth)
            except DcsyncError as error:
                failed[folder] = error
    return failed


@contextmanager
def _moved(root: MirrorRoot, folder: str, leaf: str, trash: int) -> Iterator[int]:
    """Rename a snapshot into the trash, and hold its parent folder open for an fsync."""
    parent_path, _, name = folder.rpartition("/")
    with root.folder(parent_path) as parent:
        # The caller decides what a missing snapshot means. All other errors are those of the disk.
        with disk.disk_errors_but_missing(f"moving {disk.shown(folder)} to the trash"):
            # A part of an earlier snapshot of the job that cannot be removed makes room.
            discard_name(root, leaf, trash)
            disk.rename(name, parent, leaf, trash)
        yield parent


def discard_name(root: MirrorRoot, name: str, parent: int) -> None:
    """Remove a file or a folder. What cannot be removed moves into the trash under a new name. Blocks.

    Raises `OSError`s and `DiskError`s if it cannot be moved either.
    """
    try:
        disk.remove_tree(name, parent)
    except OSError:
        with root.folder(f"{OWN_FOLDER}/{TRASH}", create=True) as trash:
            disk.rename(name, parent, f"left-{uuid.uuid4().hex}", trash)


def empty(root: MirrorRoot, leaf: str) -> int:
    """Remove a snapshot from the trash and return the number of bytes that this freed. Blocks.

    Raises a `DiskError` that names the first path that cannot be removed. Everything else is removed then.
    """
    path = f"{OWN_FOLDER}/{TRASH}"
    try:
        with root.folder(path) as trash:
            with disk.disk_errors(f"reading {path}/{leaf}"):
                freed = _last_links(leaf, trash)
            try:
                disk.remove_tree(leaf, trash)
            except OSError as error:
                shown = disk.shown(f"{path}/{error.filename or leaf}")
                raise disk.disk_error(error, f"removing {shown}") from None
            return freed
    except FileNotFoundError:
        return 0


def restore(root: MirrorRoot, folder: str, leaf: str) -> None:
    """Rename a snapshot from the trash back into its place, durably. Blocks. The caller holds the lock."""
    parent_path, _, name = folder.rpartition("/")
    with (
        root.reshaping,
        disk.disk_errors(f"moving {disk.shown(folder)} back from the trash"),
        root.folder(parent_path, create=True) as parent,
        root.folder(f"{OWN_FOLDER}/{TRASH}") as trash,
    ):
        disk.rename_noreplace(leaf, trash, name, parent)
        os.fsync(parent)
        os.fsync(trash)


def sidecar_sha256(root: MirrorRoot, leaf: str) -> str | None:
    """Return the hash of `_dcsync.json` of a snapshot in the trash. None if it has none, or no longer. Blocks."""
    try:
        return hashlib.sha256(root.read_file(f"{OWN_FOLDER}/{TRASH}/{leaf}", SIDECAR_NAME)).hexdigest()
    except FileNotFoundError:
        return None


def leaves(root: MirrorRoot) -> set[str]:
    """Return the names in the trash."""
    try:
        with root.folder(f"{OWN_FOLDER}/{TRASH}") as trash, disk.disk_errors("reading the trash"):
            return set(os.listdir(trash))
    except FileNotFoundError:
        return set()


def _remove_empty(root: MirrorRoot, folder: str, depth: int) -> None:
    components = folder.split("/")
    while len(components) > depth:
        *above, name = components
        try:
            with (
                root.folder("/".join(above)) as parent,
                disk.disk_errors(f"removing the empty folders of {disk.shown(folder)}"),
            ):
                try:
                    if not disk.remove_unused(name, parent):
                        # It has other snapshots of that day, or files of a user.
                        return
                except OSError:
                    return
        except FileNotFoundError:
            return
        components = above


def _last_links(name: str, parent: int) -> int:
    """Return the size in bytes of the files that no other snapshot shares."""
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
