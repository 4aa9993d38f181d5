"""Time that passes only when a test lets it: for hours of a daemon in seconds."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import datetime, timedelta

import time_machine


class VirtualClock:
    """Meets the port `Clock`. Whoever sleeps waits until `advance` comes past; the wall clock can be set apart.

    APScheduler asks the machine for the time: with a `traveller` the machine's wall clock goes along.
    """

    def __init__(self, now: datetime, traveller: time_machine.Traveller | None = None) -> None:
        self._now = now
        self._monotonic = 1000.0
        self._traveller = traveller
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._serial = itertools.count()

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._serial), future))
        await future

    def set_wall(self, now: datetime) -> None:
        """Let somebody set the wall clock; the monotonic one does not notice."""
        self._now = now
        self._move()

    def leap(self, span: timedelta) -> None:
        """Let time pass at once, as for a machine that slept: everybody wakes late, and once."""
        self._pass(span.total_seconds())

    def next_due(self) -> float | None:
        """Return in how many seconds the next sleeper wakes."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] - self._monotonic if self._sleepers else None

    def sleepers(self) -> int:
        """Return how many wait for time to pass."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def advance(
        self, span: timedelta, *, quiet: Callable[[], bool], stalled: Callable[[], bool] = lambda: False
    ) -> None:
        """Let time pass from sleeper to sleeper, each time only when everything else has come to rest."""
        until = self._monotonic + span.total_seconds()
        while self._monotonic < until:
            await settle(quiet, stalled=stalled)
            due = self.next_due()
            left = until - self._monotonic
            self._pass(left if due is None else min(max(due, 0.0), left))
        await settle(quiet, stalled=stalled)

    def _pass(self, seconds: float) -> None:
        self._monotonic += seconds
        self._now += timedelta(seconds=seconds)
        self._move()
        while self._sleepers and self._sleepers[0][0] <= self._monotonic:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)

    def _move(self) -> None:
        if self._traveller is not None:
            self._traveller.move_to(self._now)


async def settle(
    quiet: Callable[[], bool], *, stalled: Callable[[], bool] = lambda: False, looks: int = 4, patience: int = 30
) -> None:
    """Wait, in real time, until nothing moves any more.

    That is: `quiet` for some looks in a row, or `stalled` for many: work is under way, and waits for time to pass.
    """
    for _ in range(20):
        await asyncio.sleep(0)  # noqa: TID251 - real time
    if quiet():
        return
    seen = stuck = 0
    while seen < looks and stuck < patience:
        await asyncio.sleep(0.001)  # noqa: TID251 - the same
        seen = seen + 1 if quiet() else 0
        stuck = stuck + 1 if stalled() else 0
