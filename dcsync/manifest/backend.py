"""What a manifest stands on: a database that lends connections to read and to write with."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection


class Guard(Protocol):
    """Decides within a transaction whether it may write."""

    async def check(self, connection: AsyncConnection) -> None:
        """Raise `Fenced` when somebody else has taken up what is written of."""


class Backend(Protocol):
    """Turns the database's errors into ours. A write is one transaction, and there is one writer at a time."""

    @property
    def is_shared(self) -> bool:
        """Whether other hosts write to it as well."""

    def reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Lend a connection to read with; all that is read on it is of one moment."""

    def writing(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Lend a connection for one transaction, which is durable after the block and undone by an error in it."""
