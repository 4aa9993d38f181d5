"""Repair of a published snapshot: a damaged file is replaced in one step, and kept in the quarantine."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from dcsync.mirror import disk
from dcsync.mirror.durable import copy_durably, create_durably
from dcsync.mirror.root import OWN_FOLDER, STAGING, MirrorRoot
from dcsync.opening import open_regular

QUARANTINE = "quarantine"
_NEW = "repair.new"
#: The same in the folder of a snapshot, where readers do not look for it.
_HIDDEN = f"{OWN_FOLDER}-{_NEW}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A file below the root: the folder of its snapshot, and its path below that folder."""

    folder: str
    name: str

    @property
    def path(self) -> str:
        """The path below the root."""
        return f"{self.folder}/{self.name}"


def replace_by_link(root: MirrorRoot, target: Place, source: Place, *, label: str) -> tuple[os.stat_result, str | None]:
    """Make `target` another hard link of `source`, or a copy where hard links are refused.

    Durable. Returns the attributes of the new file, and the path of the damaged one in the quarantine, None if there
    was no file. Blocks. The caller holds the lock.
    """
    with (
        disk.disk_errors(f"repairing {disk.shown(target.path)}"),
        root.folder(source.folder) as source_folder,
        disk.parent_of(source.name, below=source_folder) as (parent, leaf),
        root.folder(f"{OWN_FOLDER}/{STAGING}", create=True) as staging,
    ):
        disk.remove_tree(_NEW, staging)
        try:
            os.link(leaf, _NEW, src_dir_fd=parent, dst_dir_fd=staging, follow_symlinks=False)
        except OSError:
            _copy(leaf, parent, staging, _NEW)
        return _swap_in(root, target, staging, label)


def replace_by_bytes(root: MirrorRoot, target: Place, body: bytes, *, label: str) -> tuple[os.stat_result, str | None]:
    """Give `target` these bytes. The rest is as in `replace_by_link`."""
    with (
        disk.disk_errors(f"repairing {disk.shown(target.path)}"),
        root.folder(f"{OWN_FOLDER}/{STAGING}", create=True) as staging,
    ):
        disk.remove_tree(_NEW, staging)
        create_durably(staging, _NEW, body)
        return _swap_in(root, target, staging, label)


def _swap_in(root: MirrorRoot, target: Place, staging: int, label: str) -> tuple[os.stat_result, str | None]:
    with (
        root.folder(target.folder) as folder,
        disk.parent_of(target.name, below=folder, create=True) as (parent, leaf),
    ):
        kept = _quarantine(root, target, parent, leaf, label)
        try:
            disk.rename(_NEW, staging, leaf, parent)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # The snapshot is on another file system than the staging.
            disk.remove_tree(_HIDDEN, parent)
            _copy(_NEW, staging, parent, _HIDDEN)
            disk.rename(_HIDDEN, parent, leaf, parent)
        os.fsync(parent)
        return os.stat(leaf, dir_fd=parent, follow_symlinks=False), kept


def _quarantine(root: MirrorRoot, target: Place, parent: int, leaf: str, label: str) -> str | None:
    """Give the damaged file a name in the quarantine, durably, and return its path. None without a file."""
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
            # No hard links here, or it is a folder: the name is missing for the time between two system calls.
            try:
                disk.rename(leaf, parent, name, quarantine)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _copy(leaf, parent, quarantine, name)
        os.fsync(quarantine)
    return f"{above}/{name}"


def _copy(leaf: str, parent: int, folder: int, name: str) -> None:
    source = open_regular(leaf, below=parent)
    try:
        copy_durably(source, folder, name)
    finally:
        os.close(source)
