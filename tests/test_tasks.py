"""Ways to run work: to its end where necessary, and never more at once than allowed. Also the machine's clock."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dcsync.clock import SystemClock
from dcsync.errors import DiskFull, RateLimited
from dcsync.tasks import DISK_THREADS, DiskThreads, each, finish, primary_error, running
from tests.fakes import FakeClock


async def turns(count: int = 5) -> None:
    """Let the other tasks run."""
    clock = FakeClock()
    for _ in range(count):
        await clock.sleep(0)


class Gate:
    """Work for a thread that ends when the test says so."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.may_end = threading.Event()
        self.ended = False

    def __call__(self) -> str:
        self.began.set()
        assert self.may_end.wait(10)
        self.ended = True
        return "done"

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.began.wait, 10)


# --- disk threads -----------------------------------------------------------------------------------------------------


async def test_work_is_run_in_a_thread_and_its_result_returned() -> None:
    def work(first: int, *, second: int) -> tuple[int, str]:
        return first - second, threading.current_thread().name

    with DiskThreads() as disk:
        result, name = await disk.run(work, 7, second=3)

    assert result == 4
    assert name.startswith("dcsync-disk")


async def test_an_exception_of_the_work_is_raised() -> None:
    def work() -> None:
        raise DiskFull("no room")

    with DiskThreads() as disk, pytest.raises(DiskFull, match="no room"):
        await disk.run(work)


async def test_as_much_runs_at_once_as_there_are_threads_and_no_more() -> None:
    together = threading.Barrier(DISK_THREADS, timeout=10)

    with DiskThreads() as disk:
        async with asyncio.TaskGroup() as group:
            for _ in range(2 * DISK_THREADS):
                group.create_task(disk.run(together.wait))

    names: set[str] = set()
    with DiskThreads(1) as disk:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(disk.run(lambda: names.add(threading.current_thread().name)))
    assert len(names) == 1


async def test_cancelling_waits_until_the_thread_has_finished() -> None:
    gate = Gate()
    with DiskThreads() as disk:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(disk.run(gate))
            await gate.has_begun()
            for _ in range(3):
                task.cancel()
                await turns()
                assert not task.done()
            gate.may_end.set()

        assert task.cancelled()
        assert gate.ended


async def test_an_error_of_cancelled_work_is_retrieved() -> None:
    gate = Gate()

    def work() -> None:
        gate()
        raise DiskFull("nobody hears this")

    with DiskThreads() as disk:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(disk.run(work))
            await gate.has_begun()
            task.cancel()
            gate.may_end.set()

    # The fixture `lost_exceptions` fails this test if the loop reports it.
    assert task.cancelled()
    del task
    gc.collect()


async def test_work_that_was_started_can_be_waited_for_later() -> None:
    gate = Gate()
    with DiskThreads() as disk:
        future = disk.start(gate)
        await gate.has_begun()
        gate.may_end.set()

        assert await disk.wait(future) == "done"


async def test_leaving_waits_for_work_that_has_begun() -> None:
    gate = Gate()
    with DiskThreads(1) as disk:
        future = disk.start(gate)
        await gate.has_begun()
        gate.may_end.set()

    assert gate.ended
    assert await future == "done"


async def test_leaving_drops_work_that_has_not_begun() -> None:
    gate, second = Gate(), Gate()
    disk = DiskThreads(1)
    with disk:
        first = disk.start(gate)
        waiting = disk.start(second)
        await gate.has_begun()
        # Leaving empties the queue first. Only then may the running work end.
        waiting.add_done_callback(lambda _: gate.may_end.set())
        leaving = asyncio.to_thread(disk.__exit__, None, None, None)
        await leaving

    assert await first == "done"
    assert waiting.cancelled()
    assert not second.began.is_set()


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


# --- files ------------------------------------------------------------------------------------------------------------


async def test_a_file_is_read_and_written_in_the_disk_threads(tmp_path: Path) -> None:
    threads: list[str] = []

    def below(name: str, flags: int) -> int:
        threads.append(threading.current_thread().name)
        return os.open(tmp_path / name, flags, 0o600)

    with DiskThreads(1) as disk:
        async with disk.open("file", "wb", opener=below) as file:
            await file.write(b"0123")
            await file.write(b"456789")
        async with disk.open("file", "rb", opener=below) as file:
            await file.seek(2)
            assert await file.read(3) == b"234"
            assert await file.read() == b"56789"
            assert await file.read() == b""

    assert all(name.startswith("dcsync-disk") for name in threads)
    assert len(threads) == 2


async def test_a_file_that_cannot_be_opened_is_the_system_s_error(tmp_path: Path) -> None:
    with DiskThreads(1) as disk, pytest.raises(FileNotFoundError):
        async with disk.open(tmp_path / "missing", "rb"):
            pass


def descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("during", ["open", "read"])
async def test_a_cancelled_read_ends_before_its_file_is_closed_and_shows_while_it_hangs(
    tmp_path: Path, during: str
) -> None:
    """A hung disk: the call in the thread cannot be stopped, and its descriptor must not be reused."""
    gate, before = Gate(), descriptors()
    reading, writing = os.pipe()

    def opener(_name: str, _flags: int) -> int:
        if during == "open":
            gate()
        return reading

    opened = asyncio.Event()

    async def read(disk: DiskThreads) -> None:
        async with disk.open("pipe", "rb", opener=opener) as file:
            opened.set()
            await file.read(1)

    with DiskThreads(1) as disk:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(read(disk))
            await (gate.has_begun() if during == "open" else opened.wait())
            while disk.oldest_s() is None:
                await turns()
            task.cancel()
            await turns()
            was_done = task.done()
            gate.may_end.set()
            os.write(writing, b"x")
        assert not was_done
        assert task.cancelled()
    os.close(writing)

    assert descriptors() <= before
