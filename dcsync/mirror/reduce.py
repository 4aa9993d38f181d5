"""Reduce a snapshot: put a folder with only some of its files in its place (design.md, Reducing a snapshot).

The new folder is built in `.dcsync/reducing` from hard links. Then it changes places with the snapshot in one step.
Where a file system cannot exchange two names, the snapshot is moved aside first, and the next start puts it back if the
new folder did not follow. Every file is in a complete folder at every moment.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dcsync.core.model import AccountName, JobId, StoredFile
from dcsync.core.names import SIDECAR_NAME, SUMS_NAME
from dcsync.core.reduction import reduced_in
from dcsync.core.wire import WireError, decode_json
from dcsync.core.ziplayout import NeedsFrom, ZipError, read_directory
from dcsync.errors import DcsyncError, DiskError, MirrorTampered
from dcsync.mirror import disk
from dcsync.mirror.durable import copy_durably, create_durably, replace_durably
from dcsync.mirror.hashing import hash_descriptor
from dcsync.mirror.lines import append_lines, read_lines
from dcsync.mirror.root import OWN_FOLDER, MirrorRoot
from dcsync.mirror.trash import TRASH, discard_name, trash_leaf
from dcsync.opening import open_regular

REDUCING = "reducing"
_REDUCED = "reduced.jsonl"
#: The suffix of a snapshot that was moved aside because its file system cannot exchange two names.
_ASIDE = ".aside"
#: The names that dcsync gives. Anything else in the folder is a file of the system or of another user.
_OURS = re.compile(rf"([0-9a-f]{{32}})(?:{re.escape(_ASIDE)})?")
#: The end of a ZIP with its directory, in one read for most ZIPs.
_ZIP_TAIL = 1 << 20
#: The hint for a snapshot that is damaged, so that it cannot be reduced.
REPAIR_HINT = "run dcsync verify --repair. The snapshot stays whole until it is repaired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """A snapshot that was or is about to be reduced."""

    account: AccountName
    job: JobId
    folder: str

    @property
    def leaf(self) -> str:
        """The name of its new folder while it is built, and of the old one after the exchange."""
        return trash_leaf(self.account, self.job)


def build(
    root: MirrorRoot, reduction: Reduction, files: Sequence[StoredFile], *, own: dict[str, bytes]
) -> tuple[StoredFile, ...]:
    """Build the new folder, durably, from these files of the snapshot and our own files. Blocks.

    Returns the files as they are in the new folder. Raises `FileNotFoundError` if the snapshot lacks one of them, and
    `MirrorTampered` if one has another size.
    """
    with (
        root.folder(reduction.folder) as snapshot,
        root.folder(f"{OWN_FOLDER}/{REDUCING}", create=True) as reducing,
        disk.disk_errors_but_missing(f"reducing {disk.shown(reduction.folder)}"),
    ):
        discard_name(root, reduction.leaf, reducing)
        new = disk.open_folders(reducing, [reduction.leaf], create=True)
        try:
            made = tuple(_link(snapshot, new, stored, reduction.folder) for stored in files)
            create_durably(new, SUMS_NAME, own[SUMS_NAME])
            # The sidecar comes last and in one step. A folder without one was not completed.
            replace_durably(new, SIDECAR_NAME, own[SIDECAR_NAME], mode=disk.FILE_MODE)
        finally:
            os.close(new)
        os.fsync(reducing)
    return made


def swap(root: MirrorRoot, reduction: Reduction) -> None:
    """Put the new folder in the place of the snapshot, durably. Blocks. The caller holds the lock.

    A line in `.dcsync` names the snapshot first. With it, the next start finishes what a crash cut short.
    """
    try:
        append_lines(root, _REDUCED, {"account": reduction.account, "job": reduction.job, "folder": reduction.folder})
    except DcsyncError:
        drop_unbegun(root, reduction.leaf)
        raise
    parent_path, _, name = reduction.folder.rpartition("/")
    with (
        root.folder(parent_path) as parent,
        root.folder(f"{OWN_FOLDER}/{REDUCING}") as reducing,
        disk.disk_errors(f"reducing {disk.shown(reduction.folder)}"),
    ):
        if not disk.exchange(reduction.leaf, reducing, name, parent):
            disk.rename(name, parent, reduction.leaf + _ASIDE, reducing)
            os.fsync(reducing)
            disk.rename_noreplace(reduction.leaf, reducing, name, parent)
        os.fsync(parent)
        os.fsync(reducing)


def discard_old(root: MirrorRoot, reduction: Reduction) -> list[str]:
    """Move all that is left of a reduction into the trash, and return the names there. Blocks.

    Call it when the reduction is recorded, and only while a complete snapshot is in its place: what is moved may be the
    whole snapshot. Nothing is removed here, so that a folder in `.dcsync/reducing` is complete, or was never completed.
    """
    moved = []
    with (
        disk.disk_errors(f"moving the full tables of {disk.shown(reduction.folder)} to the trash"),
        root.folder(f"{OWN_FOLDER}/{REDUCING}", create=True) as reducing,
        root.folder(f"{OWN_FOLDER}/{TRASH}", create=True) as trash,
    ):
        for name in (reduction.leaf + _ASIDE, reduction.leaf):
            if disk.is_there(name, below=reducing):
                # Each under its own name, so that neither is removed to make room for the other.
                discard_name(root, name, trash)
                disk.rename(name, reducing, name, trash)
                os.fsync(trash)
                os.fsync(reducing)
                moved.append(name)
    return moved


def all_reductions(root: MirrorRoot) -> Mapping[Reduction, int]:
    """Return every snapshot whose reduction was begun, and how often. Some were not completed. Blocks."""
    found: Counter[Reduction] = Counter()
    for entry in read_lines(root, _REDUCED):
        account, job, folder = entry.get("account"), entry.get("job"), entry.get("folder")
        if isinstance(account, str) and isinstance(job, str) and isinstance(folder, str):
            found[Reduction(account=AccountName(account), job=JobId(job), folder=folder)] += 1
    return found


def put_back(root: MirrorRoot, reduction: Reduction) -> bool:
    """Put a snapshot back into its place if a crash came between its two renames. Blocks. The caller holds the lock."""
    if root.is_taken(reduction.folder):
        return False
    parent_path, _, name = reduction.folder.rpartition("/")
    with (
        root.folder(parent_path, create=True) as parent,
        root.folder(f"{OWN_FOLDER}/{REDUCING}", create=True) as reducing,
        disk.disk_errors(f"putting back {disk.shown(reduction.folder)}"),
    ):
        for leaf in (reduction.leaf + _ASIDE, reduction.leaf):
            if disk.is_there(leaf, below=reducing) and _is_complete(leaf, reducing):
                disk.rename_noreplace(leaf, reducing, name, parent)
                os.fsync(parent)
                os.fsync(reducing)
                return True
    return False


def drop_unbegun(root: MirrorRoot, leaf: str) -> bool:
    """Remove a new folder that never had a line: its snapshot is untouched. False for any other folder. Blocks."""
    with (
        root.folder(f"{OWN_FOLDER}/{REDUCING}") as reducing,
        disk.disk_errors(f"clearing {OWN_FOLDER}/{REDUCING}"),
    ):
        if disk.is_there(leaf + _ASIDE, below=reducing):
            return False
        if _is_complete(leaf, reducing) and not _is_reduced(root, f"{OWN_FOLDER}/{REDUCING}/{leaf}"):
            return False
        discard_name(root, leaf, reducing)
    return True


def leaves(root: MirrorRoot) -> set[str]:
    """Return the names of the reductions of which something is left. Names that are not ours do not count."""
    try:
        with root.folder(f"{OWN_FOLDER}/{REDUCING}") as reducing, disk.disk_errors("reading .dcsync/reducing"):
            return {ours[1] for name in os.listdir(reducing) if (ours := _OURS.fullmatch(name))}
    except FileNotFoundError:
        return set()


def freed_bytes(
    root: MirrorRoot, removals: Sequence[tuple[str, frozenset[str]]]
) -> list[int | DiskError | MirrorTampered]:
    """Return the bytes that each removal frees, in this order, or the error of a folder that cannot be read. Blocks.

    Each is a folder and the names in it that stay. A file is freed by the removal of its last hard link.
    """
    left: dict[tuple[int, int], int] = {}
    freed: list[int | DiskError | MirrorTampered] = []
    for folder, stays in removals:
        total = 0
        try:
            with root.folder(folder) as descriptor, disk.disk_errors(f"reading {disk.shown(folder)}"):
                for path, facts in _files(descriptor, ""):
                    if path in stays:
                        continue
                    inode = (facts.st_dev, facts.st_ino)
                    links = left.get(inode, facts.st_nlink) - 1
                    left[inode] = links
                    total += facts.st_size if links == 0 else 0
        except FileNotFoundError:
            pass
        except (DiskError, MirrorTampered) as error:
            freed.append(error)
            continue
        freed.append(total)
    return freed


def archive_repeats(root: MirrorRoot, folder: str, archive: StoredFile, files: Sequence[StoredFile]) -> bool:
    """Say whether every entry of the extract's ZIP is also a file of the snapshot. False in doubt. Blocks."""
    known = {(stored.original, stored.size, stored.crc32) for stored in files}
    try:
        with root.folder(folder) as snapshot:
            descriptor = disk.open_file(archive.name, below=snapshot)
        try:
            size = os.fstat(descriptor).st_size
            start = max(0, size - _ZIP_TAIL)
            directory = read_directory(os.pread(descriptor, size - start, start), size=size)
            while isinstance(directory, NeedsFrom):
                start = directory.start
                directory = read_directory(os.pread(descriptor, size - start, start), size=size)
        finally:
            os.close(descriptor)
    except (OSError, DcsyncError, ZipError):
        return False
    return not directory.refused and all(
        (member.name, member.size, member.crc32) in known for member in directory.members
    )


def _is_complete(leaf: str, reducing: int) -> bool:
    folder = disk.open_folder(leaf, below=reducing)
    try:
        return disk.is_there(SIDECAR_NAME, below=folder)
    finally:
        os.close(folder)


def _is_reduced(root: MirrorRoot, folder: str) -> bool:
    try:
        document = decode_json(root.read_file(folder, SIDECAR_NAME))
    except WireError:
        return False
    return isinstance(document, Mapping) and reduced_in(document)[0] is not None


def _files(folder: int, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the path and the attributes of every file, without following symlinks."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                below = disk.open_folder(entry.name, below=folder)
                try:
                    yield from _files(below, f"{prefix}{entry.name}/")
                finally:
                    os.close(below)
            else:
                yield f"{prefix}{entry.name}", entry.stat(follow_symlinks=False)


def _link(snapshot: int, new: int, stored: StoredFile, folder: str) -> StoredFile:
    with (
        disk.parent_of(stored.name, below=snapshot) as (source, leaf),
        disk.parent_of(stored.name, below=new, create=True) as (target, name),
    ):
        descriptor = open_regular(leaf, below=source)
        try:
            facts = os.fstat(descriptor)
            if facts.st_size != stored.size:
                message = f"{disk.shown(f'{folder}/{stored.name}')} is not the file that was published"
                raise MirrorTampered(message, hint=REPAIR_HINT)
            try:
                os.link(leaf, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
                made = facts
            except OSError:
                # No hard links here, or the file has too many of them.
                made = copy_durably(descriptor, target, name)
                _compare(target, name, stored, folder)
        finally:
            os.close(descriptor)
        os.fsync(target)
    return replace(stored, mtime_ns=made.st_mtime_ns, inode=made.st_ino)


def _compare(folder: int, name: str, stored: StoredFile, shown: str) -> None:
    copied = disk.open_file(name, below=folder)
    try:
        if hash_descriptor(copied).sha256 != stored.sha256:
            message = f"{disk.shown(f'{shown}/{stored.name}')} does not have the content that was published"
            raise MirrorTampered(message, hint=REPAIR_HINT)
    finally:
        os.close(copied)
