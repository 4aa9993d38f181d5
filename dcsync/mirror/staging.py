"""The staging of one job: files come in, are hashed while they are written, and are whole or `.part`.

A journal beside the folder tells a later run what is whole, how an unfinished file may be resumed, and the CRC32 of
what was written to that so far. It is not fsynced: after a kill the kernel has it, and after a power cut what it lacks
is fetched again. What it says is proved by hashing before it is believed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from dcsync.core import names, sidecar
from dcsync.core.model import How, JobId, Json, Snapshot, StoredFile
from dcsync.core.table import TableCounter, TableFacts, is_table
from dcsync.core.transfer import PIECE_SIZE, Have, md5_of_etag, resumable_etag
from dcsync.core.wire import WireError
from dcsync.errors import MirrorTampered, SizeMismatch
from dcsync.mirror import disk
from dcsync.mirror.native import fastest_crc32
from dcsync.mirror.root import OWN_FOLDER, STAGING, MirrorRoot, split

PART = ".part"
#: An escape that no safe name holds (FAULTS rule N): `~` is never escaped there, and a `%` before hex always is.
_OURS = "%7E"
_READ_SIZE = 1 << 20
#: The disk works on a large file while the rest of it comes: 2 GB then need no second at the end for their fsync.
_WRITEBACK_SIZE = 8 << 20

_CRC32 = fastest_crc32()


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """What is known of content by reading it once."""

    size: int
    sha256: str
    crc32: int
    md5: str | None = None
    table: TableFacts | None = None


class Hashers:
    """SHA-256, CRC32 and, where it can be compared with an ETag, MD5 of the same bytes; of a table, header and rows.

    The hashes are C and release the interpreter for large pieces. MD5 alone would be a third of the time.
    """

    def __init__(self, *, with_md5: bool = False, with_table: bool = False) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if with_md5 else None
        self._crc32 = 0
        self._table = TableCounter() if with_table else None

    @property
    def crc32(self) -> int:
        """The CRC32 of what came so far."""
        return self._crc32

    def update(self, data: bytes | bytearray) -> None:
        """Take in the next bytes."""
        self.size += len(data)
        self._sha256.update(data)
        if self._md5 is not None:
            self._md5.update(data)
        self._crc32 = _CRC32(data, self._crc32)
        if self._table is not None:
            self._table.update(data)

    def digest(self) -> Digest:
        """Return the hashes of what came so far."""
        return Digest(
            size=self.size,
            sha256=self._sha256.hexdigest(),
            crc32=self._crc32,
            md5=None if self._md5 is None else self._md5.hexdigest(),
            table=None if self._table is None else self._table.facts(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """What the journal says of a file on its way: its listed size, its ETag, and the bytes that had come, proved."""

    size: int
    etag: str
    written: int = 0
    crc32: int = 0


class Part:
    """One file on its way: `<name>.part`, 0600 until it is whole. Not for use from two threads at once."""

    def __init__(self, staging: Staging, name: str, original: str, size: int) -> None:
        self.etag: str | None = None
        self._staging = staging
        self._name = name
        self._leaf = staged_leaf(name)
        self._original = original
        self._size = size
        self._descriptor: int | None = None
        self._hashers = self._new_hashers()
        #: Up to where the kernel was told to begin writing back.
        self._begun = 0

    @property
    def have(self) -> Have | None:
        """What may be resumed: the bytes written under a strong ETag."""
        if self.etag is None or self._hashers.size == 0:
            return None
        return Have(size=self._hashers.size, etag=self.etag)

    @property
    def written(self) -> int:
        """The bytes written so far."""
        return self._hashers.size

    def resume(self, left: Unfinished) -> None:
        """Take over what an earlier process of this boot wrote, read and hashed anew; nothing when it is not as noted.

        A disk that went away and came back, while the machine stayed up, may have zeros where bytes had been written.
        """
        self._hashers = self._new_hashers(left.etag)
        with disk.disk_errors(f"resuming {self._shown}"):
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self._leaf + PART, flags, dir_fd=self._staging.descriptor)
            try:
                with _reading():
                    is_proved = self._read_up_to(left.written)
            except _Unreadable:
                is_proved = False
            if is_proved and self._hashers.crc32 == left.crc32 and left.written <= self._size:
                os.ftruncate(self._descriptor, left.written)
                os.lseek(self._descriptor, left.written, os.SEEK_SET)
                self.etag = left.etag
            else:
                self.discard()

    def _read_up_to(self, size: int) -> bool:
        """Hash so many bytes from the beginning, as they are on the disk; say whether there are so many."""
        # What the kernel has in its cache and the disk has as well is read from the disk again.
        os.posix_fadvise(self._opened, 0, 0, os.POSIX_FADV_DONTNEED)
        while self._hashers.size < size:
            piece = os.pread(self._opened, min(_READ_SIZE, size - self._hashers.size), self._hashers.size)
            if not piece:
                return False
            self._hashers.update(piece)
        return True

    def begin(self, etag: str | None) -> None:
        """Note the ETag of what is coming, from its first byte on, so that a later run can resume it."""
        self.etag = resumable_etag(etag)
        self._hashers = self._new_hashers(etag)
        if self.etag is not None and etag is not None:
            self._staging.note_opened(self._name, self._original, self._size, etag)

    def write(self, data: bytes | bytearray) -> None:
        """Append bytes. Raises `SizeMismatch` when they are more than were listed, `DiskError`s."""
        if self._hashers.size + len(data) > self._size:
            message = f"{self._original_shown} is longer than the {self._size} bytes of the listing"
            raise SizeMismatch(message)
        with disk.disk_errors(f"writing {self._shown}"):
            if self._descriptor is None:
                self._open()
            disk.write_all(self._opened, data)
        self._hashers.update(data)
        if self.etag is not None and self._hashers.size < self._size:
            self._staging.note_written(self._name, self._hashers.size, self._hashers.crc32)
        if self._hashers.size - self._begun >= _WRITEBACK_SIZE:
            disk.start_writeback(self._opened, self._begun, self._hashers.size - self._begun)
            self._begun = self._hashers.size

    def restart(self) -> None:
        """Throw away what was written."""
        with disk.disk_errors(f"emptying {self._shown}"):
            if self._descriptor is not None:
                os.ftruncate(self._descriptor, 0)
                os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._hashers = self._new_hashers()
        self._begun = 0
        self.etag = None

    def digest(self) -> Digest:
        """Return the hashes of what was written; `SizeMismatch` when it is not as long as listed."""
        if self._hashers.size != self._size:
            message = f"{self._original_shown} has {self._hashers.size} bytes, the listing says {self._size}"
            raise SizeMismatch(message)
        return self._hashers.digest()

    def finish(self, etag: str | None, *, packed: int | None = None) -> StoredFile:
        """Make the file whole and durable under its name and return its record. After an error it is discarded."""
        digest = self.digest()
        try:
            with disk.disk_errors(f"finishing {self._shown}"):
                if self._descriptor is None:
                    self._open()
                os.fchmod(self._opened, disk.FILE_MODE)
                # Once only: after a failed fsync a second one says that all is well while the data is gone (fsyncgate).
                os.fsync(self._opened)
                facts = os.fstat(self._opened)
                self._close()
                folder = self._staging.descriptor
                os.rename(self._leaf + PART, self._leaf, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            self.discard()
            raise
        stored = StoredFile(
            name=self._name,
            original=self._original,
            size=digest.size,
            sha256=digest.sha256,
            crc32=digest.crc32,
            md5=digest.md5,
            etag=etag,
            how=How.FETCHED,
            packed=packed,
            mtime_ns=facts.st_mtime_ns,
            inode=facts.st_ino,
            table=digest.table,
        )
        self._staging.note_stored(stored)
        return stored

    def suspend(self) -> None:
        """Close the file and leave it as it is, for a later resume. One that cannot be closed whole is discarded."""
        try:
            self._close()
        except OSError:
            self.discard()

    def discard(self) -> None:
        """Remove the file."""
        try:
            self._close()
        finally:
            # Already gone, or the disk refuses: start-up clears the staging.
            with suppress(OSError):
                os.unlink(self._leaf + PART, dir_fd=self._staging.descriptor)
            self._hashers = self._new_hashers()
            self._begun = 0
            self.etag = None

    def _new_hashers(self, etag: str | None = None) -> Hashers:
        return Hashers(with_md5=md5_of_etag(etag) is not None, with_table=is_table(self._original))

    @property
    def _opened(self) -> int:
        assert self._descriptor is not None  # noqa: S101 - every caller opened it
        return self._descriptor

    @property
    def _shown(self) -> str:
        return disk.shown(f"{self._staging.relative}/{self._leaf}{PART}")

    @property
    def _original_shown(self) -> str:
        return repr(names.printable(self._original, 120))

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._leaf + PART, flags, 0o600, dir_fd=self._staging.descriptor)
        disk.preallocate(self._descriptor, self._size)

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


class Staging:
    """The folder of one job below `.dcsync/staging`, opened or made. All methods block.

    With a fencing `number`, from 1 on, it is this holder's alone: what those with lower numbers left whole is moved
    over, and they can neither publish nor go on with what they have.
    """

    def __init__(self, root: MirrorRoot, job: JobId, number: int = 0) -> None:
        self.root = root
        self.leaf = staging_leaf(job, number)
        self.relative = f"{OWN_FOLDER}/{STAGING}/{self.leaf}"
        self._boot = _boot_id()
        self._resumable: dict[str, Unfinished] = {}
        with ExitStack() as opened:
            with (
                disk.disk_errors(f"making {self.relative}"),
                root.folder(f"{OWN_FOLDER}/{STAGING}", create=True) as parent,
            ):
                self._parent = os.dup(parent)
                opened.callback(os.close, self._parent)
                self.descriptor = disk.open_folders(parent, [self.leaf], create=True)
                opened.callback(os.close, self.descriptor)
                os.fchmod(self.descriptor, 0o700)
                flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                self._journal = os.open(f"{self.leaf}.journal", flags, 0o600, dir_fd=parent)
                opened.callback(os.close, self._journal)
            if number:
                for leaf in sorted(staged_jobs(root) - {self.leaf}):
                    if holder_of(leaf) < (names.component(job), number) and holder_of(leaf)[0] == names.component(job):
                        self._take_over(leaf)
            # Made: from here on it is `__exit__` that closes them.
            opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What the journal lacks is fetched again; it takes nothing back that was published.
        with suppress(OSError):
            os.close(self._journal)
        for descriptor in (self.descriptor, self._parent):
            os.close(descriptor)

    def recover(self) -> Mapping[str, StoredFile]:
        """Return what an earlier run left whole, by name on disk, each file hashed; remove everything else.

        A `.part` stays when the journal has its ETag and what had come, and it was written since the machine booted:
        what a process wrote before a kill is in the kernel's cache, what it wrote before a power cut may be zeros.
        """
        opened, recorded = self._read_journal()
        stored = {staged_leaf(record.name): record for record in recorded.values()}
        found: dict[str, StoredFile] = {}
        with disk.disk_errors(f"reading {self.relative}"):
            present = os.listdir(self.descriptor)
            for name in present:
                unfinished = opened.get(name.removesuffix(PART)) if name.endswith(PART) else None
                if unfinished is not None and unfinished.written:
                    self._resumable[name.removesuffix(PART)] = unfinished
                elif name in stored and self._is_as(name, stored[name]):
                    found[stored[name].name] = stored[name]
                else:
                    disk.remove_tree(name, self.descriptor)
        return found

    def part(self, name: str, original: str, size: int) -> Part:
        """Return the file to write to; it carries what an earlier run wrote when that may be resumed."""
        part = Part(self, name, original, size)
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
        """Put a file of an earlier snapshot here under `name`; None when that file is not what was recorded any more.

        A hard link where the file system allows one, else a reflink, else a copy. A file whose size, time and inode are
        as recorded is believed, any other is hashed first. One that cannot be read is for `verify` to tell of.
        """
        with disk.disk_errors(f"linking {disk.shown(f'{previous.folder}/{source.name}')}"):
            try:
                with (
                    self.root.folder(previous.folder) as folder,
                    disk.parent_of(source.name, below=folder) as (parent, leaf),
                ):
                    descriptor = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                    try:
                        return self._link_opened(descriptor, parent, leaf, source, name)
                    finally:
                        os.close(descriptor)
            except FileNotFoundError:
                return None
            except _Unreadable:
                with suppress(FileNotFoundError):
                    os.unlink(staged_leaf(name), dir_fd=self.descriptor)
                return None

    def keep_only(self, paths: Iterable[str]) -> None:
        """Remove all that no plan wants any more: a `.part` that was linked after all, a file that is left out now."""
        wanted = {staged_leaf(path) for path in paths}
        with disk.disk_errors(f"clearing {self.relative}"):
            for name in set(os.listdir(self.descriptor)) - wanted:
                disk.remove_tree(name, self.descriptor)

    def unfold(self, paths: Iterable[str]) -> None:
        """Move the staged files that belong into folders there, and make those durable. The last thing before publish.

        Until then all files stand side by side: a run cut short in between finds folders it does not know, and clears
        them.
        """
        with disk.disk_errors(f"making the folders of {self.relative}"):
            for path in sorted(paths):
                if staged_leaf(path) != path:
                    with disk.parent_of(path, below=self.descriptor, create=True) as (folder, name):
                        os.rename(staged_leaf(path), name, src_dir_fd=self.descriptor, dst_dir_fd=folder)
                        os.fsync(folder)

    def open_staged(self, name: str) -> int:
        """Open a staged file for reading; the caller closes it."""
        with disk.disk_errors(f"reading {disk.shown(f'{self.relative}/{name}')}"):
            return os.open(staged_leaf(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.descriptor)

    def drop_parts(self) -> None:
        """Remove every unfinished file, and with it the room that was reserved for it."""
        with disk.disk_errors(f"clearing {self.relative}"):
            for name in os.listdir(self.descriptor):
                if name.endswith(PART):
                    os.unlink(name, dir_fd=self.descriptor)

    def write_own(self, name: str, body: bytes) -> None:
        """Write the sidecar or the sums: 0444, fsynced."""
        with disk.disk_errors(f"writing {name} in {self.relative}"):
            if disk.is_there(name, below=self.descriptor):
                os.unlink(name, dir_fd=self.descriptor)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name, flags, 0o600, dir_fd=self.descriptor)
            try:
                disk.write_all(descriptor, body)
                os.fchmod(descriptor, disk.FILE_MODE)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def publish(self, folder: str) -> bool:
        """Rename the whole folder to `folder` below the root and make that durable; FAULTS rule P, steps 4 and 5.

        Returns False, having changed nothing, when something stands there already. The caller holds the mirror's lock.
        """
        parent_path, _, leaf = folder.rpartition("/")
        with disk.disk_errors(f"publishing {disk.shown(folder)}"):
            os.fchmod(self.descriptor, disk.FOLDER_MODE)
            os.fsync(self.descriptor)
            with self.root.reshaping, self.root.folder(parent_path, create=True) as parent:
                disk.settle(self.root.descriptor, split(parent_path))
                try:
                    disk.rename_noreplace(self.leaf, self._parent, leaf, parent)
                except FileExistsError:
                    return False
                # The new name first: a crash between the two may leave the folder in both parents, never in none.
                os.fsync(parent)
            os.fsync(self._parent)
            os.unlink(f"{self.leaf}.journal", dir_fd=self._parent)
        return True

    def discard(self) -> None:
        """Remove the folder and its journal."""
        discard_staging(self.root, self.leaf)

    def note_opened(self, name: str, original: str, size: int, etag: str) -> None:
        """Put into the journal how an unfinished file may be resumed."""
        self._note({"opened": staged_leaf(name), "original": original, "size": size, "etag": etag, "boot": self._boot})

    def note_written(self, name: str, size: int, crc32: int) -> None:
        """Put into the journal what an unfinished file holds by now."""
        self._note({"written": staged_leaf(name), "size": size, "crc32": crc32, "boot": self._boot})

    def note_stored(self, stored: StoredFile) -> None:
        """Put a whole file into the journal."""
        self._note({"stored": sidecar.file_json(stored)})

    def _take_over(self, leaf: str) -> None:
        """Move what an earlier holder left whole into this folder. It may be paused, and wake up at any moment.

        Its folder is renamed first: from then on it publishes nothing. What is unfinished it may still write to; that
        is fetched anew.
        """
        with disk.disk_errors(f"taking over {leaf}"):
            recorded = _read_journal(leaf, self._parent)
            taken = _take_away(leaf, self._parent, self.leaf)
            if taken is None:
                return
            folder = disk.open_folder(taken, below=self._parent)
            try:
                for record in recorded.values():
                    with suppress(FileNotFoundError):
                        name = staged_leaf(record.name)
                        os.rename(name, name, src_dir_fd=folder, dst_dir_fd=self.descriptor)
                        self.note_stored(record)
            finally:
                os.close(folder)
            _remove_taken(taken, self._parent)

    def _note(self, entry: Mapping[str, Json]) -> None:
        with disk.disk_errors(f"writing the journal of {self.relative}"):
            # One write with O_APPEND: lines of several threads do not mix.
            disk.write_all(self._journal, json.dumps(entry).encode() + b"\n")

    def _read_journal(self) -> tuple[dict[str, Unfinished], dict[str, StoredFile]]:
        with disk.disk_errors(f"reading the journal of {self.relative}"):
            body = b""
            while piece := os.pread(self._journal, _READ_SIZE, len(body)):
                body += piece
        return _parse_journal(body, self._boot)

    def _is_as(self, name: str, record: StoredFile) -> bool:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.descriptor)
        except OSError:
            return False
        try:
            with _reading():
                digest = hash_descriptor(descriptor) if os.fstat(descriptor).st_size == record.size else None
            return digest is not None and digest.sha256 == record.sha256
        except _Unreadable:
            # A bad sector: it is fetched again, to another one.
            return False
        finally:
            os.close(descriptor)

    def _link_opened(
        self, descriptor: int, folder: int, source_leaf: str, source: StoredFile, name: str
    ) -> StoredFile | None:
        leaf = staged_leaf(name)
        facts = os.fstat(descriptor)
        as_recorded = (
            disk.is_plain_file(facts)
            and facts.st_size == source.size
            and (facts.st_mtime_ns, facts.st_ino) == (source.mtime_ns, source.inode)
        )
        if not as_recorded:
            if not disk.is_plain_file(facts) or facts.st_size != source.size:
                return None
            with _reading():
                digest = hash_descriptor(descriptor)
            if digest.sha256 != source.sha256:
                return None
        if disk.is_there(leaf, below=self.descriptor):
            os.unlink(leaf, dir_fd=self.descriptor)
        try:
            os.link(source_leaf, leaf, src_dir_fd=folder, dst_dir_fd=self.descriptor, follow_symlinks=False)
            made = os.stat(leaf, dir_fd=self.descriptor, follow_symlinks=False)
            if (made.st_dev, made.st_ino) != (facts.st_dev, facts.st_ino):
                message = f"{disk.shown(source.name)} was exchanged while it was linked"
                raise MirrorTampered(message, hint="look who changes the mirror's tree")
        except OSError:
            # No hard links here (exFAT, some network shares), or the link count is full.
            made = self._copy(descriptor, leaf)
        table = source.table
        if table is None and is_table(source.original):
            # A snapshot of an older version: counted once, and handed on from link to link.
            with _reading():
                table = count_rows(descriptor)
        linked = replace(source, name=name, how=How.LINKED, mtime_ns=made.st_mtime_ns, inode=made.st_ino, table=table)
        self.note_stored(linked)
        return linked

    def _copy(self, source: int, leaf: str) -> os.stat_result:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(leaf, flags, 0o600, dir_fd=self.descriptor)
        try:
            if not disk.clone(source, target):
                offset = 0
                while piece := _pread(source, PIECE_SIZE, offset):
                    disk.write_all(target, piece)
                    offset += len(piece)
            os.fchmod(target, disk.FILE_MODE)
            os.fsync(target)
            return os.fstat(target)
        finally:
            os.close(target)


class _Unreadable(Exception):
    """A file cannot be read where nothing depends on it: what it holds can be had anew."""


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EIO:
            raise _Unreadable from None
        raise


def _pread(descriptor: int, size: int, offset: int) -> bytes:
    with _reading():
        return os.pread(descriptor, size, offset)


def staging_leaf(job: JobId, number: int = 0) -> str:
    """Return the name of a job's staging: with a fencing number, one for each holder."""
    leaf = names.component(job)
    return leaf if number == 0 else f"{leaf}{_OURS}{number}"


def holder_of(leaf: str) -> tuple[str, int]:
    """Return the job's component and the fencing number of a name in the staging; 0 for none."""
    component, _, rest = leaf.partition(_OURS)
    number = rest.partition(_OURS)[0]
    return component, int(number) if number.isascii() and number.isdigit() else 0


def staged_leaf(name: str) -> str:
    """Return the one component that stands for a file in the staging, where all files are side by side.

    Of two names never the same, nor that of another's unfinished form, also where a file system folds case.
    """
    leaf = name.replace("/", _OURS)
    if leaf.casefold().endswith(PART):
        leaf += _OURS
    if len(leaf.encode()) <= names.MAX_BYTES:
        return leaf
    return _OURS + hashlib.sha256(name.encode()).hexdigest()[:32]


def count_rows(descriptor: int) -> TableFacts | None:
    """Read a table from its beginning and return its header and rows."""
    counter = TableCounter()
    offset = 0
    while piece := os.pread(descriptor, _READ_SIZE, offset):
        counter.update(piece)
        offset += len(piece)
    return counter.facts()


def hash_descriptor(descriptor: int, *, each: Callable[[int], None] | None = None, with_table: bool = False) -> Digest:
    """Read a file from its beginning and return its hashes; `each` is told the length of every piece."""
    hashers = Hashers(with_table=with_table)
    while piece := os.pread(descriptor, _READ_SIZE, hashers.size):
        hashers.update(piece)
        if each is not None:
            each(len(piece))
    return hashers.digest()


def discard_staging(root: MirrorRoot, leaf: str) -> None:
    """Remove the staging of a job that has no use for it any more."""
    try:
        with root.folder(f"{OWN_FOLDER}/{STAGING}") as parent, disk.disk_errors(f"clearing the staging of {leaf}"):
            if holder_of(leaf)[1]:
                # Its holder may be paused just before it publishes: whole or not at all.
                taken = _take_away(leaf, parent, root.mark)
                if taken is not None:
                    _remove_taken(taken, parent)
                return
            disk.remove_tree(leaf, parent)
            disk.remove_tree(f"{leaf}.journal", parent)
    except FileNotFoundError:
        return


def _take_away(leaf: str, parent: int, by: str) -> str | None:
    """Rename a staging so that its holder finds it no more; return its new name, None when it is gone already."""
    # The holder's number stays in front: what a crash leaves here is cleared as what it was.
    component, number = holder_of(leaf)
    taken = f"{component}{_OURS}{number}{_OURS}{hashlib.sha256(f'{leaf}/{by}'.encode()).hexdigest()[:12]}"
    try:
        os.rename(leaf, taken, src_dir_fd=parent, dst_dir_fd=parent)
    except FileNotFoundError:
        return None
    finally:
        disk.remove_tree(f"{leaf}.journal", parent)
    return taken


def _remove_taken(taken: str, parent: int) -> None:
    # Its old holder may be making files in it: what is left then goes with the next clearing.
    with suppress(OSError):
        disk.remove_tree(taken, parent)


def _read_journal(leaf: str, parent: int) -> dict[str, StoredFile]:
    """Return the whole files that a staging's journal records, by name on disk."""
    try:
        descriptor = os.open(f"{leaf}.journal", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return {}
    with os.fdopen(descriptor, "rb") as file:
        return _parse_journal(file.read(), "")[1]


def _parse_journal(body: bytes, boot: str) -> tuple[dict[str, Unfinished], dict[str, StoredFile]]:
    """Return what may be resumed, if it was written since that boot, and what is whole, each by name."""
    opened: dict[str, Unfinished] = {}
    stored: dict[str, StoredFile] = {}
    for line in body.splitlines():
        try:
            entry = json.loads(line)
            if "stored" in entry:
                record = sidecar.parse_file(entry["stored"])
                stored[record.name] = record
            elif "opened" in entry:
                # From its first byte: what was noted of the bytes before is not about these.
                opened.pop(str(entry["opened"]), None)
                if entry["boot"] == boot != "":
                    opened[str(entry["opened"])] = Unfinished(size=int(entry["size"]), etag=str(entry["etag"]))
            elif entry["boot"] == boot and str(entry["written"]) in opened:
                name = str(entry["written"])
                opened[name] = replace(opened[name], written=int(entry["size"]), crc32=int(entry["crc32"]))
        except (ValueError, KeyError, TypeError, WireError):
            # The last line of a cut run, or one that a power cut left as zeros.
            continue
    return opened, stored


def staged_jobs(root: MirrorRoot) -> set[str]:
    """Return what stands in the staging: the jobs' folders, and whatever else was left there."""
    try:
        with root.folder(f"{OWN_FOLDER}/{STAGING}") as parent:
            return {name.removesuffix(".journal") for name in os.listdir(parent)}
    except FileNotFoundError:
        return set()
