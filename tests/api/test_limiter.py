"""The rate limiter: the limit in every sliding minute, and a pause for all processes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dcsync.api.limiter import Limiter
from dcsync.api.window import FileWindow
from dcsync.core.waits import WaitReason
from dcsync.errors import RateLimited
from dcsync.tasks import DiskThreads
from tests.fakes import FakeClock, MemoryWindow


class StuckClock(FakeClock):
    """A clock whose sleepers never wake up."""

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.Event().wait()


def make_limiter(clock: FakeClock, requests_per_minute: int = 60) -> Limiter:
    return Limiter(requests_per_minute=requests_per_minute, clock=clock, window=MemoryWindow())


def most_in_a_minute(times: list[float]) -> int:
    return max(sum(start <= time <= start + 60.0 for time in times) for start in times)


@pytest.mark.parametrize(("allowed", "used"), [(60, 57), (20, 19), (19, 19), (1, 1)])
async def test_the_first_calls_go_out_at_once_and_a_twentieth_stays_in_reserve(allowed: int, used: int) -> None:
    clock = FakeClock()
    limiter = make_limiter(clock, allowed)

    for _ in range(used):
        await limiter.acquire()
    left, slept = await limiter.left(), list(clock.slept)
    await limiter.acquire()

    assert (left, slept, clock.slept) == (0, [], [61.0])
    assert limiter.calls == used + 1


@pytest.mark.parametrize("seed", range(5))
async def test_no_sliding_minute_ever_holds_more_than_the_limit(seed: int) -> None:
    clock, chance = FakeClock(), random.Random(seed)
    limiter = make_limiter(clock)
    times = []

    for _ in range(600):
        clock.advance(chance.choice([0.0, 0.0, 0.01, 0.3, 2.5]))
        await limiter.acquire()
        times.append(clock.monotonic())

    assert most_in_a_minute(times) == 57
    # The limit is also used in full: 600 calls need ten windows, not twelve.
    assert times[-1] - times[0] < 61 * 11


async def test_two_processes_on_one_file_share_one_rate_limit(tmp_path: Path) -> None:
    clock = FakeClock()
    times: list[float] = []

    with DiskThreads(4) as disk:
        limiters = [
            Limiter(requests_per_minute=60, clock=clock, window=FileWindow(tmp_path / "window", disk)) for _ in range(2)
        ]
        for call in range(160):
            await limiters[call % 3 % 2].acquire()
            times.append(clock.monotonic())
            clock.advance(0.2)

    assert [limiter.calls for limiter in limiters] == [107, 53]
    assert most_in_a_minute(times) == 57


async def test_all_processes_on_the_file_wait_for_a_pause(tmp_path: Path) -> None:
    clock = FakeClock()
    with DiskThreads(2) as disk:
        one, two = (
            Limiter(requests_per_minute=60, clock=clock, window=FileWindow(tmp_path / "window", disk)) for _ in range(2)
        )

        await one.pause(600.0)
        await two.acquire()
        await one.acquire()

    assert clock.slept == [600.0]


async def test_a_pause_of_more_than_ten_minutes_ends_the_call_at_once() -> None:
    clock = FakeClock()
    limiter = make_limiter(clock)
    await limiter.pause(601.0)

    with pytest.raises(RateLimited, match="pause, for another 601 s") as caught:
        await limiter.acquire()
    clock.advance(1.0)
    await limiter.acquire()

    assert (caught.value.retry_after_s, caught.value.status) == (601.0, 429)
    assert clock.slept == [600.0]
    assert limiter.calls == 1


async def test_calls_go_out_in_the_order_of_the_requests() -> None:
    clock = FakeClock()
    limiter = make_limiter(clock, 3)
    order: list[int] = []

    async def call(number: int) -> None:
        await limiter.acquire()
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(call(number))

    assert order == list(range(10))
    assert clock.slept == [61.0] * 3


async def test_a_cancelled_wait_counts_nothing_and_lets_the_next_one_in() -> None:
    clock = StuckClock()
    limiter = make_limiter(clock, 2)
    await limiter.acquire()
    await limiter.acquire()

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(limiter.acquire())
        behind = group.create_task(limiter.acquire())
        while not clock.slept:  # noqa: ASYNC110 - until the first one waits
            await asyncio.sleep(0)  # noqa: TID251
        waiting.cancel()
        clock.advance(61.0)

    assert waiting.cancelled()
    assert behind.done()
    assert limiter.calls == 3
    assert await limiter.left() == 1


class SleepyWindow(MemoryWindow):
    """A window in which the machine is suspended after a call was counted."""

    def __init__(self, clock: FakeClock, *naps: float) -> None:
        super().__init__()
        self._clock = clock
        self._naps = list(naps)

    async def reserve(self, *, limit: int, now: float) -> float:
        wait = await super().reserve(limit=limit, now=now)
        self._clock.advance(self._naps.pop(0) if self._naps else 0.0)
        return wait


async def test_a_call_that_was_counted_before_a_sleep_is_counted_again_and_not_made_late() -> None:
    """A call after a suspension would fall into a minute in which other hosts use the whole rate limit."""
    clock = FakeClock()
    window = SleepyWindow(clock, 0.5, 40.0)
    limiter = Limiter(requests_per_minute=60, clock=clock, window=window)

    await limiter.acquire()
    await limiter.acquire()

    assert limiter.calls == 3
    assert await window.used(now=clock.monotonic()) == 3


async def test_a_slow_window_does_not_waste_the_rate_limit() -> None:
    clock = FakeClock()
    limiter = Limiter(requests_per_minute=60, clock=clock, window=SleepyWindow(clock, *[2.0] * 10))

    await limiter.acquire()

    assert limiter.calls == 4


def told_by(told: list[tuple[str, WaitReason, float]]) -> Callable[[str, WaitReason, float], None]:
    return lambda whose, reason, seconds: told.append((whose, reason, seconds))


async def test_a_call_that_waits_says_how_long_and_so_do_those_behind_it() -> None:
    """A command that the daemon carries out may wait behind the daemon's own poll."""
    clock, told = StuckClock(), list[tuple[str, WaitReason, float]]()
    limiter = make_limiter(clock, 2)
    for _ in range(2):
        await limiter.acquire(partial(told_by(told), "first"))
    await limiter.pause(42.0)

    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(limiter.acquire(partial(told_by(told), "poll")))]
        while not clock.slept:  # noqa: ASYNC110 - until the first one waits
            await asyncio.sleep(0)  # noqa: TID251
        clock.advance(10.0)
        waiting.append(group.create_task(limiter.acquire(partial(told_by(told), "command"))))
        while len(told) < 2:  # noqa: ASYNC110 - until the second one waits
            await asyncio.sleep(0)  # noqa: TID251
        for task in waiting:
            task.cancel()

    assert told == [("poll", WaitReason.RATE_LIMIT, 61.0), ("command", WaitReason.RATE_LIMIT, 51.0)]
