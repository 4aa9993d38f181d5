"""A file in the object storage, read in ranges. One signed URL serves all ranges that start while it is fresh."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from dcsync.core.model import Job, SignedFile
from dcsync.core.ports import Sign
from dcsync.core.transfer import decide_range, range_headers, resumable_etag
from dcsync.errors import StorageRefused
from dcsync.ops.context import SyncContext
from dcsync.ops.mirroring.reader import RangeReader
from dcsync.ops.mirroring.streams import Gauge

#: A range request must start within 60 s of signing (api.md §4). After this time dcsync asks for a new URL.
URL_GOOD_S = 40.0


class RemoteFile:
    """One listed file of a job, of `size` bytes. `fetched_bytes` of it were downloaded over all connections."""

    def __init__(self, context: SyncContext, *, job: Job, name: str, sign: Sign, size: int) -> None:
        self.size = size
        self.fetched_bytes = 0
        #: The ETag of the bytes so far. Every further range must have it.
        self.etag: str | None = None
        self._context = context
        self._job = job
        self._name = name
        self._sign = sign
        self._signed: SignedFile | None = None
        self._signed_at = 0.0
        self._signing = asyncio.Lock()

    @property
    def is_pinned(self) -> bool:
        """Whether ranges that arrive at the same time are sure to be parts of the same file."""
        return resumable_etag(self.etag) is not None

    async def sign(self) -> SignedFile:
        """Return a new URL, which later ranges use too. Raises `ApiError`s and `AuthError`s."""
        async with self._signing:
            return await self._renew()

    @asynccontextmanager
    async def range(self, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """Request the bytes from `start` to `stop` of the file that the first range came from.

        Raises `ContentChanged` when the file was replaced, other `StorageError`s, and the errors of `sign`.
        """
        signed = await self._fresh_url()
        async with self._context.storage.get(signed, range_headers(start, stop, self.etag)) as answer:
            try:
                etag = decide_range(
                    answer.status,
                    answer.headers,
                    start=start,
                    stop=stop,
                    size=self.size,
                    etag=self.etag,
                    words=answer.words,
                )
            except StorageRefused:
                if self._signed is signed:
                    self._signed = None
                raise
            self.etag = self.etag or etag
            yield self.counted(answer.pieces)

    def reader(self, start: int, stop: int, own: AsyncExitStack) -> RangeReader:
        """Return a reader of these bytes. `own` holds the answer to the first request for them."""
        context = self._context
        return RangeReader(self, start, stop, own=own, connections=context.connections, clock=context.clock)

    async def counted(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield these pieces, count their bytes, and stay within the bandwidth limit. Raises `TooSlow`."""
        gauge = Gauge(self._context)
        async for piece in pieces:
            self.fetched_bytes += len(piece)
            yield piece
            await gauge.count(len(piece))

    async def _fresh_url(self) -> SignedFile:
        async with self._signing:
            now = self._context.clock.monotonic()
            if self._signed is None or now - self._signed_at > URL_GOOD_S:
                return await self._renew()
            return self._signed

    async def _renew(self) -> SignedFile:
        self._signed = await self._sign(self._job, self._name)
        self._signed_at = self._context.clock.monotonic()
        return self._signed
