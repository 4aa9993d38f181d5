"""Files of the mirror read and hashed: each inode once, however many snapshots share it, and no faster than allowed."""

from __future__ import annotations

from typing import Protocol

from dcsync.core.transfer import Throttle
from dcsync.errors import DcsyncError
from dcsync.mirror.check import Entry, Reading
from dcsync.mirror.hashing import Digest
from dcsync.ops.context import MirrorContext

#: Files up to this size are read in one hop into a thread.
_SMALL = 1 << 20


class ReadingObserver(Protocol):
    """Is told how a reading of the mirror goes on."""

    def snapshot(self, folder: str, number: int, of: int) -> None:
        """The `number`-th snapshot, from 1, of `of` is looked at."""

    def read(self, size: int) -> None:
        """`size` more bytes were read."""


class Unwatched:
    """An observer that tells nobody."""

    def snapshot(self, folder: str, number: int, of: int) -> None:
        """Say nothing."""

    def read(self, size: int) -> None:
        """Say nothing."""


class ContentReader:
    """Hashes files one after another, so that whoever else reads from the disk is not held up."""

    def __init__(
        self, context: MirrorContext, *, rate: int | None = None, observer: ReadingObserver | None = None
    ) -> None:
        self.read_bytes = 0
        self.read_files = 0
        self._context = context
        self._observer = observer or Unwatched()
        self._throttle = Throttle(rate)
        self._known: dict[tuple[int, int], Digest | DcsyncError] = {}

    async def digest(self, folder: str, name: str, entry: Entry) -> Digest:
        """Return the hashes of a file as it is on the disk. Cancelling is safe.

        Raises `FileNotFoundError` when it has gone meanwhile, `DiskError`s when it cannot be read; for each further
        name of the same inode the same again.
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
