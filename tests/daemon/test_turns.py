"""Who goes first, and who waits for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import AsyncExitStack

from dcsync.daemon.turns import Turn, Turns


class Work:
    """Pieces of work that hold their turn until they are told to end."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self.turns = Turns()
        self.running: list[str] = []
        self.waited: list[tuple[str, str]] = []
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(self, what: str, names: Collection[str], *, shares: bool = False) -> None:
        self._ends[what] = asyncio.Event()
        self.tasks[what] = self._group.create_task(self._hold(what, names, shares=shares))
        await settle()

    async def end(self, what: str) -> None:
        self._ends[what].set()
        await settle()

    async def _hold(self, what: str, names: Collection[str], *, shares: bool) -> None:
        waits = lambda other: self.waited.append((what, other))  # noqa: E731 - a line
        async with self.turns.take(names, what, shares=shares, waits=waits):
            self.running.append(what)
            await self._ends[what].wait()
            self.running.remove(what)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)  # noqa: TID251 - lets the others run


async def test_what_has_another_name_does_not_wait() -> None:
    async with asyncio.TaskGroup() as group:
        work = Work(group)
        await work.begin("one", ["a"])
        await work.begin("two", ["b"])
        await work.begin("all", ["a", "b"])

        assert work.running == ["one", "two"]
        await work.end("one")
        assert work.running == ["two"]
        await work.end("two")
        assert work.running == ["all"]
        assert work.waited == [("all", "one"), ("all", "two")]
        await work.end("all")


async def test_turns_are_taken_in_order_and_one_that_waits_can_be_cancelled() -> None:
    async with asyncio.TaskGroup() as group:
        work = Work(group)
        for name in ("first", "second", "third"):
            await work.begin(name, ["a"])
        work.tasks["second"].cancel()
        await settle()
        assert work.running == ["first"]
        await work.end("first")
        assert work.running == ["third"]
        await work.end("third")
        assert work.waited == [("second", "first"), ("third", "first")]


async def test_what_shares_waits_for_an_order_that_came_first_only() -> None:
    async with asyncio.TaskGroup() as group:
        work = Work(group)
        await work.begin("one", ["a"], shares=True)
        await work.begin("two", ["a"], shares=True)
        await work.begin("order", ["a"])
        await work.begin("three", ["a"], shares=True)

        assert work.running == ["one", "two"]
        await work.end("one")
        await work.end("two")
        assert work.running == ["order"]
        await work.end("order")
        assert work.running == ["three"]
        await work.end("three")


async def test_a_turn_within_another_waits_for_what_runs_and_not_for_what_waits_for_the_other() -> None:
    """Repairing an account within a verify, while a rebuild waits for that verify."""
    async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        work = Work(group)
        outer: Turn = await stack.enter_async_context(work.turns.take(["verify"], "verifying"))
        await work.begin("polling", ["acme"])
        await work.begin("rebuilding", ["acme", "verify"])
        repaired = asyncio.Event()

        async def repair() -> None:
            async with work.turns.take(["acme"], "repairing", within=outer):
                assert work.running == []
                repaired.set()

        group.create_task(repair())
        await settle()
        assert not repaired.is_set()
        await work.end("polling")
        assert repaired.is_set()
        assert work.running == []
        await stack.aclose()
        await settle()
        assert work.running == ["rebuilding"]
        await work.end("rebuilding")
