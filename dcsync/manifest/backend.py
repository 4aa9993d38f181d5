"""The port for the database of a manifest, which lends connections to read and to write with."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection


class Guard(Protocol):
    """Decides in a transaction whether this host may write."""

    async def check(self, connection: AsyncConnection) -> None:
        """Raise `Fenced` if another host has taken over the job."""


class Backend(Protocol):
    """Turns errors of the database into ours. A write is one transaction, and there is one writer at a time."""

    def reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Lend a connection to read with. All reads on it see the same moment."""

    def writing(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Lend a connection for one transaction. It is durable after the block, and an error in the block undoes it."""

    async def check_rows(self) -> None:
        """Compare every row with its digest, while others read and write. Raises `ManifestCorrupt`."""
