"""Time as a port: the wall for dates, the monotonic clock for waiting. Tests put a virtual one in its place."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the rest of dcsync knows of time."""

    def now(self) -> datetime:
        """Return the wall clock's time, aware, in UTC. It may jump."""

    def monotonic(self) -> float:
        """Return seconds since boot, running on through suspend; never goes back, the same for all processes."""

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds` (not negative). Cancelling is safe."""


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """Return the wall clock's time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return CLOCK_BOOTTIME: it counts the sleep of a suspended machine, as CLOCK_MONOTONIC does not."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        """Wait on the running event loop."""
        await asyncio.sleep(seconds)
