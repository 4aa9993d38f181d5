"""The mirror's root: its marker, its lock, and the way down to a snapshot.

`.dcsync/` below the root holds what is not yet, or no longer, a snapshot: the lock, the instance marker, the staging.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from dcsync.core import names
from dcsync.errors import (
    DiskError,
    MirrorError,
    MirrorForeign,
    MirrorLocked,
    MirrorMissing,
    MirrorNotMounted,
    MirrorTampered,
)
from dcsync.mirror import disk
from dcsync.mirror.durable import replace_durably, write_new

OWN_FOLDER = ".dcsync"
STAGING = "staging"
_MARKER = "instance"
_LOCK = "lock"


class FileLock:
    """An exclusive lock by flock: the kernel frees it however its holder ends. The file itself is never removed.

    `role` says in the file what the holder is doing; None tries the lock without writing who has it. `shared` is held
    beside others that share it.
    """

    def __init__(self, path: Path, what: str, *, role: str | None, shared: bool = False) -> None:
        self._path = path
        self._what = what
        self._role = role
        self._shared = shared
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        with disk.disk_errors(f"opening the lock {self._path}"):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._path, flags, 0o644)
        try:
            self._lock(descriptor)
        except BaseException:
            # Else it would be held, by nobody, as long as this process lives.
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
    # Free it is all the same, and what the file says of its holder no longer matters.
    with suppress(OSError):
        os.close(descriptor)


class MirrorRoot:
    """An open root. Every path below it is a sequence of components, walked without following symlinks."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        #: Ends the names of what this process makes aside in `.dcsync`, where other hosts do the same at the same time.
        self.mark = ""
        self._replacing = threading.Lock()
        #: Held while folders on the way to a snapshot are made for it, or removed because they are empty.
        self.reshaping = threading.Lock()

    def check_still_there(self) -> None:
        """Raise `MirrorError` when the path leads elsewhere now: moved, unmounted, mounted over (FAULTS F15)."""
        try:
            here, there = os.fstat(self.descriptor), os.stat(self.path)
        except FileNotFoundError:
            message = f"the mirror's root {self.path} is not there any more"
            raise MirrorMissing(message) from None
        except OSError as error:
            raise disk.disk_error(error, f"looking at {self.path}") from None
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            message = f"{self.path} is not the folder any more that it was when dcsync started"
            raise MirrorError(message, hint="the mirror was moved or another disk was mounted; start dcsync again")

    def check_room(self, *, size: int, entries: int, reserve: int) -> None:
        """Raise `DiskFull` or `InodesExhausted` when a snapshot of that size would not fit."""
        with disk.disk_errors(f"asking for the free space of {self.path}"):
            disk.check_room(self.descriptor, size=size, entries=entries, reserve=reserve)

    def free_bytes(self) -> int:
        """Return the bytes that this user may still write."""
        with disk.disk_errors(f"asking for the free space of {self.path}"):
            facts = os.fstatvfs(self.descriptor)
        return facts.f_bavail * facts.f_frsize

    def settle(self, folder: str | None = None) -> None:
        """Make durable all that is there, and the way to one folder by itself, too. Blocks.

        What a killed run renamed and did not fsync is there for who looks, and gone with the power: to be called before
        the manifest takes in what this process did not publish. A file system that turned read-only meanwhile shows
        what never reached the disk, and has nothing against being synced: it is asked for that as well.
        """
        with disk.disk_errors(f"syncing the file system of {self.path}"):
            disk.sync_file_system(self.descriptor)
            if folder is not None:
                disk.settle(self.descriptor, split(folder), last=True)
            disk.refuse_read_only(self.descriptor)

    @contextmanager
    def folder(self, relative: str, *, create: bool = False) -> Iterator[int]:
        """Open a folder below the root; `FileNotFoundError` when it is not there and not to be made."""
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
        """Say whether a folder is there. An I/O or permission error is raised, it does not mean no."""
        try:
            with self.folder(relative):
                return True
        except FileNotFoundError:
            return False

    def drop_claim(self, relative: str) -> bool:
        """Remove a folder that is empty: a name that was claimed, and nothing came; return whether it was that."""
        parent, _, leaf = relative.rpartition("/")
        try:
            with self.folder(parent) as descriptor:
                os.rmdir(leaf, dir_fd=descriptor)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                return False
            raise disk.disk_error(error, f"removing {disk.shown(relative)}") from None
        return True

    def marker(self) -> str | None:
        """Return the instance id in the marker; None when there is no marker."""
        try:
            body = self._read(OWN_FOLDER, _MARKER)
        except FileNotFoundError:
            return None
        try:
            found = json.loads(body)["id"]
        except (ValueError, KeyError, TypeError):
            found = None
        if not isinstance(found, str) or not found:
            message = f"the instance marker {self.path / OWN_FOLDER / _MARKER} is unreadable"
            raise MirrorTampered(
                message, hint='restore it from a backup, or write {"id": "…"} with the id of the state folder'
            )
        return found

    def write_marker(self, identifier: str) -> None:
        """Bind the root to an instance, durably."""
        with disk.disk_errors("writing the instance marker"), self.folder(OWN_FOLDER, create=True) as folder:
            body = json.dumps({"id": identifier}).encode() + b"\n"
            replace_durably(folder, _MARKER, body, mode=0o644)

    def replace_file(self, name: str, body: bytes) -> None:
        """Put a file of ours into the root, in one step and durably: a reader sees the old one or the new one. Blocks.

        A symlink of that name is replaced, not followed.
        """
        with (
            self._replacing,  # two accounts end their runs at the same time
            disk.disk_errors(f"writing {self.path / name}"),
            self.folder(OWN_FOLDER, create=True) as own,
        ):
            # Made in our own folder: nothing unfinished is ever seen outside of it.
            aside = f"{name}{self.mark}"
            write_new(own, aside, body, mode=0o644)
            os.rename(f"{aside}.new", name, src_dir_fd=own, dst_dir_fd=self.descriptor)
            os.fsync(self.descriptor)

    def read_file(self, folder: str, name: str) -> bytes:
        """Return a small file of a snapshot; `FileNotFoundError` when it is missing."""
        return self._read(folder, name)

    def _read(self, folder: str, name: str) -> bytes:
        with self.folder(folder) as descriptor:
            try:
                opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise disk.disk_error(error, f"reading {disk.shown(f'{folder}/{name}')}") from None
            with disk.disk_errors(f"reading {disk.shown(f'{folder}/{name}')}"), os.fdopen(opened, "rb") as file:
                return file.read()


@contextmanager
def open_root(path: Path) -> Iterator[MirrorRoot]:
    """Open the mirror's root, which must be there: a missing one may be a disk that is not mounted."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        message = f"the mirror's root {path} does not exist"
        raise MirrorMissing(message, hint=f"mount its disk, or create it: mkdir -p {path}") from None
    except NotADirectoryError:
        message = f"the mirror's root {path} is no folder"
        raise MirrorError(message, hint="correct mirror.root") from None
    except OSError as error:
        raise disk.disk_error(error, f"opening the mirror's root {path}") from None
    try:
        yield MirrorRoot(path, descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(root: MirrorRoot, *, role: str, shared: bool = False) -> Iterator[None]:
    """Hold the mirror: one writer at a time, whatever its state folder (FAULTS M8); `shared`, with other hosts'."""
    with disk.disk_errors(f"preparing {root.path / OWN_FOLDER}"), root.folder(OWN_FOLDER, create=True) as own:
        own_device = os.fstat(own).st_dev
    if own_device != os.fstat(root.descriptor).st_dev:
        message = (
            f"{root.path / OWN_FOLDER} is on another file system than the mirror: nothing could be renamed into place"
        )
        raise DiskError(message, hint="unmount what is mounted on it")
    with FileLock(root.path / OWN_FOLDER / _LOCK, f"the mirror {root.path}", role=role, shared=shared):
        yield


def claim(root: MirrorRoot, *, state_id: str | None, knows_snapshots: bool) -> tuple[str, bool]:
    """Check that root and state belong together and return the instance's id and whether the marker is new.

    Raises as `bound_to` does.
    """
    found = bound_to(root, state_id=state_id, knows_snapshots=knows_snapshots)
    if found is not None:
        return found, False
    identifier = state_id or str(uuid.uuid4())
    root.write_marker(identifier)
    return identifier, True


def bound_to(root: MirrorRoot, *, state_id: str | None, knows_snapshots: bool) -> str | None:
    """Return the instance that root and state both belong to; None when the root has no marker yet. Writes nothing.

    Raises `MirrorNotMounted` when the state knows snapshots and the root has no marker, `MirrorForeign` when the marker
    is that of another instance (FAULTS F13, F14, M9).
    """
    if is_new(root, knows_snapshots=knows_snapshots):
        return None
    found = root.marker()
    if found is None or found != state_id:
        message = f"{root.path} belongs to the instance {found}, this state folder to {state_id or 'none yet'}"
        raise MirrorForeign(
            message,
            hint="one mirror has one manifest: use the state folder it was made with, or the database that the other "
            f"hosts use (state.manifest). If that is lost for good, write the id {found} into the file `instance` of "
            "the new state folder; what is published is then adopted",
        )
    return found


def is_new(root: MirrorRoot, *, knows_snapshots: bool) -> bool:
    """Say whether the root has no marker yet; `MirrorNotMounted` when it should have one. Writes nothing.

    Asked before the lock is taken as well: the lock's file must not appear on a bare mount point.
    """
    if root.marker() is not None:
        return False
    if knows_snapshots:
        message = f"the manifest knows snapshots, but {root.path} has no {OWN_FOLDER}/{_MARKER}"
        raise MirrorNotMounted(message)
    return True


def split(relative: str) -> Sequence[str]:
    """Return the components of a relative path of ours; a bug that lets `..` in ends here."""
    components = [component for component in relative.split("/") if component]
    if not components or any(component in {".", ".."} for component in components):
        message = f"not a path within the mirror: {disk.shown(relative)!r}"
        raise MirrorTampered(message, hint="look who changed the manifest or the tree")
    return components
