"""The bytes of one extract: each file by a fresh signed URL, into the staging, checked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from dcsync.api.storage import Answer
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
from dcsync.errors import (
    ChecksumMismatch,
    ContentChanged,
    DcsyncError,
    DiskError,
    SizeMismatch,
    StorageError,
)
from dcsync.mirror.part import Part
from dcsync.mirror.staging import Staging
from dcsync.ops.context import SyncContext
from dcsync.ops.mirroring.knowledge import AccountKnowledge
from dcsync.ops.mirroring.streams import Gauge, WriteBehind
from dcsync.tasks import each

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Tally:
    """What one extract took."""

    fetched_bytes: int = 0
    stored: dict[str, StoredFile] = field(default_factory=dict)
    failures: list[tuple[str, StorageError]] = field(default_factory=list)


class Fetcher:
    """Fetches the files of one job. Slot first, then sign, then GET: no URL is older than seconds when it is used."""

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
        self._before = {} if previous is None else {before.original: before for before in previous.files}
        self._knowledge = knowledge

    async def fetch_all(self, fetches: tuple[Fetch, ...]) -> None:
        """Fetch every file. One that fails for good does not stop the others: what is staged need not come again.

        Afterwards `tally.failures` names them. An error of the API, the tokens or the disk ends it at once.
        Cancelling keeps what is staged, and `.part` files that can be resumed.
        """
        await each(fetches, self._fetch_or_note, at_once=min(self._context.settings.concurrency, len(fetches) or 1))

    async def _fetch_or_note(self, fetch: Fetch) -> None:
        try:
            stored = await self._fetch(fetch)
        except StorageError as error:
            self.tally.failures.append((fetch.file.name, error))
            log.warning(
                "a file could not be fetched", job=self._job.id, file=fetch.name, code=error.code, error=error.message
            )
            return
        self.tally.stored[stored.name] = stored
        self._context.observer.file_done(self._job.id, fetch.name)

    async def _fetch(self, fetch: Fetch) -> StoredFile:
        disk = self._context.disk
        part = await disk.run(self._staging.part, fetch.name, fetch.file.name, fetch.file.size)
        attempts = _Attempts(unless=fetch.unless)
        try:
            while True:
                before = part.written
                try:
                    async with self._context.slots:
                        return await self._attempt(fetch, part, attempts)
                except StorageError as error:
                    wait = attempts.patience.wait_after(
                        error, progressed=part.written > before, draw=self._context.draw()
                    )
                    if error.poison or isinstance(error, ContentChanged):
                        self._context.observer.file_advanced(self._job.id, fetch.name, -part.written)
                        await disk.run(part.restart)
                    if wait is None:
                        raise
                    log.debug("a download is tried again", file=fetch.name, code=error.code, wait=wait)
                    await self._context.clock.sleep(wait)
        except asyncio.CancelledError:
            # Short and without network; a later run goes on from here.
            part.suspend()
            raise
        except DiskError:
            await disk.run(part.discard)
            raise
        except DcsyncError:
            part.suspend()
            raise

    async def _attempt(self, fetch: Fetch, part: Part, attempts: _Attempts) -> StoredFile:
        disk = self._context.disk
        if part.written and part.have is None:
            # Nothing says of what these bytes were the beginning.
            await disk.run(part.restart)
        signed = await self._sign(self._job, fetch.file.name)
        self._context.observer.file_started(self._job.id, fetch.name, fetch.file.size)
        have = part.have
        unless = None if attempts.unless is None or have is not None else attempts.unless.etag
        async with self._context.storage.get(signed, headers_for(have, unless)) as answer:
            decision = decide(answer.status, answer.headers, size=fetch.file.size, have=have, unless_etag=unless)
            match decision:
                case Unchanged():
                    return await self._link(fetch, attempts)
                case Complete():
                    return await self._store(fetch, part, b"", have.etag if have else None, attempts)
                case Write(offset=0, etag=etag):
                    if part.written:
                        self._context.observer.file_advanced(self._job.id, fetch.name, -part.written)
                        await disk.run(part.restart)
                    await disk.run(part.begin, etag)
                    return await self._receive(fetch, part, answer, etag, attempts)
                case Write(etag=etag):
                    return await self._receive(fetch, part, answer, etag, attempts)

    async def _receive(
        self, fetch: Fetch, part: Part, answer: Answer, etag: str | None, attempts: _Attempts
    ) -> StoredFile:
        """Write the body while it comes; the last piece is written, checked and fsynced in one go."""
        behind = WriteBehind(self._context.disk, part.write)
        try:
            await self._read_into(behind, fetch, part.written, answer)
        except StorageError as error:
            if not error.poison:
                # What came counts: the next attempt goes on after it.
                await behind.flush()
            raise
        finally:
            await behind.drain()
        return await self._store(fetch, part, behind.rest, etag, attempts)

    async def _read_into(self, behind: WriteBehind[None], fetch: Fetch, received: int, answer: Answer) -> None:
        context, size, gauge = self._context, fetch.file.size, Gauge(self._context)
        async for piece in answer.pieces:
            received += len(piece)
            if received > size:
                message = f"it goes on after the {size} bytes of the listing"
                raise SizeMismatch(message)
            await behind.add(piece)
            self.tally.fetched_bytes += len(piece)
            context.observer.file_advanced(self._job.id, fetch.name, len(piece))
            await gauge.count(len(piece))

    async def _store(
        self, fetch: Fetch, part: Part, rest: bytes | bytearray, etag: str | None, attempts: _Attempts
    ) -> StoredFile:
        stored = await self._context.disk.run(_complete, part, rest, etag, self._must_match(etag, attempts))
        if attempts.odd_sha256 is not None and self._knowledge.facts.etag_is_md5:
            # The same content twice under an ETag that is not its MD5: the ETag is what changed its meaning.
            self._knowledge.distrust_etags()
            log.warning("the file store's ETags are no MD5 any more; they are not checked from now on", file=fetch.name)
        self._knowledge.learn_etag(etag, stored.md5)
        return await self._link_if_equal(fetch, stored, attempts)

    def _must_match(self, etag: str | None, attempts: _Attempts) -> Callable[[str, str | None], None]:
        """Return the check of content against its ETag, which is made before the file gets its name."""

        def check(sha256: str, md5: str | None) -> None:
            promised = md5_of_etag(etag)
            if not self._knowledge.facts.etag_is_md5 or promised is None or md5 is None or promised == md5:
                return
            if attempts.odd_sha256 == sha256:
                return
            attempts.odd_sha256 = sha256
            message = f"the content has the MD5 {md5}, its ETag says {promised}"
            raise ChecksumMismatch(message)

        return check

    async def _link(self, fetch: Fetch, attempts: _Attempts) -> StoredFile:
        before = attempts.unless
        assert before is not None and self._previous is not None  # noqa: PT018, S101 - a 304 answers a condition
        linked = await self._context.disk.run(self._staging.link, self._previous, before, fetch.name)
        if linked is None:
            attempts.unless = None
            log.warning(
                "a file of the snapshot before is not as it was recorded; it is fetched anew",
                snapshot=self._previous.folder,
                file=before.name,
            )
            message = "the file in the snapshot before is not what was recorded"
            raise ContentChanged(message)
        self._knowledge.matched += 1
        self._context.observer.file_advanced(self._job.id, fetch.name, linked.size)
        return linked

    async def _link_if_equal(self, fetch: Fetch, stored: StoredFile, attempts: _Attempts) -> StoredFile:
        """Keep one copy on the disk of what turned out not to have changed; the bytes were fetched all the same."""
        before = self._before.get(stored.original)
        same = before is not None and (before.size, before.sha256) == (stored.size, stored.sha256)
        if before is None or self._previous is None or not same or not stored.size:
            return stored
        if attempts.unless is not None and attempts.unless.etag is not None:
            self._knowledge.missed += 1
        linked = await self._context.disk.run(self._staging.link, self._previous, before, stored.name)
        if linked is None:
            # The staged file was not touched.
            return stored
        return replace(linked, original=fetch.file.name, etag=stored.etag, md5=stored.md5, how=How.FETCHED)


@dataclass(slots=True, kw_only=True)
class _Attempts:
    """The state of one file's attempts."""

    unless: StoredFile | None
    patience: Patience = field(default_factory=Patience)
    #: SHA-256 of content whose MD5 was not its ETag.
    odd_sha256: str | None = None


def _complete(
    part: Part, rest: bytes | bytearray, etag: str | None, check: Callable[[str, str | None], None]
) -> StoredFile:
    """Write the last piece, check, fsync and name the file: one hop into a thread, which is all a small file takes."""
    if rest:
        part.write(rest)
    digest = part.digest()
    check(digest.sha256, digest.md5)
    return part.finish(etag)
