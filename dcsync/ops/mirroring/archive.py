"""The extract's ZIP, read in ranges: first its central directory at the end, then the entries that are needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from dcsync.core.model import ARCHIVE_NAME, Job, StoredFile
from dcsync.core.plan import Extract
from dcsync.core.ports import Sign
from dcsync.core.transfer import PIECE_SIZE, Patience
from dcsync.core.waits import WaitReason
from dcsync.core.ziplayout import TAIL_SIZE, Directory, Span, ZipError, read_directory
from dcsync.errors import ContentChanged, RangeIgnored, StorageError, StorageUnreachable
from dcsync.mirror.disk import disk_errors
from dcsync.mirror.extract import SpanExtractor, Step, Target
from dcsync.mirror.native import fastest_decompressor
from dcsync.mirror.staging import Staging
from dcsync.ops.context import SyncContext
from dcsync.ops.mirroring.remote import RemoteFile
from dcsync.ops.mirroring.streams import WriteBehind
from dcsync.tasks import DiskFile, each

log = structlog.get_logger(__name__)

#: A broken range counts as progress only if it brought this many bytes or a whole entry.
_PROGRESS = 1 << 16
#: The number of reads for the central directory: the tail, a Zip64 record before it, and the directory before that.
_MAX_READS = 4


class Archive(Protocol):
    """A ZIP that can be read in parts. `fetched_bytes` of it were downloaded."""

    size: int

    @property
    def is_remote(self) -> bool:
        """Whether reading costs a download."""

    @property
    def fetched_bytes(self) -> int:
        """The downloaded bytes."""

    def forget(self) -> None:
        """Forget the ETag, because the ZIP may be a new one."""

    def stream(self, start: int, stop: int) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Yield an iterator of the bytes from `start` to `stop` as they arrive. Both raise `StorageError`s."""


class RemoteArchive:
    """The ZIP in the object storage."""

    is_remote = True

    def __init__(self, context: SyncContext, *, job: Job, sign: Sign, size: int) -> None:
        self.size = size
        self._context = context
        self._job = job
        self._file = RemoteFile(context, job=job, name=ARCHIVE_NAME, sign=sign, size=size)

    @property
    def fetched_bytes(self) -> int:
        """The downloaded bytes."""
        return self._file.fetched_bytes

    @asynccontextmanager
    async def stream(self, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """Request a range of the ZIP that the first range came from. `ContentChanged` when it was replaced."""
        async with AsyncExitStack() as own:
            first = await own.enter_async_context(self._file.range(start, stop))
            async with self._file.reader(start, stop, own).pieces(first) as pieces:
                yield self._reported(pieces)

    def forget(self) -> None:
        """Forget the ETag, because the ZIP may be a new one."""
        self._file.etag = None

    async def _reported(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in pieces:
            self._context.observer.job_advanced(self._job.id, len(piece))
            yield piece


class StagedArchive:
    """The ZIP in the staging, when the mirror keeps it: no byte of it is downloaded twice."""

    is_remote = False
    fetched_bytes = 0

    def __init__(self, context: SyncContext, staging: Staging, stored: StoredFile) -> None:
        self.size = stored.size
        self._context = context
        self._staging = staging
        self._stored = stored

    @asynccontextmanager
    async def stream(self, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read a part of the file."""

        def below_staging(name: str, _flags: int) -> int:
            return self._staging.open_staged(name)

        async with self._context.disk.open(self._stored.name, "rb", opener=below_staging) as file:
            yield self._pieces(file, start, stop)

    def forget(self) -> None:
        """Do nothing: this file cannot change."""

    async def _pieces(self, file: DiskFile, start: int, stop: int) -> AsyncIterator[bytes]:
        with disk_errors(f"reading {self._staging.relative}/{ARCHIVE_NAME}"):
            await file.seek(start)
        while start < stop:
            with disk_errors(f"reading {self._staging.relative}/{ARCHIVE_NAME}"):
                piece = await file.read(min(PIECE_SIZE, stop - start))
            if not piece:
                return
            start += len(piece)
            yield piece


async def open_directory(context: SyncContext, archive: Archive) -> Directory:
    """Read the central directory. Nearly every ZIP needs only one range for it.

    Raises `ZipError` when it is not a valid directory, and `StorageError`s when it cannot be downloaded.
    """
    if not archive.size:
        message = "the file is empty"
        raise ZipError(message)
    start = max(0, archive.size - TAIL_SIZE)
    tail = await _read(context, archive, start, archive.size)
    for _ in range(_MAX_READS):
        found = read_directory(tail, size=archive.size)
        if isinstance(found, Directory):
            return found
        if not 0 <= found.start < start:
            break
        tail = await _read(context, archive, found.start, start) + tail
        start = found.start
    message = "its central directory was not found"
    raise ZipError(message)


@dataclass(slots=True, kw_only=True)
class Extraction:
    """The extracted files by their name on disk, and the damage of the others by Autodesk's name."""

    stored: dict[str, StoredFile] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


class Extractor:
    """Extracts ZIP entries into the staging, all spans at the same time."""

    def __init__(self, context: SyncContext, archive: Archive, *, job: Job, staging: Staging) -> None:
        self.extraction = Extraction()
        self._context = context
        self._archive = archive
        self._job = job
        self._staging = staging
        self._inflate = fastest_decompressor()

    async def extract(self, spans: Sequence[Span], extracts: Sequence[Extract]) -> None:
        """Extract these entries from these spans. `extraction` holds the results.

        A damaged entry does not stop the others. Raises `ContentChanged` when the ZIP was replaced, and `StorageError`s
        when the download fails for good. The staged files stay. Cancelling drops the incomplete entries.
        """
        wanted = {
            extract.member.name: Target(member=extract.member, name=extract.name, original=extract.file.name)
            for extract in extracts
        }

        async def extract_span(span: Span) -> None:
            await self._extract_span(span, [wanted[member.name] for member in span.members if member.name in wanted])

        await each(spans, extract_span, at_once=max(1, len(spans)))

    async def _extract_span(self, span: Span, targets: list[Target]) -> None:
        patience = Patience()
        extractor = SpanExtractor(self._staging, span, targets, inflate=self._inflate)
        try:
            while extractor.done < len(targets):
                start, done = extractor.resume(), extractor.done
                try:
                    async with self._context.connections.one():
                        await self._stream(start, span.stop, extractor)
                    error: StorageError = StorageUnreachable("the ZIP ended before its entries did")
                except (ContentChanged, RangeIgnored):
                    raise
                except StorageError as failure:
                    error = failure
                if extractor.done == len(targets):
                    return
                # The next attempt resumes at the byte where this one ended.
                progressed = extractor.done > done or extractor.resume() - start >= _PROGRESS
                wait = patience.wait_after(error, progressed=progressed, draw=self._context.draw())
                if wait is None:
                    raise error
                log.debug("range of the ZIP will be requested again", code=error.code, wait=wait)
                self._context.observer.waiting(WaitReason.STORAGE, wait)
                await self._context.clock.sleep(wait)
        finally:
            self._note(extractor.close())

    async def _stream(self, start: int, stop: int, extractor: SpanExtractor) -> None:
        behind = WriteBehind(self._context.disk, extractor.feed, self._note)
        async with self._archive.stream(start, stop) as pieces:
            try:
                async for piece in pieces:
                    await behind.add(piece)
            except StorageError:
                # Keep the received bytes: the next attempt resumes after them.
                await behind.flush()
                raise
            finally:
                await behind.drain()
        await behind.flush()

    def _note(self, steps: list[Step]) -> None:
        observer, job = self._context.observer, self._job.id
        for step in steps:
            name = step.target.name
            observer.file_started(job, name, step.target.member.stop - step.target.member.offset)
            observer.file_advanced(job, name, step.size)
            if step.stored is not None:
                self.extraction.stored[name] = step.stored
                observer.file_done(job, name)
            if step.damage is not None:
                self.extraction.damaged[step.target.original] = step.damage


async def _read(context: SyncContext, archive: Archive, start: int, stop: int) -> bytes:
    """Return a part of the ZIP that fits into memory. Failed requests are retried as in a download."""
    patience = Patience()
    while True:
        try:
            async with context.connections.one(), archive.stream(start, stop) as pieces:
                return await _gather(pieces, stop - start)
        except ContentChanged:
            raise
        except StorageError as error:
            wait = patience.wait_after(error, progressed=False, draw=context.draw())
            if wait is None:
                raise
            context.observer.waiting(WaitReason.STORAGE, wait)
            await context.clock.sleep(wait)


async def _gather(pieces: AsyncIterator[bytes], size: int) -> bytes:
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > size:
            break
    if len(body) != size:
        message = f"{len(body)} of {size} requested bytes of the ZIP arrived"
        raise StorageUnreachable(message)
    return bytes(body)
