"""The rate limiter for all API calls of one client ID: a sliding minute, and a pause shared by all processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from dcsync.api.window import CallWindow
from dcsync.clock import Clock
from dcsync.core.quota import WINDOW_MARGIN_S, usable
from dcsync.core.waits import WaitReason
from dcsync.errors import RateLimited

#: Is called when a call waits: why, and for how many seconds.
OnWait: TypeAlias = Callable[[WaitReason, float], None]

#: A call does not wait for a longer pause than this. The run ends, and its work is retried after the pause.
PATIENCE_S = 600.0
#: How many late slots in a row a call leaves unused. The limit keeps a slow database from wasting every slot.
_MAX_UNUSED = 3


class Limiter:
    """Grants calls in the order of the requests and never exceeds the rate limit in any minute."""

    def __init__(self, *, requests_per_minute: int, clock: Clock, window: CallWindow) -> None:
        self.limit = usable(requests_per_minute)
        self.calls = 0
        self._clock = clock
        self._window = window
        self._turn = asyncio.Lock()
        #: When the wait of the call whose turn it is ends.
        self._waits_until = 0.0

    async def acquire(self, on_wait: OnWait = lambda _reason, _seconds: None) -> None:
        """Wait until one call may be made, and count it. A cancelled wait may still count one call.

        Raises `RateLimited` immediately if a pause of more than ten minutes is in force.
        """
        left = self._waits_until - self._clock.monotonic()
        if self._turn.locked() and left > 0:
            # The wait of another call, perhaps for another command, is the wait of this one too.
            on_wait(WaitReason.RATE_LIMIT, left)
        async with self._turn:
            unused = 0
            while True:
                asked = self._clock.monotonic()
                wait = await self._window.reserve(limit=self.limit, now=asked)
                if wait <= 0:
                    self.calls += 1
                    if self._clock.monotonic() - asked > WINDOW_MARGIN_S and unused < _MAX_UNUSED:
                        # The reservation took too long, for example because the machine was suspended. A call made
                        # now would fall into a different minute from the one it was counted in.
                        unused += 1
                        continue
                    return
                if wait > PATIENCE_S:
                    message = f"the API asked dcsync to pause, for another {wait:.0f} s"
                    raise RateLimited(message, status=429, retry_after_s=wait)
                self._waits_until = asked + wait
                on_wait(WaitReason.RATE_LIMIT, wait)
                await self._clock.sleep(wait)

    async def pause(self, seconds: float) -> None:
        """Block new calls for `seconds`, in all processes that share the window."""
        now = self._clock.monotonic()
        await self._window.pause(until=now + seconds, now=now)

    async def left(self) -> int:
        """Return the number of calls that may be made now."""
        return max(0, self.limit - await self.used())

    async def used(self) -> int:
        """Return the number of calls in the last minute, including those of other processes that share the window."""
        return await self._window.used(now=self._clock.monotonic())
