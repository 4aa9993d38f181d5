"""The door to what the row history knows about window tables. A prune asks here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

from dcsync.core.model import AccountName, JobId, RequestId
from dcsync.ops.context import MirrorContext

#: The job, the name of the history, and the SHA-256 of each window table that is a step.
Recorded: TypeAlias = Collection[tuple[JobId, str, str]]


async def _nothing_recorded(*_: object) -> Recorded:
    return ()


def _nothing_proved(*_: object) -> AbstractAsyncContextManager[frozenset[str]]:
    return nullcontext(frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowTables:
    """What the row history has of the window tables of a data request. Without arguments, they all stay."""

    #: Returns the tables that are steps, as the history says. Nothing is proved.
    recorded: Callable[[MirrorContext, AccountName, RequestId], Awaitable[Recorded]] = _nothing_recorded
    #: Gives the names of the tables of a snapshot that may go, while the block lasts.
    proved: Callable[[MirrorContext, AccountName, RequestId, JobId], AbstractAsyncContextManager[frozenset[str]]] = (
        _nothing_proved
    )


ALL_STAY = WindowTables()
