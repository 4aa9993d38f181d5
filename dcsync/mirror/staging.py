"""The staging folder of one job: its files arrive here, and one rename publishes the whole folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self

from dcsync.core import names
from dcsync.core.model import JobId, Snapshot, StoredFile
from dcsync.mirror import disk, journal
from dcsync.mirror.durable import create_durably
from dcsync.mirror.hashing import Unreadable, eio_as_unreadable, hash_descriptor
from dcsync.mirror.journal import Journal, Unfinished
from dcsync.mirror.link import link_earlier
from dcsync.mirror.part import Part
from dcsync.mirror.root import OWN_FOLDER, STAGING, MirrorRoot, split
from dcsync.mirror.staged_names import ESCAPE, PART, holder_of, staged_leaf, staging_leaf
from dcsync.mirror.trash import discard_name
from dcsync.opening import open_regular


class Staging:
    """The folder of one job below `.dcsync/staging`, opened or created. All methods block.

    A fencing `number` of 1 or more makes the folder this holder's alone. Complete files of holders with lower numbers
    move into it, and those holders can no longer publish or continue.
    """

    def __init__(self, root: MirrorRoot, job: JobId, number: int = 0) -> None:
        self.root = root
        self.leaf = staging_leaf(job, number)
        self.relative = f"{OWN_FOLDER}/{STAGING}/{self.leaf}"
        self._resumable: dict[str, Unfinished] = {}
        #: Whether `publish` has renamed the folder.
        self._is_in_place = False
        with ExitStack() as opened:
            with (
                disk.disk_errors(f"making {self.relative}"),
                root.folder(f"{OWN_FOLDER}/{STAGING}", create=True) as parent,
            ):
                self._parent = os.dup(parent)
                opened.callback(os.close, self._parent)
                self.descriptor = disk.open_folders(parent, [self.leaf], create=True)
                opened.callback(os.close, self.descriptor)
                disk.set_mode(self.descriptor, 0o700)
                self._journal = Journal(self.leaf, parent)
                opened.callback(self._journal.close)
            if number:
                component = names.component(job)
                for leaf in sorted(staged_jobs(root)):
                    if holder_of(leaf) < (component, number) and holder_of(leaf)[0] == component:
                        self._take_over(leaf)
            # From here on, `__exit__` closes the descriptors.
            opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Entries that the journal lacks cost another download, never a published file.
        with suppress(OSError):
            self._journal.close()
        for descriptor in (self.descriptor, self._parent):
            os.close(descriptor)

    def recover(self) -> Mapping[str, StoredFile]:
        """Return the complete files of an earlier run by name, each one hashed, and remove everything else.

        A `.part` stays when the journal has its ETag and its size, and when it was written since the machine booted:
        after a kill its bytes are in the kernel's cache, after a power cut they may be zeros.
        """
        opened, recorded = self._journal.read()
        stored = {staged_leaf(record.name): record for record in recorded.values()}
        found: dict[str, StoredFile] = {}
        with disk.disk_errors(f"reading {self.relative}"):
            for name in os.listdir(self.descriptor):
                unfinished = opened.get(name.removesuffix(PART)) if name.endswith(PART) else None
                if unfinished is not None and unfinished.written and self._is_file(name):
                    self._resumable[name.removesuffix(PART)] = unfinished
                elif name in stored and self._matches(name, stored[name]):
                    found[stored[name].name] = stored[name]
                else:
                    disk.remove_tree(name, self.descriptor)
        return found

    def part(self, name: str, original: str, size: int) -> Part:
        """Return the file to write to. It holds the bytes of an earlier run where they can be resumed."""
        part = Part(
            folder=self.descriptor,
            shown_folder=self.relative,
            journal=self._journal,
            name=name,
            original=original,
            size=size,
        )
        resumable = self._resumable.pop(staged_leaf(name), None)
        if resumable is None:
            return part
        if resumable.size == size:
            try:
                part.resume(resumable)
            except BaseException:
                part.suspend()
                raise
        else:
            part.discard()
        return part

    def link(self, previous: Snapshot, source: StoredFile, name: str) -> StoredFile | None:
        """Stage a file of an earlier snapshot as `name`. None when that file no longer matches its record."""
        linked = link_earlier(self.root, self.descriptor, previous, source, name)
        if linked is not None:
            self._journal.note_stored(linked)
        return linked

    def keep_only(self, paths: Iterable[str]) -> None:
        """Remove all files but these: a `.part` that was linked after all, a file that the plan now leaves out."""
        wanted = {staged_leaf(path) for path in paths}
        with disk.disk_errors(f"clearing {self.relative}"):
            for name in set(os.listdir(self.descriptor)) - wanted:
                disk.remove_tree(name, self.descriptor)

    def unfold(self, paths: Iterable[str]) -> None:
        """Move files with a folder in their path into that folder, and fsync it. The last step before `publish`.

        Until then, all files are side by side. A run that ends in between leaves folders that recovery does not know
        and removes.
        """
        with disk.disk_errors(f"making the folders of {self.relative}"):
            for path in sorted(paths):
                if staged_leaf(path) != path:
                    with disk.parent_of(path, below=self.descriptor, create=True) as (folder, name):
                        disk.rename(staged_leaf(path), self.descriptor, name, folder)
                        os.fsync(folder)

    def fold(self, paths: Iterable[str]) -> None:
        """Undo `unfold`, so that a snapshot that cannot be published now is not downloaded again.

        After the rename of `publish`, whatever failed, the folder is a whole snapshot, and stays as it is.
        """
        if self._is_in_place:
            return
        with disk.disk_errors(f"keeping the files of {self.relative}"):
            for path in sorted(paths):
                if staged_leaf(path) != path:
                    with suppress(FileNotFoundError), disk.parent_of(path, below=self.descriptor) as (folder, name):
                        disk.rename(name, folder, staged_leaf(path), self.descriptor)

    def open_staged(self, name: str) -> int:
        """Open a staged file for reading. The caller closes it."""
        with disk.disk_errors(f"reading {disk.shown(f'{self.relative}/{name}')}"):
            return open_regular(staged_leaf(name), below=self.descriptor)

    def read_staged(self, name: str) -> bytes:
        """Return the content of a small staged file."""
        with os.fdopen(self.open_staged(name), "rb") as file, disk.disk_errors(f"reading {self.relative}"):
            return file.read()

    def drop_parts(self) -> None:
        """Remove every incomplete file, which frees the space that was reserved for it."""
        with disk.disk_errors(f"clearing {self.relative}"):
            for name in os.listdir(self.descriptor):
                if name.endswith(PART):
                    os.unlink(name, dir_fd=self.descriptor)

    def write_own(self, name: str, body: bytes) -> None:
        """Write `_dcsync.json` or `SHA256SUMS`, durably."""
        with disk.disk_errors(f"writing {name} in {self.relative}"):
            if disk.is_there(name, below=self.descriptor):
                os.unlink(name, dir_fd=self.descriptor)
            create_durably(self.descriptor, name, body)

    def publish(self, folder: str) -> bool:
        """Rename the whole folder to `folder` below the root, durably.

        Returns False, having changed nothing, when that name exists already. Raises `OtherFileSystem` when the folder
        cannot be renamed there, and a `DiskError` that concerns only this job when its place cannot be written. The
        caller holds the mirror's lock.
        """
        parent_path, _, leaf = folder.rpartition("/")
        with disk.place_errors(f"publishing {disk.shown(folder)}", root=self.root.descriptor):
            disk.set_mode(self.descriptor, disk.FOLDER_MODE)
            os.fsync(self.descriptor)
            with self.root.reshaping, self.root.folder(parent_path, create=True) as parent:
                disk.fsync_path(self.root.descriptor, split(parent_path))
                try:
                    disk.rename_noreplace(self.leaf, self._parent, leaf, parent)
                except FileExistsError:
                    return False
                self._is_in_place = True
                # The new name first: a crash in between may leave the folder under both names, never under none.
                os.fsync(parent)
            os.fsync(self._parent)
            os.unlink(f"{self.leaf}{journal.SUFFIX}", dir_fd=self._parent)
        return True

    def discard(self) -> None:
        """Remove the folder and its journal."""
        discard_staging(self.root, self.leaf)

    def _take_over(self, leaf: str) -> None:
        """Move the complete files of an earlier holder into this folder. That holder may be paused and wake up later.

        The rename of its folder comes first: from then on it cannot publish. It may still write to its incomplete
        files, so they are downloaded again.
        """
        with disk.disk_errors(f"taking over {leaf}"):
            recorded = journal.read_stored(leaf, self._parent)
            taken = _take_away(leaf, self._parent, self.leaf)
            if taken is None:
                return
            folder = disk.open_folder(taken, below=self._parent)
            try:
                for record in recorded.values():
                    with suppress(FileNotFoundError):
                        name = staged_leaf(record.name)
                        disk.rename(name, folder, name, self.descriptor)
                        self._journal.note_stored(record)
            finally:
                os.close(folder)
            _remove_taken(taken, self._parent)

    def _is_file(self, name: str) -> bool:
        return disk.is_plain_file(os.stat(name, dir_fd=self.descriptor, follow_symlinks=False))

    def _matches(self, name: str, record: StoredFile) -> bool:
        try:
            descriptor = open_regular(name, below=self.descriptor)
        except OSError:
            return False
        try:
            with eio_as_unreadable():
                digest = hash_descriptor(descriptor) if os.fstat(descriptor).st_size == record.size else None
            return digest is not None and digest.sha256 == record.sha256
        except Unreadable:
            # A bad sector: the next download is written to a different place on the disk.
            return False
        finally:
            os.close(descriptor)


def discard_staging(root: MirrorRoot, leaf: str) -> None:
    """Remove the staging of a job that no longer needs it."""
    with (
        suppress(FileNotFoundError),
        root.folder(f"{OWN_FOLDER}/{STAGING}") as parent,
        disk.disk_errors(f"clearing the staging of {leaf}"),
    ):
        if holder_of(leaf)[1]:
            # Its holder may be paused just before it publishes: it must find the whole folder, or none.
            taken = _take_away(leaf, parent, root.mark)
            if taken is not None:
                _remove_taken(taken, parent)
        else:
            discard_name(root, leaf, parent)
            discard_name(root, f"{leaf}{journal.SUFFIX}", parent)


def staged_jobs(root: MirrorRoot) -> set[str]:
    """Return the names below the staging, without the journals' suffix: the jobs' folders, and any other leftover."""
    try:
        with root.folder(f"{OWN_FOLDER}/{STAGING}") as parent:
            return {name.removesuffix(journal.SUFFIX) for name in os.listdir(parent)}
    except FileNotFoundError:
        return set()


def _take_away(leaf: str, parent: int, by: str) -> str | None:
    """Rename a staging folder so that its holder no longer finds it. Return the new name, None when it was gone."""
    # The holder's number stays in front, so that after a crash the folder is cleared as that holder's.
    component, number = holder_of(leaf)
    taken = f"{component}{ESCAPE}{number}{ESCAPE}{hashlib.sha256(f'{leaf}/{by}'.encode()).hexdigest()[:12]}"
    try:
        disk.rename(leaf, parent, taken, parent)
    except FileNotFoundError:
        return None
    finally:
        disk.remove_tree(f"{leaf}{journal.SUFFIX}", parent)
    return taken


def _remove_taken(taken: str, parent: int) -> None:
    # The old holder may still create files in it: the next clearing removes those.
    with suppress(OSError):
        disk.remove_tree(taken, parent)
