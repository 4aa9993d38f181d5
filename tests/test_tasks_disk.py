"""Work in the disk threads: files read and written there, and what a cancellation waits for."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from pathlib import Path
from typing import Literal

import pytest

from dcsync.errors import DiskFull, DiskHung
from dcsync.opening import NotRegular
from dcsync.tasks import DISK_THREADS, DiskThreads, oldest_disk_call_s
from tests.rigs.gate import Gate, turns
from tests.rigs.odd import ODD_KINDS, plant
from tests.rigs.waiting import until

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


async def test_a_question_is_not_waited_for_longer_than_its_limit() -> None:
    gate = Gate()
    with DiskThreads(ask_s=0.2) as disk:
        with pytest.raises(DiskHung, match=r"the disk has not answered for 0 s"):
            await disk.ask(gate)
        with pytest.raises(DiskHung):
            await disk.ask(lambda: "not asked")  # while the first question waits
        oldest, overall = disk.oldest_s(), oldest_disk_call_s()
        assert oldest is not None
        assert overall is not None
        gate.may_end.set()
        await until(lambda: disk.oldest_s() is None)

        assert await disk.ask(divmod, 7, 3) == (2, 1)
    assert oldest_disk_call_s() is None


async def test_an_exception_of_a_question_is_raised() -> None:
    def question() -> None:
        raise DiskFull("no room")

    with DiskThreads() as disk, pytest.raises(DiskFull, match="no room"):
        await disk.ask(question)


async def test_questions_at_the_same_time_are_all_answered() -> None:
    together = threading.Barrier(20, timeout=60)
    with DiskThreads(1) as disk:
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(disk.ask(together.wait))


async def test_as_much_runs_at_once_as_there_are_threads_and_no_more() -> None:
    together = threading.Barrier(DISK_THREADS, timeout=120)

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


@pytest.mark.parametrize("kind", ODD_KINDS)
@pytest.mark.parametrize("mode", ["rb", "wb"])
async def test_an_odd_entry_is_not_opened(tmp_path: Path, kind: str, mode: Literal["rb", "wb"]) -> None:
    """The report page, for example: a FIFO in its place would take a thread for good."""
    plant(kind, tmp_path / "index.html")
    with DiskThreads(1) as disk:
        with pytest.raises(NotRegular):
            async with disk.open(tmp_path / "index.html", mode):
                pass
        assert await disk.run(os.getpid) == os.getpid()


async def test_a_new_file_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with DiskThreads(1) as disk:
            async with disk.open(tmp_path / "new", "wb") as file:
                await file.write(b"body")
    finally:
        os.umask(before)

    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
