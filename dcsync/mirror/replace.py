"""A damaged file of a published snapshot replaced by a whole one: in one step, the damaged one kept aside."""

from __future__ import annotations

import os
from dataclasses import dataclass

from dcsync.core.transfer import PIECE_SIZE
from dcsync.mirror import disk
from dcsync.mirror.root import OWN_FOLDER, STAGING, MirrorRoot

QUARANTINE = "quarantine"
_ASIDE = "mend.new"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A file below the root: its folder, and its path below that."""

    folder: str
    name: str

    @property
    def path(self) -> str:
        """The path below the root."""
        return f"{self.folder}/{self.name}"


def replace_by_link(root: MirrorRoot, target: Place, source: Place, *, label: str) -> tuple[os.stat_result, str | None]:
    """Let `target` be another name of `source`, or a copy where hard links are refused.

    Returns what stands there now, and where the damaged one was put. Durable. Blocks; the caller holds the lock.
    """
    with (
        disk.disk_errors(f"mending {disk.shown(target.path)}"),
        root.folder(source.folder) as source_folder,
        disk.parent_of(source.name, below=source_folder) as (parent, leaf),
        root.folder(f"{OWN_FOLDER}/{STAGING}", create=True) as staging,
    ):
        disk.remove_tree(_ASIDE, staging)
        try:
            os.link(leaf, _ASIDE, src_dir_fd=parent, dst_dir_fd=staging, follow_symlinks=False)
        except OSError:
            _copy(leaf, parent, staging)
        return _swap_in(root, target, staging, label)


def replace_by_bytes(root: MirrorRoot, target: Place, body: bytes, *, label: str) -> tuple[os.stat_result, str | None]:
    """Let `target` hold these bytes; else as `replace_by_link`."""
    with (
        disk.disk_errors(f"mending {disk.shown(target.path)}"),
        root.folder(f"{OWN_FOLDER}/{STAGING}", create=True) as staging,
    ):
        disk.remove_tree(_ASIDE, staging)
        descriptor = _create(staging)
        try:
            disk.write_all(descriptor, body)
            os.fchmod(descriptor, disk.FILE_MODE)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return _swap_in(root, target, staging, label)


def _swap_in(root: MirrorRoot, target: Place, staging: int, label: str) -> tuple[os.stat_result, str | None]:
    with (
        root.folder(target.folder) as folder,
        disk.parent_of(target.name, below=folder, create=True) as (parent, leaf),
    ):
        kept = _keep(root, target, parent, leaf, label)
        os.rename(_ASIDE, leaf, src_dir_fd=staging, dst_dir_fd=parent)
        os.fsync(parent)
        return os.stat(leaf, dir_fd=parent, follow_symlinks=False), kept


def _keep(root: MirrorRoot, target: Place, parent: int, leaf: str, label: str) -> str | None:
    """Give the damaged file a name in the quarantine, durably; None when there is none."""
    if not disk.is_there(leaf, below=parent):
        return None
    above = f"{OWN_FOLDER}/{QUARANTINE}/{label}/{target.path}".rpartition("/")[0]
    with root.folder(above, create=True) as quarantine:
        name, number = leaf, 1
        while disk.is_there(name, below=quarantine):
            number += 1
            name = f"{leaf}.{number}"
        try:
            # A second name: readers of the snapshot see the old file until they see the new one.
            os.link(leaf, name, src_dir_fd=parent, dst_dir_fd=quarantine, follow_symlinks=False)
        except OSError:
            # No hard links, or no file: for the time between two system calls nothing stands there.
            os.rename(leaf, name, src_dir_fd=parent, dst_dir_fd=quarantine)
        os.fsync(quarantine)
    return f"{above}/{name}"


def _create(folder: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(_ASIDE, flags, 0o600, dir_fd=folder)


def _copy(leaf: str, parent: int, folder: int) -> None:
    source = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        target = _create(folder)
        try:
            if not disk.clone(source, target):
                offset = 0
                while piece := os.pread(source, PIECE_SIZE, offset):
                    disk.write_all(target, piece)
                    offset += len(piece)
            os.fchmod(target, disk.FILE_MODE)
            os.fsync(target)
        finally:
            os.close(target)
    finally:
        os.close(source)
