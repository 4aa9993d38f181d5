"""What is in a snapshot's folder, and what its bytes are: for verifying and rebuilding. Reads only."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from dcsync.core.transfer import PIECE_SIZE
from dcsync.errors import DcsyncError
from dcsync.mirror import disk
from dcsync.mirror.hashing import Digest, Hashers
from dcsync.mirror.root import MirrorRoot


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something in a snapshot's folder that is no folder."""

    size: int
    mtime_ns: int
    device: int
    inode: int
    is_file: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a snapshot's folder holds, by path below it, and what could not be looked at."""

    entries: dict[str, Entry] = field(default_factory=dict)
    errors: dict[str, DcsyncError] = field(default_factory=dict)


def survey(root: MirrorRoot, folder: str) -> Survey:
    """Look at everything in a folder without following a symlink; `FileNotFoundError` when it is not there. Blocks."""
    found = Survey()
    with root.folder(folder) as descriptor:
        _survey_folder(descriptor, folder, "", found)
    return found


def _survey_folder(descriptor: int, folder: str, prefix: str, found: Survey) -> None:
    # `prefix` itself is noted when its list breaks off: what it holds is then unknown, not missing.
    try:
        with os.scandir(descriptor) as entries:
            listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    except OSError as error:
        found.errors[prefix] = disk.disk_error(error, f"reading {disk.shown(f'{folder}/{prefix}')}")
        return
    for name, is_folder in sorted(listed):
        path = f"{prefix}{name}"
        try:
            if is_folder:
                below = disk.open_folder(name, below=descriptor)
                try:
                    _survey_folder(below, folder, f"{path}/", found)
                finally:
                    os.close(below)
                continue
            facts = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        except FileNotFoundError:
            continue
        except OSError as error:
            found.errors[path] = disk.disk_error(error, f"looking at {disk.shown(f'{folder}/{path}')}")
            continue
        found.entries[path] = _entry(facts)


def look(root: MirrorRoot, folder: str, name: str) -> Entry:
    """Look at one file; `FileNotFoundError` when it is not there. Blocks."""
    with root.folder(folder) as descriptor:
        try:
            with disk.parent_of(name, below=descriptor) as (parent, leaf):
                return _entry(os.stat(leaf, dir_fd=parent, follow_symlinks=False))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise disk.disk_error(error, f"looking at {disk.shown(f'{folder}/{name}')}") from None


def _entry(facts: os.stat_result) -> Entry:
    return Entry(
        size=facts.st_size,
        mtime_ns=facts.st_mtime_ns,
        device=facts.st_dev,
        inode=facts.st_ino,
        is_file=stat.S_ISREG(facts.st_mode),
    )


class Reading:
    """One file read from the disk in pieces of 1 MiB. Not for two threads at once; `close` it whatever happens."""

    def __init__(self, root: MirrorRoot, folder: str, name: str) -> None:
        self._shown = disk.shown(f"{folder}/{name}")
        self._hashers = Hashers()
        with root.folder(folder) as parent:
            try:
                self._descriptor = disk.open_file(name, below=parent)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise disk.disk_error(error, f"opening {self._shown}") from None
        self._forget()

    def step(self) -> int:
        """Read one piece and return its length, 0 at the end. Raises `DiskError`s."""
        with disk.disk_errors(f"reading {self._shown}"):
            piece = os.pread(self._descriptor, PIECE_SIZE, self._hashers.size)
        self._hashers.update(piece)
        return len(piece)

    def digest(self) -> Digest:
        """Return the hashes of what was read."""
        return self._hashers.digest()

    def close(self) -> None:
        """Close the file."""
        self._forget()
        os.close(self._descriptor)

    def _forget(self) -> None:
        """Let the kernel drop its copy: before, so that the disk is read; after, so that no other is pushed out."""
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
