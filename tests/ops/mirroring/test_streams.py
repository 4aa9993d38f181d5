"""Bytes on their way from the network to the disk."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcsync.errors import DiskFull
from dcsync.ops.mirroring.streams import WriteBehind
from dcsync.tasks import DiskThreads

MIB = 1 << 20
HANG_S = 60.0


@pytest.fixture
def disk() -> Iterator[DiskThreads]:
    with DiskThreads(2) as made:
        yield made


def body_of(size: int) -> bytes:
    return hashlib.shake_128(size.to_bytes(8)).digest(size)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 3 * MIB // 2), max_size=6), st.booleans())
def test_every_byte_is_written_once_and_in_order(sizes: list[int], is_flushed: bool) -> None:
    async def write_all(disk: DiskThreads) -> tuple[list[bytes], bytes]:
        written: list[bytes] = []
        behind = WriteBehind(disk, lambda data: written.append(bytes(data)))
        for start, size in zip(starts, sizes, strict=True):
            await behind.add(body[start : start + size])
        if is_flushed:
            await behind.flush()
        await behind.drain()
        return written, bytes(behind.rest)

    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    body = body_of(sum(sizes))
    with DiskThreads(1) as disk:
        written, rest = asyncio.run(write_all(disk))

    assert b"".join([*written, rest]) == body
    assert all(len(data) >= MIB for data in written[:-1])
    assert len(rest) < MIB
    assert not (is_flushed and rest)


async def test_a_buffer_does_not_change_while_it_is_written(disk: DiskThreads) -> None:
    """Two buffers are used in turn."""
    goes_on, before, after, buffers = threading.Event(), [], [], []

    def write(data: bytearray) -> None:
        before.append(bytes(data))
        assert goes_on.wait(HANG_S)
        after.append(bytes(data))
        buffers.append(data)

    body = body_of(6 * MIB)
    behind = WriteBehind(disk, write)
    await behind.add(body[:MIB])
    for end in range(2 * MIB, 7 * MIB, MIB):
        # All but the last byte of the next MiB arrives while this one is being written.
        await behind.add(body[end - MIB : end - 1])
        goes_on.set()
        await behind.drain()
        goes_on.clear()
        await behind.add(body[end - 1 : end])
    goes_on.set()
    await behind.drain()

    assert b"".join(before) == body
    assert before == after
    assert len({id(data) for data in buffers}) == 2


async def test_the_error_of_a_write_is_raised_by_the_next_full_buffer(disk: DiskThreads) -> None:
    def refuse(_: Any) -> None:
        message = "no space"
        raise DiskFull(message)

    behind = WriteBehind(disk, refuse)
    await behind.add(bytes(MIB))
    await behind.add(bytes(MIB - 1))

    with pytest.raises(DiskFull):
        await behind.add(bytes(1))
    await behind.drain()


async def test_each_result_is_given_to_the_caller_in_order(disk: DiskThreads) -> None:
    results: list[int] = []
    behind = WriteBehind(disk, len, results.append)

    for size in (10, MIB, MIB, 20):
        await behind.add(bytes(size))
    await behind.flush()

    assert results == [MIB, MIB, 30]
