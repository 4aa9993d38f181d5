"""The hosts that share a manifest: who they are, and that this one is among them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from dcsync import __version__
from dcsync.app.state_dir import HOST_NAME, host_name, read_text, write_text
from dcsync.core.model import AccountName, JobId
from dcsync.errors import DAEMON_ROLE, ManifestError, MirrorLocked
from dcsync.manifest import SqlManifest
from dcsync.manifest.claims import Ticket, take
from dcsync.manifest.hosts import Host, Hosts
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.peers import Held
from dcsync.tasks import DiskThreads


async def known_hosts(manifest: SqlManifest) -> Sequence[Host]:
    """Return the hosts that share the manifest; none where it is a file."""
    return await Hosts(manifest).known() if manifest.is_shared else ()


def at_work(others: Sequence[Host]) -> MirrorLocked:
    """Return the error that names the daemons whose work a command would disturb."""
    names = ", ".join(sorted({host.name for host in others}))
    message = f"daemons on the same manifest are at work: {names}"
    hint = "they do what is due by themselves; dcsync status shows them. For this command, stop them"
    return MirrorLocked(message, pid=None, role=DAEMON_ROLE, hint=hint)


class SeveralHosts:
    """Meets the port `Peers`: this host and the others on a shared manifest.

    With the queue's `ticket` a job is only held while that is good.
    """

    def __init__(
        self,
        manifest: SqlManifest,
        number: int,
        *,
        are_at_work: bool,
        turn: AsyncExitStack,
        ticket: Ticket | None = None,
    ) -> None:
        self.host: int | None = number
        self.are_at_work = are_at_work
        self.number = number
        self._manifest = manifest
        self._turn = turn
        self._ticket = ticket

    def with_ticket(self, ticket: Ticket) -> SeveralHosts:
        """Return the same for one task of the queue."""
        return SeveralHosts(self._manifest, self.number, are_at_work=self.are_at_work, turn=self._turn, ticket=ticket)

    async def come_up(self) -> None:
        """Let the next host come up. Recovery may have taken long: the next one must not think that nobody is here."""
        await Hosts(self._manifest).beat(self.number, "")
        await self._turn.aclose()

    async def hold(self, manifest: SqlManifest, account: AccountName, job: JobId) -> Held:
        """Raise the job's fencing number."""
        async with manifest.writing() as connection:
            claim = await take(connection, account, job, self._ticket)
        return Held(manifest=manifest.guarded(claim), number=claim.number)


async def register(
    stack: AsyncExitStack, manifest: SqlManifest, root: MirrorRoot, state: Path, role: str, disk: DiskThreads
) -> int:
    """Register this start among the hosts and return its number; the end of `stack` removes it again."""
    identifier = await disk.run(_host_id, state)
    hosts, name = Hosts(manifest), host_name()
    number = await hosts.arrive(state=identifier, name=name, pid=os.getpid(), version=__version__, role=role)

    async def leave() -> None:
        # When the database is away, those who look see soon enough that nothing is heard.
        with suppress(ManifestError):
            await hosts.leave(number)

    stack.push_async_callback(leave)
    # As in the staging: %7E is in no name that comes from elsewhere.
    root.mark = f"%7Eh{number}"
    return number


def _host_id(state: Path) -> str:
    """Return the id of the state folder, which is locked: whoever had it before is gone."""
    kept = read_text(state / HOST_NAME)
    if kept is None:
        kept = str(uuid.uuid4())
        write_text(state, HOST_NAME, kept)
    return kept
