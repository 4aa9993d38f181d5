"""The other hosts that work on the same mirror, as the verbs see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dcsync.core.model import AccountName, JobId
from dcsync.manifest import SqlManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A job that this host has taken up: the manifest to write of it through, and the number of this attempt.

    The number keeps the staging of one attempt apart from another's; 0 where only one host is.
    """

    manifest: SqlManifest
    number: int = 0


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

    async def hold(self, manifest: SqlManifest, account: AccountName, job: JobId) -> Held:
        """Take a job up; a host that held it before writes no more of it.

        Writes through the manifest that is returned raise `Fenced`, and change nothing, as soon as another host takes
        the job up. Raises `Fenced` when another host has it already.
        """


class SingleHost:
    """No other host."""

    host: int | None = None
    are_at_work = False

    async def come_up(self) -> None:
        """Do nothing: nobody waits."""

    async def hold(self, manifest: SqlManifest, account: AccountName, job: JobId) -> Held:  # noqa: ARG002 - the port's
        """Hold it by the mirror's lock."""
        return Held(manifest=manifest)
