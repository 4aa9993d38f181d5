"""A damaged file of a published snapshot replaced by a whole one: in one step, the damaged one kept aside."""

from __future__ import annotations

import os
from dataclasses import dataclass

from dcsync.mirror import disk
from dcsync.mirror.durable import copy_durably, create_durably
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
        create_durably(staging, _ASIDE, body)
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


def _copy(leaf: str, parent: int, folder: int) -> None:
    source = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        copy_durably(source, folder, _ASIDE)
    finally:
        os.close(source)
