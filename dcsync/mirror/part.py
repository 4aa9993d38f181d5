"""One file that is being written to the staging. It is hashed while it is written, and `.part` until it is complete."""

from __future__ import annotations

import os
from contextlib import suppress

from dcsync.core import names
from dcsync.core.model import How, StoredFile
from dcsync.core.table import is_table
from dcsync.core.transfer import PIECE_SIZE, Have, md5_of_etag, resumable_etag
from dcsync.errors import SizeMismatch
from dcsync.mirror import disk, space
from dcsync.mirror.hashing import Digest, Hashers, Unreadable, eio_as_unreadable
from dcsync.mirror.journal import Journal, Unfinished
from dcsync.mirror.staged_names import PART, staged_leaf
from dcsync.opening import open_regular

#: The kernel starts to write a large file to the disk while the rest arrives. Without that, the final fsync of 2 GB
#: takes more than a second.
_WRITEBACK_SIZE = 8 << 20
#: It forgets what the disk has, so that the next bytes use the same memory again. In a virtual machine, whose host has
#: to provide new memory, writing to it takes several times as long. A part that is not on the disk yet stays, and is
#: named in so many rounds.
_WRITEBACK_ROUNDS = 4


class Part:
    """One incomplete file: `<name>.part`, with mode 0600 until it is complete. Not for use from two threads at once.

    `folder` is the descriptor of the staging folder, `shown_folder` its path for messages.
    """

    def __init__(
        self, *, folder: int, shown_folder: str, journal: Journal, name: str, original: str, size: int
    ) -> None:
        self.etag: str | None = None
        self._folder = folder
        self._journal = journal
        self._name = name
        self._leaf = staged_leaf(name)
        self._shown = disk.shown(f"{shown_folder}/{self._leaf}{PART}")
        self._original = original
        self._size = size
        self._descriptor: int | None = None
        self._hashers = self._new_hashers()
        #: The kernel was asked to start writing up to this offset.
        self._writeback_end = 0

    @property
    def have(self) -> Have | None:
        """The state from which a request can resume: the bytes written under a strong ETag. None without such bytes."""
        if self.etag is None or self._hashers.size == 0:
            return None
        return Have(size=self._hashers.size, etag=self.etag)

    @property
    def written(self) -> int:
        """The number of bytes written so far."""
        return self._hashers.size

    def resume(self, left: Unfinished) -> None:
        """Continue the file that an earlier process of this boot wrote. Discard it when its CRC32 differs.

        The bytes are read from the disk and hashed: when a disk went away and came back while the machine stayed up,
        the file may hold zeros.
        """
        self._hashers = self._new_hashers(left.etag)
        with disk.disk_errors(f"resuming {self._shown}"):
            self._descriptor = open_regular(self._leaf + PART, os.O_RDWR, below=self._folder)
            try:
                with eio_as_unreadable():
                    is_complete = self._hash_first(left.written)
            except Unreadable:
                is_complete = False
            if is_complete and self._hashers.crc32 == left.crc32 and left.written <= self._size:
                os.ftruncate(self._descriptor, left.written)
                os.lseek(self._descriptor, left.written, os.SEEK_SET)
                self.etag = left.etag
            else:
                self.discard()

    def _hash_first(self, size: int) -> bool:
        """Hash the first `size` bytes. False when the file is shorter."""
        # Drop the kernel's copy, so that the bytes are read from the disk.
        os.posix_fadvise(self._opened, 0, 0, os.POSIX_FADV_DONTNEED)
        while self._hashers.size < size:
            piece = os.pread(self._opened, min(PIECE_SIZE, size - self._hashers.size), self._hashers.size)
            if not piece:
                return False
            self._hashers.update(piece)
        return True

    def begin(self, etag: str | None) -> None:
        """Record the ETag of the content that now arrives from its first byte, so that a later run can resume."""
        self.etag = resumable_etag(etag)
        self._hashers = self._new_hashers(etag)
        if self.etag is not None and etag is not None:
            self._journal.note_opened(self._name, self._size, etag)

    def write(self, data: bytes | bytearray) -> None:
        """Append bytes. Raises `DiskError`s, and `SizeMismatch` when the file would exceed its listed size."""
        if self._hashers.size + len(data) > self._size:
            message = f"{self._original_shown} is longer than the {self._size} bytes of the data listing"
            raise SizeMismatch(message)
        with disk.disk_errors(f"writing {self._shown}"):
            if self._descriptor is None:
                self._open()
            disk.write_all(self._opened, data)
        self._hashers.update(data)
        if self.etag is not None and self._hashers.size < self._size:
            self._journal.note_written(self._name, self._hashers.size, self._hashers.crc32)
        if self._hashers.size - self._writeback_end >= _WRITEBACK_SIZE:
            self._write_back()

    def _write_back(self) -> None:
        space.start_writeback(self._opened, self._writeback_end, self._hashers.size - self._writeback_end)
        self._writeback_end = self._hashers.size
        stop = self._writeback_end - 2 * _WRITEBACK_SIZE
        if stop > 0:
            space.forget_written(self._opened, max(0, stop - _WRITEBACK_ROUNDS * _WRITEBACK_SIZE), stop)

    def restart(self) -> None:
        """Drop all bytes written so far."""
        with disk.disk_errors(f"emptying {self._shown}"):
            if self._descriptor is not None:
                os.ftruncate(self._descriptor, 0)
                os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._forget_bytes()

    def digest(self) -> Digest:
        """Return the hashes of the bytes written. `SizeMismatch` when the size is not the listed size."""
        if self._hashers.size != self._size:
            message = f"{self._original_shown} has {self._hashers.size} bytes, not {self._size} as in the data listing"
            raise SizeMismatch(message)
        return self._hashers.digest()

    def finish(self, etag: str | None, *, packed: int | None = None) -> StoredFile:
        """Fsync the complete file, give it its name and return its record. After an error the file is discarded."""
        digest = self.digest()
        try:
            with disk.disk_errors(f"finishing {self._shown}"):
                if self._descriptor is None:
                    self._open()
                disk.set_mode(self._opened, disk.FILE_MODE)
                # Only once: after a failed fsync, a second fsync succeeds although the data is lost ("fsyncgate").
                os.fsync(self._opened)
                facts = os.fstat(self._opened)
                self._close()
                disk.rename(self._leaf + PART, self._folder, self._leaf, self._folder)
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
        self._journal.note_stored(stored)
        return stored

    def suspend(self) -> None:
        """Close the file and keep it for a later resume. A file whose close fails is discarded."""
        try:
            self._close()
        except OSError:
            self.discard()

    def discard(self) -> None:
        """Remove the file."""
        try:
            self._close()
        finally:
            # The file is gone already, or the disk refuses: recovery clears the staging.
            with suppress(OSError):
                os.unlink(self._leaf + PART, dir_fd=self._folder)
            self._forget_bytes()

    def _forget_bytes(self) -> None:
        self._hashers = self._new_hashers()
        self._writeback_end = 0
        self.etag = None

    def _new_hashers(self, etag: str | None = None) -> Hashers:
        return Hashers(with_md5=md5_of_etag(etag) is not None, with_table=is_table(self._original))

    @property
    def _opened(self) -> int:
        assert self._descriptor is not None  # noqa: S101 - every caller opened it
        return self._descriptor

    @property
    def _original_shown(self) -> str:
        return repr(names.printable(self._original, 120))

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        self._descriptor = open_regular(self._leaf + PART, flags, below=self._folder)
        space.preallocate(self._descriptor, self._size)

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)
