"""Download of single files: each one through a fresh signed URL, into the staging, and checked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import structlog

from dcsync.core.model import How, Job, Snapshot, StoredFile
from dcsync.core.plan import Fetch
from dcsync.core.ports import Sign
from dcsync.core.transfer import (
    Complete,
    Patience,
    Unchanged,
    Write,
    decide,
    headers_for,
    md5_of_etag,
)
from dcsync.core.waits import WaitReason
from dcsync.errors import (
    ChecksumMismatch,
    ContentChanged,
    DcsyncError,
    DiskError,
    RangeIgnored,
    SizeMismatch,
    StorageError,
    StorageUnreachable,
)
from dcsync.mirror.part import Part
from dcsync.mirror.staging import Staging
from dcsync.ops.context import SyncContext
from dcsync.ops.mirroring.knowledge import AccountKnowledge
from dcsync.ops.mirroring.remote import RemoteFile
from dcsync.ops.mirroring.streams import WriteBehind
from dcsync.tasks import each

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Tally:
    """The files of one extract that were stored or failed, and the bytes that were downloaded."""

    fetched_bytes: int = 0
    stored: dict[str, StoredFile] = field(default_factory=dict)
    failures: list[tuple[str, StorageError]] = field(default_factory=list)


class Fetcher:
    """Downloads the files of one job.

    Each download takes a slot, then a signed URL, and then starts. No URL is older than a few seconds when it is used.
    """

    def __init__(
        self,
        context: SyncContext,
        *,
        job: Job,
        sign: Sign,
        staging: Staging,
        previous: Snapshot | None,
        knowledge: AccountKnowledge,
    ) -> None:
        self.tally = Tally()
        self._context = context
        self._job = job
        self._sign = sign
        self._staging = staging
        self._previous = previous
        self._previous_files = {} if previous is None else {file.original: file for file in previous.files}
        self._knowledge = knowledge

    async def fetch_all(self, fetches: tuple[Fetch, ...]) -> None:
        """Download every file. A file that fails for good does not stop the others. `tally.failures` names it.

        An error of the API, the tokens or the disk ends the download at once. Cancelling keeps the staged files and
        the `.part` files that can be resumed.
        """
        await each(fetches, self._fetch_or_note, at_once=min(self._context.settings.concurrency, len(fetches) or 1))

    async def _fetch_or_note(self, fetch: Fetch) -> None:
        try:
            stored = await self._fetch(fetch)
        except StorageError as error:
            self.tally.failures.append((fetch.file.name, error))
            log.debug(
                "file could not be downloaded", job=self._job.id, file=fetch.name, code=error.code, error=error.message
            )
            return
        self.tally.stored[stored.name] = stored
        self._context.observer.file_done(self._job.id, fetch.name)

    async def _fetch(self, fetch: Fetch) -> StoredFile:
        disk = self._context.disk
        part = await disk.run(self._staging.part, fetch.name, fetch.file.name, fetch.file.size)
        remote = RemoteFile(self._context, job=self._job, name=fetch.file.name, sign=self._sign, size=fetch.file.size)
        attempts = _Attempts(unless=fetch.unless)
        try:
            while True:
                before = part.written
                try:
                    async with self._context.connections.one():
                        return await self._attempt(fetch, remote, part, attempts)
                except StorageError as error:
                    wait = attempts.patience.wait_after(
                        error, progressed=part.written > before, draw=self._context.draw()
                    )
                    if error.poison or isinstance(error, ContentChanged):
                        self._advance(fetch, -part.written)
                        await disk.run(part.restart)
                    if wait is None:
                        raise
                    log.debug("download will be retried", file=fetch.name, code=error.code, wait=wait)
                    self._context.observer.waiting(WaitReason.STORAGE, wait)
                    await self._context.clock.sleep(wait)
        except asyncio.CancelledError:
            # This is short and needs no network. A later run resumes here.
            part.suspend()
            raise
        except DiskError:
            await disk.run(part.discard)
            raise
        except DcsyncError:
            part.suspend()
            raise
        finally:
            self.tally.fetched_bytes += remote.fetched_bytes

    async def _attempt(self, fetch: Fetch, remote: RemoteFile, part: Part, attempts: _Attempts) -> StoredFile:
        disk = self._context.disk
        if part.written and part.have is None:
            # Without an ETag, nothing shows that the rest would belong to these bytes.
            await disk.run(part.restart)
        signed = await remote.sign()
        self._context.observer.file_started(self._job.id, fetch.name, fetch.file.size)
        if part.written and not attempts.resumes:
            self._context.observer.file_resumed(self._job.id, fetch.name, part.written)
        attempts.resumes = True
        have = part.have
        unless = None if attempts.unless is None or have is not None else attempts.unless.etag
        async with AsyncExitStack() as own:
            answer = await own.enter_async_context(self._context.storage.get(signed, headers_for(have, unless)))
            decision = decide(
                answer.status,
                answer.headers,
                size=fetch.file.size,
                have=have,
                unless_etag=unless,
                words=answer.words,
            )
            match decision:
                case Unchanged():
                    return await self._link(fetch, attempts)
                case Complete():
                    return await self._store(fetch, part, b"", have.etag if have else None, attempts)
                case Write(offset=offset, etag=etag):
                    if not offset:
                        await self._restart(fetch, part)
                        await disk.run(part.begin, etag)
                    remote.etag = etag
                    reader = remote.reader(part.written, fetch.file.size, own)
                    async with reader.pieces(remote.counted(answer.pieces)) as pieces:
                        rest = await self._receive(fetch, part, pieces)
                    return await self._store(fetch, part, rest, etag, attempts)

    async def _restart(self, fetch: Fetch, part: Part) -> None:
        if part.written:
            self._advance(fetch, -part.written)
            await self._context.disk.run(part.restart)

    async def _receive(self, fetch: Fetch, part: Part, pieces: AsyncIterator[bytes]) -> bytearray:
        """Write the body while it arrives. Return the last piece, which is written, checked and fsynced in one call."""
        behind = WriteBehind(self._context.disk, part.write)
        try:
            await self._read_into(behind, fetch, part.written, pieces)
        except StorageError as error:
            if not error.poison:
                # Keep the received bytes: the next attempt resumes after them.
                await behind.flush()
            raise
        finally:
            await behind.drain()
        return behind.rest

    async def _read_into(
        self, behind: WriteBehind[None], fetch: Fetch, received: int, pieces: AsyncIterator[bytes]
    ) -> None:
        try:
            async for piece in pieces:
                received += len(piece)
                if received > fetch.file.size:
                    message = f"the body is longer than the {fetch.file.size} bytes of the data listing"
                    raise SizeMismatch(message)
                await behind.add(piece)
                self._advance(fetch, len(piece))
        except RangeIgnored as error:
            # The storage delivered parts of this file before. The next attempt can read all of it at once.
            raise StorageUnreachable(error.message) from None

    def _advance(self, fetch: Fetch, size: int) -> None:
        self._context.observer.job_advanced(self._job.id, size)
        self._context.observer.file_advanced(self._job.id, fetch.name, size)

    async def _store(
        self, fetch: Fetch, part: Part, rest: bytes | bytearray, etag: str | None, attempts: _Attempts
    ) -> StoredFile:
        stored = await self._context.disk.run(_complete, part, rest, etag, self._etag_check(etag, attempts))
        if attempts.mismatched_sha256 is not None and self._knowledge.facts.etag_is_md5:
            # The same content came twice with an ETag that is not its MD5: ETags have a new meaning.
            self._knowledge.distrust_etags()
            log.warning("storage ETags are no longer MD5 hashes; ETag check turned off", file=fetch.name)
        self._knowledge.learn_etag(etag, stored.md5)
        return await self._link_if_equal(fetch, stored, attempts)

    def _etag_check(self, etag: str | None, attempts: _Attempts) -> Callable[[str, str | None], None]:
        """Return the check of the content against its ETag. It runs before the file gets its final name."""

        def check(sha256: str, md5: str | None) -> None:
            promised = md5_of_etag(etag)
            if not self._knowledge.facts.etag_is_md5 or promised is None or md5 is None or promised == md5:
                return
            if attempts.mismatched_sha256 == sha256:
                return
            attempts.mismatched_sha256 = sha256
            message = f"the MD5 of the content is {md5}, not {promised} as in its ETag"
            raise ChecksumMismatch(message)

        return check

    async def _link(self, fetch: Fetch, attempts: _Attempts) -> StoredFile:
        earlier = attempts.unless
        assert earlier is not None and self._previous is not None  # noqa: PT018, S101 - a 304 answers a condition
        linked = await self._context.disk.run(self._staging.link, self._previous, earlier, fetch.name)
        if linked is None:
            attempts.unless = None
            log.warning(
                "file of the previous snapshot does not match its record; it is downloaded again",
                snapshot=self._previous.folder,
                file=earlier.name,
            )
            message = "the file in the previous snapshot does not match its record"
            raise ContentChanged(message)
        self._knowledge.matched += 1
        self._context.observer.file_unchanged(self._job.id, fetch.name)
        return linked

    async def _link_if_equal(self, fetch: Fetch, stored: StoredFile, attempts: _Attempts) -> StoredFile:
        """Replace a downloaded file that turned out to be unchanged by a hard link, so that the disk holds one copy.

        The record still says that it was downloaded.
        """
        earlier = self._previous_files.get(stored.original)
        same = earlier is not None and (earlier.size, earlier.sha256) == (stored.size, stored.sha256)
        if earlier is None or self._previous is None or not same or not stored.size:
            return stored
        if attempts.unless is not None and attempts.unless.etag is not None:
            self._knowledge.missed += 1
        linked = await self._context.disk.run(self._staging.link, self._previous, earlier, stored.name)
        if linked is None:
            # The staged file is unchanged.
            return stored
        return replace(linked, original=fetch.file.name, etag=stored.etag, md5=stored.md5, how=How.FETCHED)


@dataclass(slots=True, kw_only=True)
class _Attempts:
    """The state of one file's attempts."""

    unless: StoredFile | None
    patience: Patience = field(default_factory=Patience)
    #: Whether the bytes that are there are of an attempt of this run.
    resumes: bool = False
    #: SHA-256 of the content whose MD5 did not match its ETag.
    mismatched_sha256: str | None = None


def _complete(
    part: Part, rest: bytes | bytearray, etag: str | None, check: Callable[[str, str | None], None]
) -> StoredFile:
    """Write the last piece, check, fsync and name the file. A small file needs only this one call in a thread."""
    if rest:
        part.write(rest)
    digest = part.digest()
    check(digest.sha256, digest.md5)
    return part.finish(etag)
