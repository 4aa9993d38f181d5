"""The archive of an extract, read in ranges: its directory from the end, then the members that are wanted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from dcsync.core.model import ARCHIVE_NAME, Job, SignedFile, StoredFile
from dcsync.core.plan import Extract
from dcsync.core.ports import Sign
from dcsync.core.transfer import PIECE_SIZE, Patience, decide_range, range_headers
from dcsync.core.ziplayout import TAIL_SIZE, Directory, Span, ZipError, read_directory
from dcsync.errors import ContentChanged, RangeIgnored, StorageError, StorageRefused, StorageUnreachable
from dcsync.mirror.disk import disk_errors
from dcsync.mirror.extract import Exploder, Step, Target
from dcsync.mirror.native import fastest_decompressor
from dcsync.mirror.staging import Staging
from dcsync.ops.context import SyncContext
from dcsync.ops.mirroring.streams import Gauge, WriteBehind
from dcsync.tasks import DiskFile, each

log = structlog.get_logger(__name__)

#: A range may begin within 60 s of signing (API §4); after this a new URL is asked for.
URL_GOOD_S = 40.0
#: A range that brings less than this before it breaks, and no whole member, has failed like one that brings nothing.
_PROGRESS = 1 << 16
#: Reads of the end until the directory is whole: the tail, a Zip64 record before it, the directory before that.
_MAX_READS = 4


class Archive(Protocol):
    """A container that can be read in parts. `fetched_bytes` came over the line for it."""

    size: int
    is_remote: bool
    fetched_bytes: int

    def forget(self) -> None:
        """Take the container for a new one: its ETag is learnt anew."""

    def stream(self, start: int, stop: int) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Give the bytes from `start` to `stop` as they come. Raises `StorageError`s, and so does what it gives."""


class RemoteArchive:
    """The archive in the file store. One signed URL serves every range that begins while it is fresh."""

    def __init__(self, context: SyncContext, *, job: Job, sign: Sign, size: int) -> None:
        self.size = size
        self.is_remote = True
        self.fetched_bytes = 0
        self._context = context
        self._job = job
        self._sign = sign
        self._etag: str | None = None
        self._signed: SignedFile | None = None
        self._signed_at = 0.0
        self._signing = asyncio.Lock()

    @asynccontextmanager
    async def stream(self, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """Ask for a range of the container that was first seen; `ContentChanged` when it is another one now."""
        signed = await self._fresh_url()
        headers = range_headers(start, stop, self._etag)
        async with self._context.storage.get(signed, headers) as answer:
            try:
                etag = decide_range(
                    answer.status, answer.headers, start=start, stop=stop, size=self.size, etag=self._etag
                )
            except StorageRefused:
                if self._signed is signed:
                    self._signed = None
                raise
            self._etag = self._etag or etag
            yield self._counted(answer.pieces)

    def forget(self) -> None:
        """Take the container for a new one: its ETag is learnt anew."""
        self._etag = None

    async def _fresh_url(self) -> SignedFile:
        async with self._signing:
            now = self._context.clock.monotonic()
            if self._signed is None or now - self._signed_at > URL_GOOD_S:
                self._signed = await self._sign(self._job, ARCHIVE_NAME)
                self._signed_at = self._context.clock.monotonic()
            return self._signed

    async def _counted(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        gauge = Gauge(self._context)
        async for piece in pieces:
            self.fetched_bytes += len(piece)
            yield piece
            await gauge.count(len(piece))


class StagedArchive:
    """The archive in the staging, when it is kept in the mirror as well: nothing of it comes over the line twice."""

    def __init__(self, context: SyncContext, staging: Staging, stored: StoredFile) -> None:
        self.size = stored.size
        self.is_remote = False
        self.fetched_bytes = 0
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
        """It cannot change: nothing to forget."""

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
    """Read the central directory: one range for nearly every archive.

    Raises `ZipError` when it cannot be read as one, `StorageError`s when the store does not give it.
    """
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
    message = "its directory cannot be found"
    raise ZipError(message)


@dataclass(slots=True, kw_only=True)
class Extraction:
    """What was got out of an archive: files by name on disk, and by the server's name why some were not."""

    stored: dict[str, StoredFile] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


class Extractor:
    """Stages members of an archive, span beside span."""

    def __init__(self, context: SyncContext, archive: Archive, *, job: Job, staging: Staging) -> None:
        self.extraction = Extraction()
        self._context = context
        self._archive = archive
        self._job = job
        self._staging = staging
        self._inflate = fastest_decompressor()

    async def extract(self, spans: Sequence[Span], extracts: Sequence[Extract]) -> None:
        """Stage these members out of these spans; `extraction` says what came and what did not.

        Raises `ContentChanged` when the archive is another one now, `StorageError`s when the store gives no more; what
        is staged stays. A damaged member stops no other. Cancelling drops the members that are not whole.
        """
        wanted = {
            extract.member.name: Target(member=extract.member, name=extract.name, original=extract.file.name)
            for extract in extracts
        }

        async def one(span: Span) -> None:
            await self._span(span, [wanted[member.name] for member in span.members if member.name in wanted])

        await each(spans, one, at_once=max(1, len(spans)))

    async def _span(self, span: Span, targets: list[Target]) -> None:
        patience = Patience()
        exploder = Exploder(self._staging, span, targets, inflate=self._inflate)
        try:
            while exploder.done < len(targets):
                start, done = exploder.resume(), exploder.done
                try:
                    async with self._context.slots:
                        await self._stream(start, span.stop, exploder)
                    error: StorageError = StorageUnreachable("the archive ended before its members did")
                except (ContentChanged, RangeIgnored):
                    raise
                except StorageError as failure:
                    error = failure
                if exploder.done == len(targets):
                    return
                # The next attempt begins at the byte where this one was cut.
                progressed = exploder.done > done or exploder.resume() - start >= _PROGRESS
                wait = patience.wait_after(error, progressed=progressed, draw=self._context.draw())
                if wait is None:
                    raise error
                log.debug("a range of the archive is asked for again", code=error.code, wait=wait)
                await self._context.clock.sleep(wait)
        finally:
            self._note(exploder.close())

    async def _stream(self, start: int, stop: int, exploder: Exploder) -> None:
        behind = WriteBehind(self._context.disk, exploder.feed, self._note)
        async with self._archive.stream(start, stop) as pieces:
            try:
                async for piece in pieces:
                    await behind.add(piece)
            except StorageError:
                # What came counts: the next attempt goes on after it.
                await behind.flush()
                raise
            finally:
                await behind.drain()
        await behind.flush()

    def _note(self, steps: list[Step]) -> None:
        observer, job = self._context.observer, self._job.id
        for step in steps:
            name = step.target.name
            observer.file_started(job, name, step.target.member.size)
            observer.file_advanced(job, name, step.size)
            if step.stored is not None:
                self.extraction.stored[name] = step.stored
                observer.file_done(job, name)
            if step.damage is not None:
                self.extraction.damaged[step.target.original] = step.damage


async def _read(context: SyncContext, archive: Archive, start: int, stop: int) -> bytes:
    """Return a part of the archive that fits into memory, asking again as a download does."""
    patience = Patience()
    while True:
        try:
            async with context.slots, archive.stream(start, stop) as pieces:
                return await _gather(pieces, stop - start)
        except ContentChanged:
            raise
        except StorageError as error:
            wait = patience.wait_after(error, progressed=False, draw=context.draw())
            if wait is None:
                raise
            await context.clock.sleep(wait)


async def _gather(pieces: AsyncIterator[bytes], size: int) -> bytes:
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > size:
            break
    if len(body) != size:
        message = f"{size} bytes of the archive were asked for, {len(body)} came"
        raise StorageUnreachable(message)
    return bytes(body)
