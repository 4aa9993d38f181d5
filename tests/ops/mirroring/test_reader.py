"""A range through several connections: every byte once and in order, whatever the connections do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.errors import (
    ContentChanged,
    DcsyncError,
    RangeIgnored,
    StorageFault,
    StorageRefused,
    StorageUnreachable,
    TooSlow,
)
from dcsync.ops.connections import AHEAD_BYTES, Connections
from dcsync.ops.mirroring import reader
from dcsync.ops.mirroring.reader import RangeReader
from tests.fakes import FakeClock

MIB = 1 << 20


@dataclass(slots=True)
class Range:
    """A request: its bytes, and how many were sent when it ended."""

    start: int
    stop: int
    sent: int = 0


@dataclass(slots=True, kw_only=True)
class Remote:
    """A remote file, sent in pieces. Each piece takes 50 ms of the clock divided by the number of connections."""

    body: bytes
    piece: int = 256 << 10
    #: The turns of the loop until an answer comes, and until the next piece of it.
    answer_turns: int = 1
    clock: FakeClock = field(default_factory=FakeClock)
    is_pinned: bool = True
    #: Called before each answer and each piece, with the request and its number from 0. May wait or raise.
    before: Callable[[Range, int], DcsyncError | None] = lambda _asked, _number: None
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    asked: list[Range] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0

    @asynccontextmanager
    async def range(self, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        async with self.answer(start, stop) as pieces:
            yield pieces

    @asynccontextmanager
    async def answer(self, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        number = len(self.asked)
        asked = Range(start, stop)
        self.asked.append(asked)
        self.open_now += 1
        try:
            for _ in range(self.answer_turns):
                await self._turns()
            self._check(asked, number)
            self.most_open = max(self.most_open, self.open_now)
            yield self._pieces(asked, number)
        finally:
            self.open_now -= 1

    async def _pieces(self, asked: Range, number: int) -> AsyncIterator[bytes]:
        while asked.start + asked.sent < asked.stop:
            await self._turns()
            self.clock.advance(0.05 / max(1, self.open_now))
            self._check(asked, number)
            begin = asked.start + asked.sent
            piece = self.body[begin : min(asked.stop, begin + self.piece)]
            asked.sent += len(piece)
            yield piece

    def _check(self, asked: Range, number: int) -> None:
        error = self.before(asked, number)
        if error is not None:
            raise error

    async def _turns(self) -> None:
        for _ in range(self.chance.randrange(1, 4)):
            await asyncio.sleep(0)  # noqa: TID251 - a turn of the loop, no time

    async def read(self, connections: Connections, *, start: int = 0, into: bytearray | None = None) -> bytes:
        """Read the file from `start` as a download does."""
        into = bytearray() if into is None else into
        async with connections.one(), AsyncExitStack() as own:
            first = await own.enter_async_context(self.answer(start, len(self.body)))
            wide = RangeReader(self, start, len(self.body), own=own, connections=connections, clock=self.clock)
            async with wide.pieces(first) as pieces:
                async for piece in pieces:
                    into += piece
        return bytes(into)


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def assert_all_returned(connections: Connections, limit: int) -> None:
    assert connections.ahead == AHEAD_BYTES
    assert [connections.take_more() for _ in range(limit + 1)] == [True] * limit + [False]


async def test_a_large_file_comes_through_all_connections_and_each_byte_once() -> None:
    remote, connections = Remote(body=content(100 * MIB)), Connections(8)

    assert await remote.read(connections) == remote.body

    assert remote.most_open == 8
    # What the first connection had on the line when it was closed is all that came twice.
    assert sum(asked.sent for asked in remote.asked) <= len(remote.body) + MIB
    assert_all_returned(connections, 8)


async def test_a_small_file_is_one_request() -> None:
    remote, connections = Remote(body=content(2 * MIB)), Connections(8)

    assert await remote.read(connections) == remote.body

    assert len(remote.asked) == 1


async def test_without_a_strong_etag_it_is_one_request() -> None:
    remote, connections = Remote(body=content(40 * MIB), is_pinned=False), Connections(8)

    assert await remote.read(connections) == remote.body

    assert len(remote.asked) == 1


async def test_with_one_connection_it_is_one_request() -> None:
    remote, connections = Remote(body=content(40 * MIB)), Connections(1)

    assert await remote.read(connections) == remote.body

    assert len(remote.asked) == 1


async def test_two_files_have_as_many_connections_each() -> None:
    connections, clock = Connections(8), FakeClock()
    remotes = [Remote(body=content(60 * MIB, seed), clock=clock) for seed in (1, 2)]

    async with asyncio.TaskGroup() as group:
        reads = [group.create_task(remote.read(connections)) for remote in remotes]

    assert [read.result() for read in reads] == [remote.body for remote in remotes]
    # The one that is done first leaves its connections to the other.
    assert min(remote.most_open for remote in remotes) == 4
    assert_all_returned(connections, 8)


async def test_sixteen_files_have_one_connection_each() -> None:
    connections, clock = Connections(16), FakeClock()
    remotes = [Remote(body=content(8 * MIB, seed), clock=clock) for seed in range(16)]

    async with asyncio.TaskGroup() as group:
        for remote in remotes:
            group.create_task(remote.read(connections))

    assert [len(remote.asked) for remote in remotes] == [1] * 16


@pytest.mark.parametrize("error", [RangeIgnored("the whole file"), ContentChanged("another ETag")], ids=repr)
async def test_the_first_connection_goes_on_until_another_one_is_accepted(error: DcsyncError) -> None:
    """A storage that ignores ranges, or whose ETag is another one each time, costs some requests."""
    remote, connections = Remote(body=content(60 * MIB)), Connections(8)
    remote.before = lambda _asked, number: error if number else None

    assert await remote.read(connections) == remote.body

    assert remote.asked[0].sent == len(remote.body)
    # One for each connection.
    assert len(remote.asked) <= 8
    assert_all_returned(connections, 8)


async def test_a_storage_that_refuses_more_connections_still_delivers() -> None:
    remote, connections = Remote(body=content(100 * MIB)), Connections(16)

    def before(asked: Range, _number: int) -> DcsyncError | None:
        return StorageFault("slow down") if not asked.sent and remote.open_now > 4 else None

    remote.before = before

    assert await remote.read(connections) == remote.body

    assert remote.most_open <= 4
    assert_all_returned(connections, 16)


@pytest.mark.parametrize("error", [StorageUnreachable("cut"), StorageRefused("expired")])
async def test_a_part_that_breaks_once_is_requested_again_from_there(error: DcsyncError) -> None:
    remote, connections = Remote(body=content(60 * MIB)), Connections(4)
    broken: list[Range] = []

    def before(asked: Range, number: int) -> DcsyncError | None:
        if number and asked.sent and len(broken) < 3 and asked not in broken:
            broken.append(asked)
            return error
        return None

    remote.before = before

    assert await remote.read(connections) == remote.body

    assert len(broken) == 3
    assert all(any(asked.start == cut.start + cut.sent for asked in remote.asked) for cut in broken)
    assert sum(asked.sent for asked in remote.asked) <= len(remote.body) + MIB
    assert_all_returned(connections, 4)


@pytest.mark.parametrize(
    "error", [StorageUnreachable("cut"), StorageRefused("expired"), StorageFault("500"), TooSlow("slow")], ids=repr
)
async def test_a_part_that_never_comes_ends_the_download_there(error: DcsyncError) -> None:
    """Everything before it was delivered, so that the next attempt begins there."""
    remote, connections = Remote(body=content(60 * MIB)), Connections(4)
    remote.before = lambda asked, number: error if number and asked.start + asked.sent >= 30 * MIB else None
    received = bytearray()

    with pytest.raises(type(error)):
        await remote.read(connections, into=received)

    assert 30 * MIB <= len(received) < 31 * MIB
    assert received == remote.body[: len(received)]
    assert remote.open_now == 0
    assert_all_returned(connections, 4)


async def test_a_file_that_changed_ends_the_download_there() -> None:
    remote, connections = Remote(body=content(60 * MIB)), Connections(4)
    remote.before = lambda asked, number: ContentChanged("412") if number and asked.start > 20 * MIB else None
    received = bytearray()

    with pytest.raises(ContentChanged):
        await remote.read(connections, into=received)

    assert 20 * MIB < len(received) <= 24 * MIB
    assert received == remote.body[: len(received)]
    assert remote.open_now == 0
    assert_all_returned(connections, 4)


async def test_a_part_that_ends_early_is_not_taken_for_whole() -> None:
    remote, connections = Remote(body=content(60 * MIB)), Connections(4)
    short: list[Range] = []

    def before(asked: Range, number: int) -> DcsyncError | None:
        if number and asked.sent and not short:
            short.append(asked)
            asked.stop = asked.start + asked.sent
        return None

    remote.before = before

    assert await remote.read(connections) == remote.body

    assert short


async def test_a_first_answer_that_ends_early_ends_the_iterator() -> None:
    remote, connections = Remote(body=content(60 * MIB)), Connections(1)

    def before(asked: Range, _number: int) -> DcsyncError | None:
        asked.stop = 10 * MIB
        return None

    remote.before = before

    assert await remote.read(connections) == remote.body[: 10 * MIB]


async def test_a_body_that_is_too_long_is_delivered_as_it_is() -> None:
    """The consumer compares it with the size that is listed."""
    remote, connections = Remote(body=content(30 * MIB)), Connections(1)
    async with connections.one(), AsyncExitStack() as own:
        first = await own.enter_async_context(remote.answer(0, len(remote.body)))
        wide = RangeReader(remote, 0, 20 * MIB, own=own, connections=connections, clock=remote.clock)
        async with wide.pieces(first) as pieces:
            received = b"".join([piece async for piece in pieces])

    assert received == remote.body


async def test_a_consumer_that_stops_leaves_nothing_open() -> None:
    remote, connections = Remote(body=content(60 * MIB)), Connections(8)

    class Stop(Exception):
        pass

    async def read() -> None:
        async with connections.one(), AsyncExitStack() as own:
            first = await own.enter_async_context(remote.answer(0, len(remote.body)))
            wide = RangeReader(remote, 0, len(remote.body), own=own, connections=connections, clock=remote.clock)
            received = 0
            async with wide.pieces(first) as pieces:
                async for piece in pieces:
                    received += len(piece)
                    if received > 30 * MIB:
                        raise Stop

    with pytest.raises(Stop):
        await read()

    assert remote.most_open == 8
    assert remote.open_now == 0
    assert_all_returned(connections, 8)


async def test_a_cancelled_download_leaves_nothing_open() -> None:
    remote, connections = Remote(body=content(60 * MIB)), Connections(8)
    received = bytearray()

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(remote.read(connections, into=received))
        while len(received) < 30 * MIB:  # noqa: ASYNC110 - in the middle of the download, whenever that is
            await asyncio.sleep(0)  # noqa: TID251 - a turn of the loop, no time
        reading.cancel()

    assert remote.open_now == 0
    assert_all_returned(connections, 8)


async def test_a_bug_in_a_part_is_raised_as_it_is() -> None:
    remote, connections = Remote(body=content(60 * MIB)), Connections(4)

    def before(_asked: Range, number: int) -> DcsyncError | None:
        if number:
            message = "a bug"
            raise ZeroDivisionError(message)
        return None

    remote.before = before

    with pytest.raises(ZeroDivisionError):
        await remote.read(connections)

    assert_all_returned(connections, 4)


async def test_the_bytes_ahead_stay_within_the_memory() -> None:
    """The consumer is slow, so the connections wait for it."""
    remote, connections, least = Remote(body=content(200 * MIB)), Connections(16), AHEAD_BYTES
    async with connections.one(), AsyncExitStack() as own:
        first = await own.enter_async_context(remote.answer(0, len(remote.body)))
        wide = RangeReader(remote, 0, len(remote.body), own=own, connections=connections, clock=remote.clock)
        received = 0
        async with wide.pieces(first) as pieces:
            async for piece in pieces:
                received += len(piece)
                least = min(least, connections.ahead)
                for _ in range(20):
                    await asyncio.sleep(0)  # noqa: TID251 - a turn of the loop, no time

    assert received == len(remote.body)
    assert least >= 0
    assert_all_returned(connections, 16)


async def test_a_part_may_be_accepted_at_any_moment() -> None:
    """Also while the first connection waits for the byte at which the part begins."""
    for answer_turns in range(1, 60):
        for seed in range(3):
            remote = Remote(body=content(3000), piece=64, answer_turns=answer_turns, chance=random.Random(seed))
            with mock.patch.multiple(reader, LEAST_PART=64, MOST_PART=256):
                assert await remote.read(Connections(4)) == remote.body


@given(
    seed=st.integers(min_value=0),
    limit=st.integers(min_value=1, max_value=9),
    piece=st.sampled_from([1, 7, 64, 100]),
    likely=st.sampled_from([0.0, 0.001, 0.01, 0.05]),
)
async def test_whatever_breaks_what_is_delivered_is_the_beginning_of_the_file(
    seed: int, limit: int, piece: int, likely: float
) -> None:
    """With parts of 64 to 256 bytes, so that they begin and end everywhere."""
    chance = random.Random(seed)
    body = chance.randbytes(chance.randrange(1000, 8000))
    errors: list[Callable[[str], DcsyncError]] = [
        StorageUnreachable, StorageRefused, StorageFault, TooSlow, RangeIgnored, ContentChanged,
    ]  # fmt: skip
    remote, connections = Remote(body=body, piece=piece, chance=chance), Connections(limit)
    remote.before = lambda _asked, _number: chance.choice(errors)("broken") if chance.random() < likely else None
    received = bytearray()

    with mock.patch.multiple(reader, LEAST_PART=64, MOST_PART=256):
        for _ in range(1000):
            try:
                await remote.read(connections, start=len(received), into=received)
            except DcsyncError:
                continue
            finally:
                assert remote.open_now == 0
                assert body.startswith(received)
                assert connections.ahead == AHEAD_BYTES
            break

    assert received == body
    assert_all_returned(connections, limit)
