"""The connections of a run: one for each download, and the free ones for those that can use more."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.ops.connections import Connections
from dcsync.tasks import each


async def turns() -> None:
    """Let every task run that can."""
    for _ in range(5):
        await asyncio.sleep(0)  # noqa: TID251 - a turn of the loop, no time


async def test_a_download_waits_for_a_connection_and_gets_it_in_turn() -> None:
    connections, order = Connections(1), []

    async def download(number: int) -> None:
        async with connections.one():
            order.append(number)

    async with asyncio.TaskGroup() as group, connections.one():
        for number in range(3):
            group.create_task(download(number))
        await turns()
        assert order == []

    assert order == [0, 1, 2]


async def test_a_download_alone_may_have_all_of_them() -> None:
    connections = Connections(4)

    async with connections.one():
        assert connections.share == 4
        assert [connections.take_more() for _ in range(4)] == [True, True, True, False]


async def test_downloads_share_evenly_those_that_wait_included() -> None:
    connections = Connections(4)
    async with asyncio.TaskGroup() as group, connections.one():
        while connections.take_more():
            pass

        async def download() -> None:
            async with connections.one():
                assert connections.share == 2

        waiting = group.create_task(download())
        await turns()

        # The one that waits counts already, so the other one gives back what is over its share.
        assert connections.share == 2
        assert not waiting.done()
        connections.give_back()
        # It is for the download that waits, and not free.
        assert not connections.take_more()
        await waiting
        connections.give_back()
        connections.give_back()
    assert Connections(4).share == connections.share


async def test_each_has_one_when_there_are_more_downloads_than_connections() -> None:
    connections = Connections(2)

    async def download(_number: int) -> None:
        async with connections.one():
            assert connections.share == 1
            await turns()

    # Two wait until all five have asked.
    async with connections.one(), connections.one(), asyncio.TaskGroup() as group:
        tasks = [group.create_task(download(number)) for number in range(3)]
        await turns()
        assert connections.share == 1
        for task in tasks:
            task.cancel()


async def test_a_cancelled_wait_loses_no_connection() -> None:
    connections = Connections(1)
    async with asyncio.TaskGroup() as group:

        async def download() -> None:
            async with connections.one():
                pytest.fail("it was cancelled before its turn")

        async with connections.one():
            early, late = group.create_task(download()), group.create_task(download())
            await turns()
            early.cancel()
            await turns()
        # The turn of the second one came, and so does its cancellation.
        late.cancel()
        await turns()

    assert connections.take_more()


@given(seed=st.integers(), limit=st.integers(min_value=1, max_value=5))
async def test_never_more_than_the_limit_and_none_is_lost(seed: int, limit: int) -> None:
    connections, chance = Connections(limit), random.Random(seed)
    used = most = 0

    async def download(_number: int) -> None:
        nonlocal used, most
        async with connections.one():
            used, more = used + 1, 0
            for _ in range(chance.randrange(6)):
                if more + 1 < connections.share and connections.take_more():
                    used, more = used + 1, more + 1
                elif more:
                    connections.give_back()
                    used, more = used - 1, more - 1
                most = max(most, used)
                await asyncio.sleep(0)  # noqa: TID251 - a turn of the loop, no time
            most = max(most, used)
            for _ in range(more):
                connections.give_back()
            used -= more + 1

    await each(range(12), download, at_once=12)

    assert most <= limit
    assert [connections.take_more() for _ in range(limit + 1)] == [True] * limit + [False]
