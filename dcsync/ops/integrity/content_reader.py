"""Read and hash files of the mirror: each inode once for all snapshots that share it, and within the rate limit."""

from __future__ import annotations

from typing import Protocol

from dcsync.core.transfer import Throttle
from dcsync.errors import DcsyncError
from dcsync.mirror.check import Entry, Reading
from dcsync.mirror.hashing import Digest
from dcsync.ops.context import MirrorContext

#: Files up to this size are read in a single call in a thread.
_SMALL = 1 << 20


class ReadingObserver(Protocol):
    """Receives the progress of reading the mirror."""

    def snapshot(self, folder: str, number: int, of: int) -> None:
        """Snapshot `number` of `of` begins, counted from 1."""

    def read(self, size: int) -> None:
        """`size` more bytes were read."""


class Unwatched:
    """An observer that does nothing."""

    def snapshot(self, folder: str, number: int, of: int) -> None:
        """Do nothing."""

    def read(self, size: int) -> None:
        """Do nothing."""


class ContentReader:
    """Hashes files one after another, so that other readers of the disk are not slowed down."""

    def __init__(
        self, context: MirrorContext, *, rate: int | None = None, observer: ReadingObserver | None = None
    ) -> None:
        self.read_bytes = 0
        self.read_files = 0
        self._context = context
        self._observer = observer or Unwatched()
        self._throttle = Throttle(rate)
        self._known: dict[tuple[int, int], Digest | DcsyncError] = {}

    def has_read(self, entry: Entry | None, sha256: str) -> bool:
        """Say whether a file is a name of an inode that was read already and has this SHA-256."""
        if entry is None or not entry.is_file:
            return False
        known = self._known.get((entry.device, entry.inode))
        return isinstance(known, Digest) and known.sha256 == sha256 and known.size == entry.size

    async def digest(self, folder: str, name: str, entry: Entry) -> Digest:
        """Return the hashes of a file on the disk. Cancelling is safe.

        Raises `FileNotFoundError` when the file was removed since, and `DiskError`s when it cannot be read. Every
        other name of the same inode has the same result.
        """
        key = (entry.device, entry.inode)
        known = self._known.get(key)
        if known is None:
            try:
                known = await self._read(folder, name, entry)
            except DcsyncError as error:
                known = error
            self._known[key] = known
        if isinstance(known, DcsyncError):
            raise known
        return known

    async def _read(self, folder: str, name: str, entry: Entry) -> Digest:
        context = self._context

        def begin() -> tuple[Reading, int]:
            reading = Reading(context.root, folder, name)
            try:
                return reading, reading.step()
            except BaseException:
                reading.close()
                raise

        def whole() -> Digest:
            reading, _ = begin()
            try:
                while reading.step():
                    pass
                return reading.digest()
            finally:
                reading.close()

        if entry.size <= _SMALL:
            digest = await context.disk.run(whole)
            await self._count(digest.size)
        else:
            reading, size = await context.disk.run(begin)
            try:
                while size:
                    await self._count(size)
                    size = await context.disk.run(reading.step)
                digest = reading.digest()
            finally:
                reading.close()
        self.read_files += 1
        return digest

    async def _count(self, size: int) -> None:
        self.read_bytes += size
        self._observer.read(size)
        wait = self._throttle.wait_s(self._context.clock.monotonic(), size)
        if wait > 0:
            await self._context.clock.sleep(wait)
