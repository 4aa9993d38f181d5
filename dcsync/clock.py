"""Time as a port: the wall clock for dates, the monotonic clock for waiting. Tests use a virtual clock instead."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """The only source of time in dcsync."""

    def now(self) -> datetime:
        """Return the wall-clock time as an aware datetime in UTC. It may jump."""

    def monotonic(self) -> float:
        """Return the seconds since boot, including suspended time. Never decreases. The same for all processes."""

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds` (not negative). Cancelling is safe."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the wall-clock time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return CLOCK_BOOTTIME, which includes the time of suspension. CLOCK_MONOTONIC does not."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        """Wait on the running event loop."""
        await asyncio.sleep(seconds)


def boot_id() -> str:
    """Return the ID of the machine's boot, or "" if it cannot be read. Blocks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
