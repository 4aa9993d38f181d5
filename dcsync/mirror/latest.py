"""`latest`, the only name in the mirror that changes: replaced in one step, never missing and never half written.

A folder that dcsync did not make, or that has a file of a user, is neither replaced nor removed. Neither is a symlink
that leads out of the mirror.
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Callable, Collection
from enum import StrEnum

from dcsync.core import names
from dcsync.core.system_files import is_system_name
from dcsync.errors import DiskError, MirrorTampered
from dcsync.mirror import disk
from dcsync.mirror.durable import copy_durably
from dcsync.mirror.latest_folder import first_foreign_file
from dcsync.mirror.root import OWN_FOLDER, STAGING, MirrorRoot
from dcsync.mirror.trash import discard_name

#: symlink(2) on a file system without symlinks.
_NO_SYMLINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
#: A disk that is full or broken. Any other error of link(2) means that this file cannot have one more name.
_DISK_FAILS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE})
#: Ends the name of a replaced `latest` where two names cannot be exchanged.
_OLD = ".old"


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

    With `rebuild`, a folder of hard links is built again even if it shows that snapshot already. Raises
    `MirrorTampered` if a folder with files of a user has the name.
    """
    if kind is LatestKind.NONE:
        return
    shown = disk.shown(f"{request_folder}/{name}")
    target = posixpath.relpath(snapshot, request_folder)
    with disk.disk_errors(f"making {shown}"), root.folder(request_folder) as folder:

        def build(where: int, new_name: str) -> None:
            discard_name(root, new_name, where)
            if kind is LatestKind.SYMLINK:
                _make_symlink(target, new_name, where, shown)
            else:
                _link_all(root, snapshot, new_name, where)
            _swap(root, new_name, where, name, folder)

        if kind is LatestKind.SYMLINK:
            is_right = _points_to(folder, name, target)
        else:
            is_right = not rebuild and _is_folder_of(root, folder, name, snapshot)
        if is_right:
            _discard_leftover(root, folder, request_folder)
            return
        refuse_foreign(folder, name, request_folder)
        _work_beside(root, folder, request_folder, build)
        os.fsync(folder)


def check_latest(root: MirrorRoot, place: str, *, snapshot: str, kind: LatestKind) -> None:
    """Raise `MirrorTampered` unless `latest` shows this snapshot in this way. Blocks, and writes nothing."""
    request_folder, _, name = place.rpartition("/")
    shown = disk.shown(place)
    with root.folder(request_folder) as folder, disk.disk_errors(f"reading {shown}"):
        refuse_foreign(folder, name, request_folder)
        if kind is LatestKind.SYMLINK:
            is_right = _points_to(folder, name, posixpath.relpath(snapshot, request_folder))
        else:
            is_right = _is_folder_of(root, folder, name, snapshot)
    if not is_right:
        message = f"{shown} does not show the newest snapshot, {disk.shown(snapshot)}"
        raise MirrorTampered(message, hint="run dcsync sync, or restart the daemon: both move it")


def drop_latest(root: MirrorRoot, place: str, *, targets: Collection[str]) -> bool:
    """Remove a `latest` that dcsync made, durably. Return whether it was there. Blocks.

    `targets` are folders of snapshots. A symlink was made by dcsync if it shows one of them, or a folder below its own.
    Raises `MirrorTampered` for a folder with files of a user. A symlink to another place is left alone.
    """
    request_folder, _, name = place.rpartition("/")
    shown = disk.shown(place)
    try:
        with (
            root.folder(request_folder) as folder,
            disk.disk_errors(f"removing {shown}"),
        ):
            if not disk.is_there(name, below=folder):
                return False
            target = _target(folder, name)
            if target is not None and not _is_below(request_folder, target, targets):
                return False
            if target is None:
                refuse_foreign(folder, name, request_folder)

            def remove(where: int, old_name: str) -> None:
                discard_name(root, old_name, where)
                # Renamed first, so that a reader of the mirror never sees half of a folder of hard links.
                disk.rename(name, folder, old_name, where)
                os.fsync(folder)
                discard_name(root, old_name, where)

            _work_beside(root, folder, request_folder, remove)
            return True
    except FileNotFoundError:
        return False


def shown_by_latest(root: MirrorRoot, *, request_folder: str, name: str, snapshots: Collection[str]) -> str | None:
    """Return the one of these snapshots that `latest` shows now, or None. Blocks."""
    try:
        with root.folder(request_folder) as folder, disk.disk_errors(f"reading {disk.shown(request_folder)}/{name}"):
            if not disk.is_there(name, below=folder):
                return None
            target = _target(folder, name)
            if target is None:
                return next((snapshot for snapshot in snapshots if _is_folder_of(root, folder, name, snapshot)), None)
    except FileNotFoundError:
        return None
    shown = posixpath.normpath(posixpath.join(request_folder, target))
    return shown if shown in snapshots else None


def newer_snapshot(root: MirrorRoot, request_folder: str, name: str, *, than: str) -> str | None:
    """Return the snapshot that a symlink shows if it is in its place, below the same folder, and newer. Blocks.

    The order of the paths is that of their times.
    """
    try:
        with (
            root.folder(request_folder) as folder,
            disk.disk_errors(f"reading {disk.shown(f'{request_folder}/{name}')}"),
        ):
            target = _target(folder, name) if disk.is_there(name, below=folder) else None
            if target is None:
                return None
        shown = posixpath.normpath(posixpath.join(request_folder, target))
        if not shown.startswith(f"{request_folder}/") or shown <= than:
            return None
        with root.folder(shown) as snapshot:
            return shown if disk.is_there(names.SIDECAR_NAME, below=snapshot) else None
    except (FileNotFoundError, MirrorTampered):
        return None


def refuse_foreign(folder: int, name: str, request_folder: str) -> None:
    """Raise `MirrorTampered` if a name is taken by something that dcsync may not remove. Blocks.

    That is a file, a folder with a file of a user, or a symlink that leads out of the mirror.
    """
    shown = disk.shown(f"{request_folder}/{name}")
    target = _target(folder, name) if disk.is_there(name, below=folder) else None
    if target is not None and _leads_out(request_folder, target):
        message = f"{shown} is a symlink to {disk.shown(target)}, which dcsync did not make"
        raise MirrorTampered(message, hint=f"rename or remove {shown}: dcsync then makes its own")
    foreign = first_foreign_file(folder, name)
    if foreign is not None:
        message = f"{shown} is not a folder or symlink that dcsync made"
        if foreign:
            message = f"{shown} has {disk.shown(foreign)}, which dcsync did not write"
        raise MirrorTampered(
            message, hint=f'move what is yours out of {shown}, or set mirror.latest = "none" and rename it'
        )


def _is_below(request_folder: str, target: str, targets: Collection[str]) -> bool:
    shown = posixpath.normpath(posixpath.join(request_folder, target))
    return shown in targets or shown.startswith(f"{request_folder}/")


def _leads_out(request_folder: str, target: str) -> bool:
    """Return whether a symlink in the folder of a data request leads out of the mirror. Those of dcsync never do."""
    return target.startswith("/") or posixpath.normpath(posixpath.join(request_folder, target)).split("/")[0] == ".."


def _target(folder: int, name: str) -> str | None:
    """Return the target of a symlink, or None for anything else."""
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None


def _make_symlink(target: str, name: str, staging: int, shown: str) -> None:
    try:
        os.symlink(target, name, dir_fd=staging)
    except OSError as error:
        if error.errno not in _NO_SYMLINKS:
            raise
        message = f"{shown} cannot be made: the file system has no symlinks ({os.strerror(error.errno)})"
        raise DiskError(message, hint='set mirror.latest to "hardlinks" or "none"') from None


def _swap(root: MirrorRoot, new_name: str, where: int, name: str, folder: int) -> None:
    if not disk.is_there(name, below=folder):
        disk.rename(new_name, where, name, folder)
        return
    if disk.exchange(new_name, where, name, folder):
        discard_name(root, new_name, where)
        return
    # Where two names cannot be exchanged, a symlink can still be renamed over a symlink in one step.
    try:
        disk.rename(new_name, where, name, folder)
    except OSError:
        # A folder cannot. Only here is `latest` missing, for the time between two system calls.
        old_name = f"{new_name}{_OLD}"
        discard_name(root, old_name, where)
        disk.rename(name, folder, old_name, where)
        try:
            disk.rename(new_name, where, name, folder)
        except OSError:
            disk.rename(old_name, where, name, folder)
            raise
        discard_name(root, old_name, where)


def _work_beside(root: MirrorRoot, folder: int, request_folder: str, work: Callable[[int, str], None]) -> None:
    """Call `work` with a folder and a name in it that readers of the mirror do not see.

    The folder is the staging. Where that is on another file system, so that nothing can be renamed out of it, the name
    is a hidden one in `folder` itself.
    """
    with root.folder(f"{OWN_FOLDER}/{STAGING}", create=True) as staging:
        if os.fstat(staging).st_dev == os.fstat(folder).st_dev:
            name = _staged_name(root, request_folder)
            try:
                work(staging, name)
            except OSError as error:
                # Two mounts of the same file system.
                if error.errno != errno.EXDEV:
                    raise
                discard_name(root, name, staging)
            else:
                return
    work(folder, _hidden_name(root))


def _hidden_name(root: MirrorRoot) -> str:
    return f"{OWN_FOLDER}-latest{root.mark}"


def _staged_name(root: MirrorRoot, request_folder: str) -> str:
    return names.component(f"latest.{request_folder}") + root.mark


def _discard_leftover(root: MirrorRoot, folder: int, request_folder: str) -> None:
    """Remove what a killed run left in the staging, or in the folder of `latest`."""
    for ending in ("", _OLD):
        discard_name(root, f"{_hidden_name(root)}{ending}", folder)
    with root.folder(f"{OWN_FOLDER}/{STAGING}", create=True) as staging:
        discard_name(root, _staged_name(root, request_folder), staging)


def _points_to(folder: int, name: str, target: str) -> bool:
    try:
        return os.readlink(name, dir_fd=folder) == target
    except OSError:
        return False


def _is_folder_of(root: MirrorRoot, folder: int, name: str, snapshot: str) -> bool:
    """Return whether a real folder shows this snapshot: both have the same `_dcsync.json`, or a copy of it."""
    try:
        # A symlink is not followed: it would show the same file.
        here = disk.open_folder(name, below=folder)
        try:
            with root.folder(snapshot) as source:
                return _have_same_sidecar(here, source)
        finally:
            os.close(here)
    except OSError:
        return False


def _have_same_sidecar(first: int, second: int) -> bool:
    shown = os.stat(names.SIDECAR_NAME, dir_fd=first, follow_symlinks=False)
    published = os.stat(names.SIDECAR_NAME, dir_fd=second, follow_symlinks=False)
    if (shown.st_dev, shown.st_ino) == (published.st_dev, published.st_ino):
        return True
    if shown.st_size != published.st_size or shown.st_nlink > 1 or not disk.is_plain_file(shown):
        return False
    return _read_sidecar(first) == _read_sidecar(second)


def _read_sidecar(folder: int) -> bytes:
    with os.fdopen(disk.open_file(names.SIDECAR_NAME, below=folder), "rb") as file:
        return file.read()


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
            elif entry.is_file(follow_symlinks=False):
                _link_file(entry.name, source, target)
    os.fsync(target)


def _link_file(name: str, source: int, target: int) -> None:
    """Link a file, or copy it where it cannot have one more name: EMLINK, or a file system without hard links."""
    try:
        os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno in _DISK_FAILS:
            raise
        descriptor = disk.open_file(name, below=source)
        try:
            copy_durably(descriptor, target, name)
        finally:
            os.close(descriptor)
