"""This host among those that share a manifest: it waits for its turn, registers, and takes up jobs."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import structlog

from dcsync import __version__
from dcsync.app.state_dir import HOST_NAME, host_name, read_text, write_text
from dcsync.app.stores import Arrival
from dcsync.clock import Clock
from dcsync.cluster.database import Database
from dcsync.cluster.fencing import Ticket, take
from dcsync.cluster.hosts import Hosts
from dcsync.cluster.manifest import opening_lock
from dcsync.core.model import AccountName, JobId
from dcsync.errors import DAEMON_ROLE, ManifestError, MirrorLocked
from dcsync.manifest import SqlManifest
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.peers import Held, Host, Peers
from dcsync.tasks import DiskThreads

log = structlog.get_logger(__name__)

#: How often a host that waits for its turn checks whether the previous host is ready.
_TURN_S = 1.0


class SeveralHosts:
    """Meets the port `Peers`: this host and the others on a shared manifest.

    With a `ticket` of the queue, a job is held only while the ticket is valid.
    """

    def __init__(
        self,
        manifest: SqlManifest,
        database: Database,
        number: int,
        *,
        are_at_work: bool,
        turn: AsyncExitStack,
        ticket: Ticket | None = None,
    ) -> None:
        self.host: int | None = number
        self.are_at_work = are_at_work
        self.number = number
        self.database = database
        self._manifest = manifest
        self._turn = turn
        self._ticket = ticket

    def with_ticket(self, ticket: Ticket) -> SeveralHosts:
        """Return the same hosts for one task of the queue."""
        return SeveralHosts(
            self._manifest, self.database, self.number, are_at_work=self.are_at_work, turn=self._turn, ticket=ticket
        )

    async def known(self) -> Sequence[Host]:
        """Return every host that was registered within a day."""
        return await Hosts(self._manifest).known()

    async def come_up(self) -> None:
        """Let the next host open the mirror.

        The heartbeat comes first: after a long recovery the next host must still see this one as alive.
        """
        await Hosts(self._manifest).beat(self.number, "")
        await self._turn.aclose()

    async def hold(self, manifest: SqlManifest, account: AccountName, job: JobId) -> Held:
        """Raise the job's fencing number."""
        async with manifest.writing() as connection:
            claim = await take(connection, account, job, self._ticket)
        return Held(manifest=manifest.guarded(claim), number=claim.number)


async def refuse_others(manifest: SqlManifest) -> None:
    """Raise `MirrorLocked` while any host is alive."""
    _refuse([host for host in await Hosts(manifest).known() if host.is_alive])


def _refuse(alive: Sequence[Host]) -> None:
    if alive:
        names = sorted({host.name for host in alive})
        message = f"daemons on the same manifest are running: {', '.join(names)}"
        hint = f"run this command on {names[0]}: its daemon does it"
        if len(names) > 1:
            hint = (
                "they do everything that is due, and dcsync poll on one of these hosts polls now. For another command, "
            )
            hint += "stop the daemons of all hosts but one, and run it on that host"
        raise MirrorLocked(message, pid=None, role=DAEMON_ROLE, hint=hint)


@asynccontextmanager
async def arriving(
    manifest: SqlManifest, database: Database, *, state: Path, role: str, clock: Clock
) -> AsyncIterator[Arrival]:
    """Wait for this host's turn to open the mirror. The end of the block removes it from the hosts.

    Two hosts must not recover the same mirror at the same time. Raises `MirrorLocked` if `role` is not that of a daemon
    and a daemon is running.
    """
    async with AsyncExitStack() as stack:
        turn = await stack.enter_async_context(AsyncExitStack())
        await turn.enter_async_context(_turn_to_open(database, clock))
        alive = [host for host in await Hosts(manifest).known() if host.is_alive]
        if role != DAEMON_ROLE:
            _refuse(alive)
        yield _Arrived(stack, turn, manifest, database, state=state, role=role, are_at_work=bool(alive))


class _Arrived:
    """Meets the port `Arrival`."""

    def __init__(
        self,
        stack: AsyncExitStack,
        turn: AsyncExitStack,
        manifest: SqlManifest,
        database: Database,
        *,
        state: Path,
        role: str,
        are_at_work: bool,
    ) -> None:
        self.shares_lock = role == DAEMON_ROLE
        self._stack = stack
        self._turn = turn
        self._manifest = manifest
        self._database = database
        self._state = state
        self._role = role
        self._are_at_work = are_at_work

    async def register(self, root: MirrorRoot, disk: DiskThreads) -> Peers:
        """Insert a row for this start, and give the files that it stages in `root` a mark of their own."""
        identifier = await disk.run(_host_id, self._state)
        hosts = Hosts(self._manifest)
        number = await hosts.arrive(
            state=identifier, name=host_name(), pid=os.getpid(), version=__version__, role=self._role
        )

        async def leave() -> None:
            # Without the database the row stays. Its missing heartbeats show the others that this host is gone.
            with suppress(ManifestError):
                await hosts.leave(number)

        self._stack.push_async_callback(leave)
        # As in the staging: no name from elsewhere contains %7E.
        root.mark = f"%7Eh{number}"
        return SeveralHosts(self._manifest, self._database, number, are_at_work=self._are_at_work, turn=self._turn)


@asynccontextmanager
async def _turn_to_open(database: Database, clock: Clock) -> AsyncIterator[None]:
    is_logged = False
    async with opening_lock(database, label=host_name()) as try_lock:
        while not await try_lock():
            if not is_logged:
                log.info("another host is opening the mirror; this host waits for it")
                is_logged = True
            await clock.sleep(_TURN_S)
        yield


def _host_id(state: Path) -> str:
    """Return the id of the state folder. The folder is locked, so its previous holder is gone."""
    kept = read_text(state / HOST_NAME)
    if kept is None:
        kept = str(uuid.uuid4())
        write_text(state, HOST_NAME, kept)
    return kept
