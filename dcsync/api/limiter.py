"""The one gate for API calls of a client id: a sliding minute, and a pause that holds for everybody."""

from __future__ import annotations

import asyncio

from dcsync.api.window import CallWindow
from dcsync.clock import Clock
from dcsync.core.quota import WINDOW_MARGIN_S, usable
from dcsync.errors import RateLimited

#: A pause longer than this is not sat out by a call; the run ends and the work is tried again after it.
PATIENCE_S = 600.0
#: So many slots are let go unused, one after another, because they came late; a database that is slow must not eat all.
_MAX_UNUSED = 3


class Limiter:
    """Lets calls through in the order they asked, never more than the quota in any minute."""

    def __init__(self, *, requests_per_minute: int, clock: Clock, window: CallWindow) -> None:
        self.limit = usable(requests_per_minute)
        self.calls = 0
        self._clock = clock
        self._window = window
        self._turn = asyncio.Lock()

    async def acquire(self) -> None:
        """Wait until one call may be made, and count it. Cancelling counts at most the one that was being counted.

        Raises `RateLimited` at once when a pause of more than ten minutes is in force.
        """
        async with self._turn:
            unused = 0
            while True:
                asked = self._clock.monotonic()
                wait = await self._window.reserve(limit=self.limit, now=asked)
                if wait <= 0:
                    self.calls += 1
                    if self._clock.monotonic() - asked > WINDOW_MARGIN_S and unused < _MAX_UNUSED:
                        # This machine slept over it: made now, the call would fall into another minute than it was
                        # counted in.
                        unused += 1
                        continue
                    return
                if wait > PATIENCE_S:
                    message = f"the API asked for a pause; {wait:.0f} s of it are left"
                    raise RateLimited(message, status=429, retry_after_s=wait)
                await self._clock.sleep(wait)

    async def pause(self, seconds: float) -> None:
        """Let no call begin for `seconds`, in any process that shares the window."""
        now = self._clock.monotonic()
        await self._window.pause(until=now + seconds, now=now)

    async def left(self) -> int:
        """Return the calls that may be made right now."""
        return max(0, self.limit - await self.used())

    async def used(self) -> int:
        """Return the calls of the last minute, also those of other processes that share the window."""
        return await self._window.used(now=self._clock.monotonic())
