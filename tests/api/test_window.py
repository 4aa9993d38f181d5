"""The calls of the last minute: one contract for all windows, and the faults of a shared file."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from dcsync.api.window import CallWindow, FileWindow
from dcsync.cluster.database import Database, parse_database
from dcsync.cluster.manifest import open_shared_manifest
from dcsync.cluster.window import DatabaseWindow
from dcsync.errors import ManifestError
from dcsync.tasks import DiskThreads
from tests.fakes import MemoryWindow


@pytest.fixture
def disk() -> Iterator[DiskThreads]:
    with DiskThreads(2) as threads:
        yield threads


@pytest.fixture(params=["memory", "file", "database"])
async def window(request: pytest.FixtureRequest, tmp_path: Path, disk: DiskThreads) -> AsyncIterator[CallWindow]:
    if request.param == "memory":
        yield MemoryWindow()
    elif request.param == "file":
        yield FileWindow(tmp_path / "window", disk)
    else:
        database = parse_database(request.getfixturevalue("database"))
        async with open_shared_manifest(database), opened(database) as engine:
            yield DatabaseWindow(engine, database, "client", own_clock=True)


@asynccontextmanager
async def opened(database: Database) -> AsyncIterator[AsyncEngine]:
    engine = database.engine()
    try:
        yield engine
    finally:
        await engine.dispose()


async def test_calls_are_granted_up_to_the_limit_and_then_get_a_wait(window: CallWindow) -> None:
    at = [100.0, 110.0, 120.0, 125.0, 125.0]

    waits = [await window.reserve(limit=3, now=now) for now in at]

    # The oldest leaves the window 61 s after it began: a minute, and a second for the network.
    assert waits == [0.0, 0.0, 0.0, 36.0, 36.0]
    assert await window.used(now=125.0) == 3


async def test_a_call_that_had_to_wait_is_not_counted_and_a_slot_is_free_61_s_later(window: CallWindow) -> None:
    for now in (100.0, 130.0):
        await window.reserve(limit=2, now=now)

    assert await window.reserve(limit=2, now=160.9) == pytest.approx(0.1)
    assert await window.reserve(limit=2, now=161.0) == 0.0
    assert await window.used(now=161.0) == 2
    assert await window.used(now=300.0) == 0


async def test_a_pause_holds_and_a_shorter_one_does_not_cut_it_short(window: CallWindow) -> None:
    await window.pause(until=150.0, now=100.0)
    await window.pause(until=120.0, now=100.0)

    assert await window.reserve(limit=5, now=119.0) == 31.0
    assert await window.reserve(limit=5, now=150.0) == 0.0
    assert await window.used(now=150.0) == 1


async def test_two_processes_on_one_file_share_the_rate_limit_and_the_pause(tmp_path: Path, disk: DiskThreads) -> None:
    one, two = FileWindow(tmp_path / "window", disk), FileWindow(tmp_path / "window", disk)

    waits = [await window.reserve(limit=3, now=100.0) for window in (one, two, one, two)]
    await one.pause(until=400.0, now=200.0)

    assert waits == [0.0, 0.0, 0.0, 61.0]
    assert [await window.reserve(limit=3, now=200.0) for window in (one, two)] == [200.0, 200.0]


async def test_a_call_of_another_process_that_looks_a_moment_ahead_counts(tmp_path: Path, disk: DiskThreads) -> None:
    """Each process reads the clock before it holds the lock, so the later time may be written first."""
    first, second = (FileWindow(tmp_path / "window", disk) for _ in range(2))

    await first.reserve(limit=57, now=100.001)
    await second.reserve(limit=57, now=100.0)

    assert await first.used(now=101.0) == 2


async def test_times_of_an_earlier_boot_block_nothing(tmp_path: Path, disk: DiskThreads) -> None:
    window = FileWindow(tmp_path / "window", disk)
    for _ in range(3):
        await window.reserve(limit=3, now=900_000.0)
    await window.pause(until=903_600.0, now=900_000.0)

    assert await window.used(now=50.0) == 0
    assert await window.reserve(limit=3, now=50.0) == 0.0


@pytest.mark.parametrize(
    "damage",
    [b"", b"\x01", b"\xff" * 4097, struct.pack("<3d", float("nan"), float("inf"), float("-inf")), b"\0" * 16384],
    ids=["empty", "one byte", "all ones", "no numbers", "zeros"],
)
async def test_a_damaged_file_blocks_nothing_and_counts_again(tmp_path: Path, disk: DiskThreads, damage: bytes) -> None:
    (tmp_path / "window").write_bytes(damage)
    window = FileWindow(tmp_path / "window", disk)

    waits = [await window.reserve(limit=1, now=1000.0) for _ in range(2)]

    assert waits == [0.0, 61.0]


async def test_the_file_is_private_and_stays_small(tmp_path: Path, disk: DiskThreads) -> None:
    window = FileWindow(tmp_path / "window", disk)

    for call in range(500):
        await window.reserve(limit=10, now=1000.0 + call * 7)

    found = (tmp_path / "window").stat()
    await window.reserve(limit=10, now=10_000.0)

    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_size <= 8 * 11
    assert (tmp_path / "window").stat().st_size == 8 * 2


async def test_reading_the_used_calls_creates_no_file(tmp_path: Path, disk: DiskThreads) -> None:
    assert await FileWindow(tmp_path / "window", disk).used(now=100.0) == 0
    assert not (tmp_path / "window").exists()


async def test_a_fifo_in_place_of_the_file_holds_nobody_up(tmp_path: Path, disk: DiskThreads) -> None:
    os.mkfifo(tmp_path / "window")
    window = FileWindow(tmp_path / "window", disk)

    async with asyncio.timeout(60):
        with pytest.raises(ManifestError, match=r"cannot be opened: .*FIFO"):
            await window.reserve(limit=1, now=0.0)
        with pytest.raises(ManifestError, match=r"cannot be opened: .*FIFO"):
            await window.used(now=0.0)


async def test_a_symlink_in_place_of_the_file_is_not_followed(tmp_path: Path, disk: DiskThreads) -> None:
    (tmp_path / "elsewhere").write_bytes(b"precious")
    (tmp_path / "window").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ManifestError, match="cannot be opened"):
        await FileWindow(tmp_path / "window", disk).reserve(limit=1, now=100.0)

    assert (tmp_path / "elsewhere").read_bytes() == b"precious"


@pytest.mark.parametrize("call", ["pwrite", "ftruncate", "pread"])
async def test_a_call_that_a_broken_disk_cannot_count_is_not_made(
    tmp_path: Path, disk: DiskThreads, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    window = FileWindow(tmp_path / "window", disk)
    await window.reserve(limit=5, now=100.0)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        with pytest.raises(ManifestError, match=r"the rate limit file .* cannot be used: Read-only file system"):
            await window.reserve(limit=5, now=101.0)

    # The lock is released.
    assert await window.reserve(limit=5, now=102.0) == 0.0


# --- several hosts ----------------------------------------------------------------------------------------------------


def is_open(path: Path) -> bool:
    return any(descriptor.resolve() == path for descriptor in Path("/proc/self/fd").iterdir())


async def test_a_call_that_cannot_be_counted_without_locks_is_not_made(
    tmp_path: Path, disk: DiskThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    window = FileWindow(tmp_path / "window", disk)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ManifestError, match=r"the rate limit file .* cannot be locked: No locks available"):
        await window.reserve(limit=60, now=1.0)
    monkeypatch.undo()

    # The file is closed.
    assert not is_open(tmp_path / "window")
    assert await window.reserve(limit=60, now=1.0) == 0.0


async def test_concurrent_hosts_share_one_rate_limit_and_wait_the_same(database: str) -> None:
    """Only the database's clock counts, whatever the hosts' clocks say."""
    place = parse_database(database)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_shared_manifest(place))
        engines = [await stack.enter_async_context(opened(place)) for _ in range(3)]
        hosts = [DatabaseWindow(engine, place, "client") for engine in engines]

        async with asyncio.TaskGroup() as group:
            waits = [
                group.create_task(host.reserve(limit=10, now=1e6 * number)) for number in range(10) for host in hosts
            ]

        assert sorted(wait.result() <= 0 for wait in waits) == [False] * 20 + [True] * 10
        assert all(0 <= wait.result() <= 61 for wait in waits)
        assert [await host.used(now=0.0) for host in hosts] == [10, 10, 10]


async def test_a_pause_holds_for_all_hosts_and_only_for_its_client_id(database: str) -> None:
    place = parse_database(database)
    async with open_shared_manifest(place), opened(place) as engine:
        one, other = (DatabaseWindow(engine, place, "client") for _ in range(2))

        await one.pause(until=130.0, now=100.0)

        assert 28 < await other.reserve(limit=10, now=5.0) <= 30
        assert await DatabaseWindow(engine, place, "another").reserve(limit=10, now=5.0) == 0.0


async def test_calls_from_a_database_clock_that_was_set_back_still_count(database: str) -> None:
    place = parse_database(database)
    async with open_shared_manifest(place) as manifest, opened(place) as engine:
        window = DatabaseWindow(engine, place, "client")
        await window.reserve(limit=1, now=0.0)
        ahead = round((time.time() + 3000) * 1e6)
        async with manifest.writing() as connection:
            await connection.execute(sa.text(f"UPDATE quota SET calls = '[{ahead}]'"))  # noqa: S608 - a number

        assert 60 < await window.reserve(limit=1, now=0.0) <= 61
