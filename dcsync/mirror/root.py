"""The mirror's root: its instance ID, its lock, and access to the folders below it.

`.dcsync/` below the root holds dcsync's own files: the lock, the instance ID, the staging, the trash, the quarantine.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from dcsync.core import names
from dcsync.errors import (
    DiskError,
    MirrorError,
    MirrorLocked,
    MirrorMissing,
    MirrorTampered,
)
from dcsync.mirror import disk, space
from dcsync.mirror.durable import replace_durably, write_new
from dcsync.opening import NotRegular, open_regular, read_regular

OWN_FOLDER = ".dcsync"
STAGING = "staging"
INSTANCE = "instance"
_LOCK = "lock"


class FileLock:
    """A lock by flock. The kernel frees it however its holder ends. The file itself is never removed.

    The holder writes its `role` into the file. With None it takes the lock and writes nothing. A `shared` lock excludes
    only exclusive ones.
    """

    def __init__(self, path: Path, what: str, *, role: str | None, shared: bool = False) -> None:
        self._path = path
        self._what = what
        self._role = role
        self._shared = shared
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        with disk.disk_errors(f"opening the lock {self._path}"):
            descriptor = open_regular(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock(descriptor)
        except BaseException:
            # Otherwise this process would hold the lock until it ends, although nothing uses it.
            _close_quietly(descriptor)
            raise
        self._descriptor = descriptor
        return self

    def _lock(self, descriptor: int) -> None:
        with disk.disk_errors(f"locking {self._path}"):
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._held_by(os.pread(descriptor, 200, 0).decode("utf-8", "replace")) from None
        if self._role is not None:
            with disk.disk_errors(f"writing the lock {self._path}"):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()} {self._role} {socket.gethostname()}\n".encode(), 0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            _close_quietly(self._descriptor)
            self._descriptor = None

    def _held_by(self, holder: str) -> MirrorLocked:
        words = holder.split()
        if len(words) == 3 and words[0].isdigit():
            message = f"another dcsync holds {self._what}: pid {words[0]} ({words[1]}) on {names.printable(words[2])}"
            return MirrorLocked(message, pid=int(words[0]), role=words[1])
        return MirrorLocked(f"another dcsync holds {self._what}")


def _close_quietly(descriptor: int) -> None:
    # The lock is free even if close fails, and the note in the file no longer matters.
    with suppress(OSError):
        os.close(descriptor)


class MirrorRoot:
    """An open root. Every path below it is a sequence of components, walked without following symlinks."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        #: The suffix of temporary names of this process in `.dcsync`, where other hosts may work at the same time.
        self.mark = ""
        self._replacing = threading.Lock()
        #: Held while the folders above a snapshot are created, or removed because they are empty.
        self.reshaping = threading.Lock()

    def check_still_there(self) -> None:
        """Raise `MirrorError` when the root's path leads to another folder now.

        The root may have been moved, unmounted or mounted over (docs/project/faults.md F15).
        """
        try:
            opened, current = os.fstat(self.descriptor), os.stat(self.path)
        except FileNotFoundError:
            message = f"the mirror's root {self.path} no longer exists"
            raise MirrorMissing(message) from None
        except OSError as error:
            raise disk.disk_error(error, f"reading the attributes of {self.path}") from None
        if (opened.st_dev, opened.st_ino) != (current.st_dev, current.st_ino):
            message = f"{self.path} is no longer the folder that dcsync opened at its start"
            raise MirrorError(
                message, hint="the mirror was moved or another disk was mounted on it. Put it back, then restart dcsync"
            )

    def check_room(self, *, size: int, entries: int, reserve: int) -> None:
        """Raise `DiskFull` or `InodesExhausted` when a snapshot of that size would not fit."""
        with disk.disk_errors(f"reading the free space of {self.path}"):
            space.check_room(self.descriptor, size=size, entries=entries, reserve=reserve)

    def check_writable(self) -> None:
        """Raise the `DiskError` that prevents any snapshot from being written. Blocks."""
        with (
            disk.disk_errors(f"writing to {self.path / OWN_FOLDER / STAGING}"),
            self.folder(f"{OWN_FOLDER}/{STAGING}", create=True) as staging,
        ):
            name = f"writable{self.mark}"
            write_new(staging, name, b"\n", mode=0o600)
            os.unlink(f"{name}.new", dir_fd=staging)

    def free_bytes(self) -> int:
        """Return the number of bytes that this user can still write."""
        with disk.disk_errors(f"reading the free space of {self.path}"):
            facts = os.fstatvfs(self.descriptor)
        return facts.f_bavail * facts.f_frsize

    def try_to_write(self) -> None:
        """Change the time of the lock file. Blocks while the disk does not answer. A frozen disk can still be read."""
        with disk.disk_errors(f"writing {self.path / OWN_FOLDER / _LOCK}"), self.folder(OWN_FOLDER) as own:
            os.utime(_LOCK, dir_fd=own, follow_symlinks=False)

    def settle(self, folder: str | None = None) -> None:
        """Make the whole file system durable, and the path to one folder as well. Blocks.

        Call it before a snapshot that this process did not publish is recorded in the manifest. A killed run may have
        renamed a folder without an fsync: every program sees it, and a power cut removes it. A file system that became
        read-only shows data that never reached the disk, and can still be synced. It raises EROFS here.
        """
        with disk.disk_errors(f"syncing the file system of {self.path}"):
            disk.sync_file_system(self.descriptor)
            if folder is not None:
                disk.fsync_path(self.descriptor, split(folder), last=True)
            disk.refuse_read_only(self.descriptor)

    @contextmanager
    def folder(self, relative: str, *, create: bool = False) -> Iterator[int]:
        """Open a folder below the root. `FileNotFoundError` when it does not exist and `create` is false."""
        components = split(relative)
        try:
            descriptor = disk.open_folders(self.descriptor, components, create=create)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise disk.disk_error(error, f"opening {disk.shown(str(self.path / relative))}") from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def has_folder(self, relative: str) -> bool:
        """Return whether a folder exists. An I/O or permission error is raised. It does not mean no."""
        try:
            with self.folder(relative):
                return True
        except FileNotFoundError:
            return False

    def drop_claim(self, relative: str) -> bool:
        """Remove a claimed name: a folder without any file of ours or of a user. Return False for any other content."""
        parent, _, leaf = relative.rpartition("/")
        try:
            with self.folder(parent) as descriptor:
                return disk.remove_unused(leaf, descriptor)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                return False
            raise disk.disk_error(error, f"removing {disk.shown(relative)}") from None

    def is_taken(self, relative: str) -> bool:
        """Return whether a folder with content has this name.

        An empty one is what a crash left between the two steps of `rename_noreplace`. It is removed.
        """
        return self.has_folder(relative) and not self.drop_claim(relative)

    def marker(self) -> str | None:
        """Return the mirror's instance ID. None when it has none yet."""
        try:
            body = self._read(OWN_FOLDER, INSTANCE)
        except FileNotFoundError:
            return None
        try:
            found = json.loads(body)["id"]
        except (ValueError, KeyError, TypeError):
            found = None
        if not isinstance(found, str) or not found:
            message = f"{self.path / OWN_FOLDER / INSTANCE} does not hold a valid instance ID"
            raise MirrorTampered(
                message,
                hint='restore it from a backup, or write {"id": "…"} with the ID in `instance` of the state folder',
            )
        return found

    def write_marker(self, identifier: str) -> None:
        """Bind the root to an instance, durably."""
        with disk.disk_errors("writing the instance ID"), self.folder(OWN_FOLDER, create=True) as folder:
            body = json.dumps({"id": identifier}).encode() + b"\n"
            replace_durably(folder, INSTANCE, body, mode=0o644)

    def replace_file(self, name: str, body: bytes) -> None:
        """Replace a file of dcsync in the root, durably and in one step: a reader sees the old or the new one. Blocks.

        A symlink of that name is replaced, not followed.
        """
        with (
            self._replacing,  # the runs of two accounts may end at the same time
            disk.disk_errors(f"writing {self.path / name}"),
            self.folder(OWN_FOLDER, create=True) as own,
        ):
            # It is written in `.dcsync`, so that no unfinished file appears outside of it.
            temporary = f"{name}{self.mark}"
            write_new(own, temporary, body, mode=0o644)
            try:
                disk.rename(f"{temporary}.new", own, name, self.descriptor)
            except IsADirectoryError as error:
                raise NotRegular(error.errno, "it is a folder, not a regular file", str(self.path / name)) from None
            os.fsync(self.descriptor)

    def read_file(self, folder: str, name: str) -> bytes:
        """Return the content of a small file. `FileNotFoundError` when it is missing."""
        return self._read(folder, name)

    def _read(self, folder: str, name: str) -> bytes:
        with (
            self.folder(folder) as descriptor,
            disk.disk_errors_but_missing(f"reading {disk.shown(f'{folder}/{name}')}"),
        ):
            return read_regular(name, below=descriptor)


@contextmanager
def open_root(path: Path) -> Iterator[MirrorRoot]:
    """Open the mirror's root. It must exist: a missing root may be a disk that is not mounted."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        message = f"the mirror's root {path} does not exist"
        raise MirrorMissing(message, hint=f"mount its disk, or create it: mkdir -p {path}") from None
    except NotADirectoryError:
        message = f"the mirror's root {path} is not a folder"
        raise MirrorError(message, hint="correct mirror.root") from None
    except OSError as error:
        raise disk.disk_error(error, f"opening the mirror's root {path}") from None
    try:
        yield MirrorRoot(path, descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(root: MirrorRoot, *, role: str, shared: bool = False) -> Iterator[None]:
    """Hold the mirror's lock: one writer at a time, whatever its state folder (docs/project/faults.md M8).

    With `shared`, the other hosts of the same manifest can hold it too.
    """
    with disk.disk_errors(f"preparing {root.path / OWN_FOLDER}"), root.folder(OWN_FOLDER, create=True) as own:
        own_device = os.fstat(own).st_dev
    if own_device != os.fstat(root.descriptor).st_dev:
        message = (
            f"{root.path / OWN_FOLDER} is on a different file system than the mirror: dcsync cannot rename into place"
        )
        raise DiskError(message, hint="unmount the file system that is mounted on it")
    with FileLock(root.path / OWN_FOLDER / _LOCK, f"the mirror {root.path}", role=role, shared=shared):
        yield


def split(relative: str) -> Sequence[str]:
    """Return the components of a relative path below the root. A path with `..` is refused here."""
    components = [component for component in relative.split("/") if component]
    if not components or any(component in {".", ".."} for component in components):
        message = f"not a path within the mirror: {disk.shown(relative)!r}"
        raise MirrorTampered(message, hint="find out which program changed the manifest or the mirror")
    return components
