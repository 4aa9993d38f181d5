"""The content of a snapshot's folder, for `verify` and `rebuild`: its entries and their hashes. Reads only."""

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
    """A file, or anything else but a folder, in a snapshot's folder."""

    size: int
    mtime_ns: int
    device: int
    inode: int
    is_file: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The entries of a snapshot's folder, and the errors of those that could not be read, by path below the folder."""

    entries: dict[str, Entry] = field(default_factory=dict)
    errors: dict[str, DcsyncError] = field(default_factory=dict)


def survey(root: MirrorRoot, folder: str) -> Survey:
    """List everything in a folder, without following symlinks. `FileNotFoundError` when it does not exist. Blocks."""
    found = Survey()
    with root.folder(folder) as descriptor:
        _survey_folder(descriptor, folder, "", found)
    return found


def _survey_folder(descriptor: int, folder: str, prefix: str, found: Survey) -> None:
    # When the list of a folder breaks off, the folder itself is noted: its content is unknown, not missing.
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
            found.errors[path] = disk.disk_error(error, f"reading the attributes of {disk.shown(f'{folder}/{path}')}")
            continue
        found.entries[path] = _entry(facts)


def stat_entry(root: MirrorRoot, folder: str, name: str) -> Entry:
    """Return the attributes of one file. `FileNotFoundError` when it does not exist. Blocks."""
    with root.folder(folder) as descriptor:
        try:
            with disk.parent_of(name, below=descriptor) as (parent, leaf):
                return _entry(os.stat(leaf, dir_fd=parent, follow_symlinks=False))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise disk.disk_error(error, f"reading the attributes of {disk.shown(f'{folder}/{name}')}") from None


def _entry(facts: os.stat_result) -> Entry:
    return Entry(
        size=facts.st_size,
        mtime_ns=facts.st_mtime_ns,
        device=facts.st_dev,
        inode=facts.st_ino,
        is_file=stat.S_ISREG(facts.st_mode),
    )


class Reading:
    """One file, hashed while it is read from the disk in pieces of 1 MiB.

    Not for use from two threads at once. The caller closes it, also after an error.
    """

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
        self._drop_cache()

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
        self._drop_cache()
        os.close(self._descriptor)

    def _drop_cache(self) -> None:
        """Make the kernel drop its copy.

        Before the read, so that the bytes come from the disk. After it, so that they push no other file out of memory.
        """
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
