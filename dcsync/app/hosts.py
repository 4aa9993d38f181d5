"""The hosts that share a manifest: who they are, and that this one is among them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from dcsync import __version__
from dcsync.app.state_dir import HOST_NAME, host_name, read_text, write_text
from dcsync.errors import ManifestError, MirrorLocked
from dcsync.manifest import SqlManifest
from dcsync.manifest.hosts import Host, Hosts
from dcsync.mirror.root import MirrorRoot
from dcsync.tasks import DiskThreads

#: The role under which several hosts work side by side.
DAEMON = "run"


async def known_hosts(manifest: SqlManifest) -> Sequence[Host]:
    """Return the hosts that share the manifest; none where it is a file."""
    return await Hosts(manifest).known() if manifest.is_shared else ()


def at_work(others: Sequence[Host]) -> MirrorLocked:
    """Return the error that names the daemons whose work a command would disturb."""
    names = ", ".join(sorted({host.name for host in others}))
    message = f"daemons on the same manifest are at work: {names}"
    hint = "they do what is due by themselves; dcsync status shows them. For this command, stop them"
    return MirrorLocked(message, pid=None, role=DAEMON, hint=hint)


class SeveralHosts:
    """Meets the port `Peers`: this host and the others on a shared manifest."""

    def __init__(self, manifest: SqlManifest, number: int, *, are_at_work: bool, turn: AsyncExitStack) -> None:
        self.host: int | None = number
        self.are_at_work = are_at_work
        self._number = number
        self._hosts = Hosts(manifest)
        self._turn = turn

    async def come_up(self) -> None:
        """Let the next host come up. Recovery may have taken long: the next one must not think that nobody is here."""
        await self._hosts.beat(self._number, "")
        await self._turn.aclose()


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
