"""The connections to the object storage, shared by all downloads of a run.

Each download has one connection for as long as it runs. A download may take further ones while they are free, so that
all downloads have about as many, and gives them back as soon as another download begins.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

#: All downloads together hold at most this many bytes that arrived before their turn.
AHEAD_BYTES = 48 << 20


class Connections:
    """At most `limit` connections. `ahead` is the rest of the memory for bytes that arrive before their turn."""

    def __init__(self, limit: int) -> None:
        self.ahead = AHEAD_BYTES
        self._limit = limit
        self._free = limit
        #: The downloads that run or wait for a connection.
        self._downloads = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold the connection of one download. Downloads get it in the order in which they ask."""
        self._downloads += 1
        try:
            await self._take()
            try:
                yield
            finally:
                self.give_back()
        finally:
            self._downloads -= 1

    @property
    def share(self) -> int:
        """The number of connections that each download may have now, at least 1."""
        return max(1, self._limit // max(1, self._downloads))

    def take_more(self) -> bool:
        """Take one more connection if one is free and no download waits for it. The taker gives it back."""
        if not self._free or self._waiting:
            return False
        self._free -= 1
        return True

    def give_back(self) -> None:
        """Give a connection to the download that has waited longest, or keep it for the next one."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    async def _take(self) -> None:
        if self.take_more():
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # The turn came together with the cancellation.
                self.give_back()
            raise
