"""Turns: which pieces of the daemon's work may run at the same time.

A piece of work takes a turn for everything that only one may use: an account, pruning, verifying. Later work
waits, in the order of arrival. The daemon's own work and the orders of commands take their turns in the same place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

from dcsync.core.model import AccountName

#: The nightly prune, or an order to prune.
PRUNE = "prune"
#: The nightly verify, or an order to repair.
VERIFY = "verify"
#: Hooks that run.
HOOKS = "hooks"


def of_account(name: AccountName) -> str:
    """Return the name of an account's turn."""
    return f"account {name}"


@dataclass(slots=True, eq=False)
class Turn:
    """One piece of work that runs or waits. `what` completes "the daemon is …"."""

    names: frozenset[str]
    what: str
    shares: bool = False
    is_running: bool = False

    def excludes(self, other: Turn) -> bool:
        """Say whether the two may not run at the same time."""
        return not self.names.isdisjoint(other.names) and not (self.shares and other.shares)


class Turns:
    """The turns of one session, in the order in which they run."""

    def __init__(self) -> None:
        self._turns: list[Turn] = []
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def take(
        self,
        names: Collection[str],
        what: str,
        *,
        shares: bool = False,
        within: Turn | None = None,
        waits: Callable[[str], object] | None = None,
    ) -> AsyncIterator[Turn]:
        """Hold a turn for `names` during the block, and wait for it first. Turns that share do not exclude each other.

        `waits` is called with the words of each piece of work that this one has to wait for. `within` is the turn that
        the caller has already: nothing that came after that turn goes first. Cancelling is safe.
        """
        turn = Turn(frozenset(names), what, shares)
        self._turns.insert(len(self._turns) if within is None else self._turns.index(within) + 1, turn)
        told = ""
        try:
            while (other := self._before(turn)) is not None:
                if waits is not None and other.what != told:
                    waits(other.what)
                told = other.what
                await self._changed.wait()
            turn.is_running = True
            yield turn
        finally:
            self._turns.remove(turn)
            self._changed.set()
            self._changed = asyncio.Event()

    def _before(self, turn: Turn) -> Turn | None:
        """Return a turn that has to end first."""
        place = self._turns.index(turn)
        others = (other for other in self._turns if other is not turn and other.excludes(turn))
        return next((other for other in others if other.is_running or self._turns.index(other) < place), None)
