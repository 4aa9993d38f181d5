"""The port through which the operations see the other hosts that work on the same mirror."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from dcsync.core.model import AccountName, JobId
from dcsync.manifest import SqlManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One start of a daemon, or of a command that writes, on a manifest that several hosts share."""

    id: int
    name: str
    pid: int
    version: str
    role: str
    started_at: datetime
    seen_at: datetime
    is_alive: bool
    doing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A job that this host has taken up: the manifest through which to write about it, and the number of this attempt.

    The number separates the staging of one attempt from that of another. It is 0 on a single host.
    """

    manifest: SqlManifest
    number: int = 0


class Peers(Protocol):
    """The other hosts, as an open mirror knows them. A single host has `SingleHost` in its place."""

    @property
    def host(self) -> int | None:
        """The number of this start of this host, or None on a single host."""

    @property
    def are_at_work(self) -> bool:
        """Whether other hosts were using the mirror when this host opened it."""

    async def known(self) -> Sequence[Host]:
        """Return every host that shares the manifest, by name. On a single host the result is empty."""

    async def come_up(self) -> None:
        """Note that this host has opened and recovered the mirror: the next host may open it."""

    async def hold(self, manifest: SqlManifest, account: AccountName, job: JobId) -> Held:
        """Take up a job. A host that held it before can no longer write about it.

        As soon as another host takes the job up, writes through the returned manifest raise `Fenced` and change
        nothing. Raises `Fenced` when another host has it already.
        """


class SingleHost:
    """The null object for a single host."""

    host: int | None = None
    are_at_work = False

    async def known(self) -> Sequence[Host]:
        """Return no host."""
        return ()

    async def come_up(self) -> None:
        """Do nothing, because no other host waits."""

    async def hold(self, manifest: SqlManifest, account: AccountName, job: JobId) -> Held:  # noqa: ARG002 - the port's
        """Hold the job through the mirror's lock, which this process has."""
        return Held(manifest=manifest)
