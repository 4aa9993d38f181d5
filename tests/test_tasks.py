"""Ways to run work: to its end where necessary, and never more at once than allowed. Also the machine's clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from dcsync.clock import SystemClock
from dcsync.errors import DiskFull, RateLimited
from dcsync.tasks import each, finish, primary_error, running
from tests.rigs.gate import turns

# --- to the end -------------------------------------------------------------------------------------------------------


async def test_finished_work_returns_its_result() -> None:
    async def work() -> int:
        await turns()
        return 7

    assert await finish(work()) == 7


async def test_finished_work_raises_its_error() -> None:
    async def work() -> None:
        await turns()
        raise DiskFull("no room")

    with pytest.raises(DiskFull, match="no room"):
        await finish(work())


async def test_work_is_finished_before_the_cancellation_is_delivered() -> None:
    steps: list[str] = []
    release = asyncio.Event()

    async def rename_and_record() -> None:
        steps.append("renamed")
        await release.wait()
        await turns()
        steps.append("recorded")

    async def owner() -> None:
        try:
            await finish(rename_and_record())
        except asyncio.CancelledError:
            steps.append("cancelled")
            raise
        steps.append("went on")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(owner())
        await turns()
        for _ in range(3):
            task.cancel()
            await turns()
        assert steps == ["renamed"]
        release.set()

    assert steps == ["renamed", "recorded", "cancelled"]
    assert task.cancelled()


async def test_work_that_fails_while_its_owner_is_cancelled_is_a_cancellation() -> None:
    release = asyncio.Event()

    async def work() -> None:
        await release.wait()
        raise DiskFull("nobody hears this")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(finish(work()))
        await turns()
        task.cancel()
        await turns()
        release.set()

    assert task.cancelled()


async def test_work_that_cancels_itself_is_a_cancellation() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await finish(work())


async def test_a_time_out_around_it_comes_after_the_end() -> None:
    done: list[str] = []

    async def work() -> None:
        await turns()
        done.append("work")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await finish(work())

    assert done == ["work"]


async def test_an_error_of_finished_work_has_the_cause_that_it_was_raised_with() -> None:
    async def work() -> None:
        raise DiskFull("no room") from OSError("the cause")

    with pytest.raises(DiskFull) as caught:
        await finish(work())

    assert isinstance(caught.value.__cause__, OSError)


async def test_a_failure_does_not_count_as_a_cancellation_of_the_caller() -> None:
    async def work() -> None:
        raise DiskFull("no room")

    async def owner() -> int:
        with pytest.raises(DiskFull):
            await finish(work())
        await turns()
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(owner())

    assert task.result() == 0


# --- beside -----------------------------------------------------------------------------------------------------------


class Endless:
    """Endless work that records how it was ended."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def __call__(self) -> None:
        self.said.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            self.said.append("ended")


async def test_concurrent_work_runs_as_long_as_its_block() -> None:
    work = Endless()

    async with running(work()):
        await turns()
        assert work.said == ["began"]

    assert work.said == ["began", "ended"]


async def test_the_error_of_a_block_is_raised_as_it_is() -> None:
    work, error = Endless(), DiskFull("no room")

    async def block() -> None:
        async with running(work()):
            await turns()
            raise error from OSError("the cause")

    with pytest.raises(DiskFull) as caught:
        await block()

    assert caught.value is error
    assert isinstance(caught.value.__cause__, OSError)
    assert work.said == ["began", "ended"]


async def test_work_that_fails_ends_its_block() -> None:
    async def work() -> None:
        await turns(1)
        raise DiskFull("no room")

    with pytest.raises(DiskFull):
        async with running(work()):
            await asyncio.Event().wait()

    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_cancelling_a_block_cancels_its_concurrent_work() -> None:
    work = Endless()

    async def owner() -> None:
        async with running(work()):
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(owner())
        await turns()
        task.cancel()

    assert task.cancelled()
    assert work.said == ["began", "ended"]


# --- each -------------------------------------------------------------------------------------------------------------


class Counting:
    """Work that records how many items run at once."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.began: list[int] = []

    async def __call__(self, item: int) -> None:
        self.began.append(item)
        self.running += 1
        self.most = max(self.most, self.running)
        await turns(1 + item % 4)
        self.running -= 1


@pytest.mark.parametrize(("items", "at_once", "most"), [(20, 3, 3), (20, 1, 1), (2, 16, 2), (0, 4, 0)])
async def test_every_item_is_done_in_order_and_no_more_than_allowed_at_once(
    items: int, at_once: int, most: int
) -> None:
    work = Counting()

    await each(range(items), work, at_once=at_once)

    assert work.began == list(range(items))
    assert work.most == most
    assert work.running == 0


async def test_items_are_taken_only_when_there_is_room_for_them() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    async def work(item: int) -> None:
        if item == 5:
            raise DiskFull("no room")
        await turns(1)

    with pytest.raises(DiskFull):
        await each(endless(), work, at_once=2)

    assert taken == list(range(len(taken)))
    assert len(taken) <= 7


async def test_the_first_error_cancels_the_others_and_is_raised() -> None:
    ended: dict[int, str] = {}

    async def work(item: int) -> None:
        try:
            if item == 1:
                await turns()
                raise DiskFull("no room")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended[item] = "cancelled"
            raise

    with pytest.raises(DiskFull, match="no room"):
        await each(range(10), work, at_once=3)

    assert ended == {0: "cancelled", 2: "cancelled"}


async def test_a_bug_takes_precedence_over_an_earlier_dcsync_error() -> None:
    async def work(item: int) -> None:
        if item == 0:
            raise DiskFull("no room")
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        await each(range(2), work, at_once=2)


async def test_cancelling_cancels_all_of_them() -> None:
    work = Counting()

    async def endless(item: int) -> None:
        work.began.append(item)
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(each(range(10), endless, at_once=4))
        await turns()
        task.cancel()

    assert task.cancelled()
    assert work.began == [0, 1, 2, 3]


# --- the primary error ------------------------------------------------------------------------------------------------

FULL, LIMITED, BUG, OTHER_BUG = DiskFull("full"), RateLimited("slow down"), KeyError("bug"), ValueError("other bug")


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ([FULL], FULL),
        ([FULL, LIMITED], FULL),
        ([LIMITED, FULL], LIMITED),
        ([FULL, BUG, LIMITED], BUG),
        ([FULL, BUG, OTHER_BUG], BUG),
        ([FULL, ExceptionGroup("inner", [LIMITED, ExceptionGroup("innermost", [BUG])])], BUG),
        ([ExceptionGroup("inner", [LIMITED]), FULL], LIMITED),
    ],
)
def test_the_primary_error_is_a_bug_or_else_the_first(group: list[Exception], expected: Exception) -> None:
    assert primary_error(BaseExceptionGroup("several", group)) is expected


# --- the clock --------------------------------------------------------------------------------------------------------


def test_the_wall_clock_is_aware_and_in_utc() -> None:
    before = datetime.now(UTC)

    now = SystemClock().now()

    assert now.utcoffset() == timedelta(0)
    assert before <= now <= datetime.now(UTC)


def test_the_monotonic_clock_counts_the_time_that_the_machine_sleeps() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)

    found = SystemClock().monotonic()

    assert before <= found <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_the_monotonic_clock_never_goes_back() -> None:
    clock = SystemClock()
    times = [clock.monotonic() for _ in range(1000)]

    assert times == sorted(times)


async def test_sleeping_lasts_as_long_as_asked_and_can_be_cancelled() -> None:
    clock = SystemClock()
    before = time.monotonic()

    await clock.sleep(0.01)

    assert time.monotonic() - before >= 0.009
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await clock.sleep(3600)
