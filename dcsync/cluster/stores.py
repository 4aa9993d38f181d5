"""The stores of several hosts, all in one PostgreSQL database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from dcsync.api.window import CallWindow
from dcsync.app.state_dir import MANIFEST_NAME, host_name
from dcsync.app.stores import Arrival
from dcsync.auth.token_store import ChainStore
from dcsync.clock import Clock
from dcsync.cluster.database import Database
from dcsync.cluster.hosts import Hosts
from dcsync.cluster.manifest import open_shared_manifest
from dcsync.cluster.peers import arriving, refuse_others
from dcsync.cluster.token_store import DatabaseTokenStore
from dcsync.cluster.window import DatabaseWindow
from dcsync.errors import ManifestMissing
from dcsync.manifest import SqlManifest
from dcsync.manifest.copy import move_out
from dcsync.ops.peers import Host
from dcsync.tasks import DiskThreads


class DatabaseStores:
    """Meets the port `Stores` with the tables of a database. The calls and tokens are those of a client id."""

    has_own_log = True
    #: The database contains the work of other hosts. Its operator repairs it.
    is_rebuilt_when_damaged = False
    needs_manifest = True
    hidden_names = frozenset({"PGPASSWORD", "PGPASSFILE"})

    def __init__(self, database: Database, *, client: str) -> None:
        self.place = database
        self.shown = database.shown
        self._client = client

    def open_manifest(self, *, read_only: bool = False) -> AbstractAsyncContextManager[SqlManifest]:
        """Open the manifest. PostgreSQL shows the connections under this host's name."""
        return open_shared_manifest(self.place, read_only=read_only, label=host_name())

    def open_target(self) -> AbstractAsyncContextManager[SqlManifest]:
        """Open the manifest."""
        return self.open_manifest()

    @asynccontextmanager
    async def open_existing(self) -> AsyncIterator[SqlManifest | None]:
        """Open the manifest to read. Yields None if the database does not have the tables yet."""
        async with AsyncExitStack() as stack:
            try:
                manifest = await stack.enter_async_context(self.open_manifest(read_only=True))
            except ManifestMissing:
                manifest = None
            yield manifest

    async def open_window(self, stack: AsyncExitStack, disk: DiskThreads, *, makes: bool = True) -> CallWindow:  # noqa: ARG002 - the port's
        """Open the window of all hosts."""
        if makes:
            await self._make_tables()
        engine = self.place.engine(label=f"quota {host_name()}")
        stack.push_async_callback(engine.dispose)
        return DatabaseWindow(engine, self.place, self._client)

    async def open_token_store(
        self,
        stack: AsyncExitStack,
        disk: DiskThreads,  # noqa: ARG002 - the port's
        *,
        makes: bool = True,
    ) -> tuple[ChainStore, DiskThreads]:
        """Open the store, with threads of its own: its lock may take minutes, and the disk must not wait for it."""
        if makes:
            await self._make_tables()
        store = DatabaseTokenStore(self.place, self._client)
        stack.callback(store.close)
        return store, stack.enter_context(DiskThreads(2))

    async def _make_tables(self) -> None:
        async with self.open_manifest():
            pass

    async def set_aside(self, state: Path, disk: DiskThreads, label: str) -> Path | None:  # noqa: ARG002 - the port's
        """Copy the rows into a file of the state folder, and delete them."""
        target = state / f"{MANIFEST_NAME}.{label}"
        async with self.open_manifest() as manifest:
            await self.refuse_others(manifest)
            await move_out(manifest, target)
        return target

    def retire(self, label: str, *, successor: str) -> None:
        """Do nothing: the mirror's marker, which has a new id, refuses it."""

    def reinstate(self) -> None:
        """Do nothing."""

    async def known_hosts(self, manifest: SqlManifest) -> Sequence[Host]:
        """Return every host that was registered within a day."""
        return await Hosts(manifest).known()

    async def refuse_others(self, manifest: SqlManifest) -> None:
        """Raise `MirrorLocked` while any host is alive."""
        await refuse_others(manifest)

    def arriving(
        self, manifest: SqlManifest, *, state: Path, role: str, clock: Clock
    ) -> AbstractAsyncContextManager[Arrival]:
        """Wait until the previous host has recovered the mirror."""
        return arriving(manifest, self.place, state=state, role=role, clock=clock)
