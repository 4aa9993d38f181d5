"""The other hosts that work on the same mirror, as the verbs see them."""

from __future__ import annotations

from typing import Protocol


class Peers(Protocol):
    """What an open mirror knows of other hosts. `SingleHost` where there are none."""

    @property
    def host(self) -> int | None:
        """The number of this start of this host, where several share the manifest."""

    @property
    def are_at_work(self) -> bool:
        """Whether others were at work on the mirror when this host opened it."""

    async def come_up(self) -> None:
        """Say that this host has opened and recovered the mirror: the next one may."""


class SingleHost:
    """No other host."""

    host: int | None = None
    are_at_work = False

    async def come_up(self) -> None:
        """Do nothing: nobody waits."""
