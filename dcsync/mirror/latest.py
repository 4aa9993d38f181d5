"""`latest`, the only name in the mirror that changes: replaced in one step, never missing and never half written."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection
from enum import StrEnum

from dcsync.core import names
from dcsync.core.system_files import is_system_name
from dcsync.mirror import disk
from dcsync.mirror.root import OWN_FOLDER, STAGING, MirrorRoot


class LatestKind(StrEnum):
    """How `latest` shows the newest snapshot."""

    SYMLINK = "symlink"
    #: A real folder, for clients that do not follow symlinks (SMB shares, Power BI).
    HARDLINKS = "hardlinks"
    NONE = "none"


def point_latest(
    root: MirrorRoot, *, request_folder: str, name: str, snapshot: str, kind: LatestKind, rebuild: bool = False
) -> None:
    """Make `<request_folder>/<name>` show `snapshot`, both relative to the root. Blocks. The caller holds the lock.

    With `rebuild`, a folder of hard links is built again even if it shows that snapshot already.
    """
    if kind is LatestKind.NONE:
        return
    with (
        disk.disk_errors(f"moving {disk.shown(f'{request_folder}/{name}')}"),
        root.folder(request_folder) as folder,
        root.folder(f"{OWN_FOLDER}/{STAGING}", create=True) as staging,
    ):
        # The replacement is built in `.dcsync`, so that a reader of the mirror sees the old one or the new one.
        new_name = names.component(f"latest.{request_folder}") + root.mark
        disk.remove_tree(new_name, staging)
        if kind is LatestKind.SYMLINK:
            target = posixpath.relpath(snapshot, request_folder)
            if _points_to(folder, name, target):
                return
            os.symlink(target, new_name, dir_fd=staging)
        else:
            if not rebuild and _is_folder_of(root, folder, name, snapshot):
                return
            _link_all(root, snapshot, new_name, staging)
        _swap(new_name, staging, name, folder)
        os.fsync(folder)
        disk.remove_tree(new_name, staging)


def drop_latest(root: MirrorRoot, *, request_folder: str, name: str, snapshots: Collection[str]) -> bool:
    """Remove `latest` if it shows one of these snapshots, durably. Return whether it did. Blocks."""
    if shown_by_latest(root, request_folder=request_folder, name=name, snapshots=snapshots) is None:
        return False
    with (
        disk.disk_errors(f"removing {disk.shown(f'{request_folder}/{name}')}"),
        root.folder(request_folder) as folder,
        root.folder(f"{OWN_FOLDER}/{STAGING}", create=True) as staging,
    ):
        # Renamed first, so that a reader of the mirror never sees half of a folder of hard links.
        old_name = names.component(f"latest.{request_folder}") + root.mark
        disk.remove_tree(old_name, staging)
        os.rename(name, old_name, src_dir_fd=folder, dst_dir_fd=staging)
        os.fsync(folder)
        disk.remove_tree(old_name, staging)
    return True


def shown_by_latest(root: MirrorRoot, *, request_folder: str, name: str, snapshots: Collection[str]) -> str | None:
    """Return the one of these snapshots that `latest` shows now, or None. Blocks."""
    try:
        with root.folder(request_folder) as folder, disk.disk_errors(f"reading {disk.shown(request_folder)}/{name}"):
            try:
                target = os.readlink(name, dir_fd=folder)
            except FileNotFoundError:
                return None
            except OSError:
                # Not a symlink: a folder of hard links.
                return next((snapshot for snapshot in snapshots if _is_folder_of(root, folder, name, snapshot)), None)
    except FileNotFoundError:
        return None
    shown = posixpath.normpath(posixpath.join(request_folder, target))
    return shown if shown in snapshots else None


def _swap(new_name: str, staging: int, name: str, folder: int) -> None:
    if not disk.is_there(name, below=folder):
        os.rename(new_name, name, src_dir_fd=staging, dst_dir_fd=folder)
        return
    if disk.exchange(new_name, staging, name, folder):
        return
    # Where two names cannot be exchanged, a symlink can still be renamed over a symlink in one step.
    try:
        os.rename(new_name, name, src_dir_fd=staging, dst_dir_fd=folder)
    except OSError:
        # A folder cannot. Only here is `latest` missing, for the time between two system calls.
        disk.remove_tree(name, folder)
        os.rename(new_name, name, src_dir_fd=staging, dst_dir_fd=folder)


def _points_to(folder: int, name: str, target: str) -> bool:
    try:
        return os.readlink(name, dir_fd=folder) == target
    except OSError:
        return False


def _is_folder_of(root: MirrorRoot, folder: int, name: str, snapshot: str) -> bool:
    """Return whether the folder of hard links shows this snapshot: both have the same inode as `_dcsync.json`."""
    try:
        shown = os.stat(f"{name}/{names.SIDECAR_NAME}", dir_fd=folder)
        with root.folder(snapshot) as source:
            published = os.stat(names.SIDECAR_NAME, dir_fd=source)
    except OSError:
        return False
    return (shown.st_dev, shown.st_ino) == (published.st_dev, published.st_ino)


def _link_all(root: MirrorRoot, snapshot: str, new_name: str, staging: int) -> None:
    target = disk.open_folders(staging, [new_name], create=True)
    try:
        with root.folder(snapshot) as source:
            _link_folder(source, target)
    finally:
        os.close(target)


def _link_folder(source: int, target: int) -> None:
    with os.scandir(source) as entries:
        for entry in entries:
            if is_system_name(entry.name):
                # `@eaDir` often belongs to another user, and the kernel refuses to link the files of others.
                continue
            if entry.is_dir(follow_symlinks=False):
                below = disk.open_folder(entry.name, below=source)
                made = disk.open_folders(target, [entry.name], create=True)
                try:
                    _link_folder(below, made)
                finally:
                    os.close(below)
                    os.close(made)
            else:
                os.link(entry.name, entry.name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    os.fsync(target)
