"""The port to the stores of a mirror: its manifest, the calls of the last minute, and the tokens. And their files.

A single host keeps them in files of the state folder (`FileStores`). Several hosts keep them in a database, which
`dcsync.cluster` opens. No code below that package asks which of the two it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

from dcsync.api.window import CallWindow, FileWindow
from dcsync.app.state_dir import MANIFEST_NAME, MOVED_NAME, QUOTA_NAME, has_content, read_text, write_text
from dcsync.auth.token_store import ChainStore, TokenStore
from dcsync.clock import Clock
from dcsync.config import Config
from dcsync.errors import MirrorForeign
from dcsync.manifest import SqlManifest, open_manifest
from dcsync.manifest.sqlite import set_aside
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.peers import Host, Peers, SingleHost
from dcsync.tasks import DiskThreads


class Arrival(Protocol):
    """This process among the hosts of a mirror, before it has the mirror's lock."""

    @property
    def shares_lock(self) -> bool:
        """Whether other hosts may hold the mirror's lock at the same time."""

    async def register(self, root: MirrorRoot, disk: DiskThreads) -> Peers:
        """Register this process, which has the mirror's lock by now, and return the others."""


class Stores(Protocol):
    """The stores of one configuration."""

    @property
    def place(self) -> object:
        """Where the manifest is. Two stores with equal places are the same."""

    @property
    def shown(self) -> str:
        """The place as messages show it, without a password."""

    @property
    def has_own_log(self) -> bool:
        """Whether the libraries write log messages: then the log must be set up, or raw lines appear on stderr."""

    @property
    def is_rebuilt_when_damaged(self) -> bool:
        """Whether a damaged manifest is renamed and rebuilt automatically."""

    @property
    def needs_manifest(self) -> bool:
        """Whether the calls and the tokens are in the manifest's database, which the first run creates."""

    @property
    def hidden_names(self) -> frozenset[str]:
        """The environment variables with secrets of these stores, which hooks must not inherit."""

    def open_manifest(self, *, read_only: bool = False) -> AbstractAsyncContextManager[SqlManifest]:
        """Open the manifest and migrate it to the newest schema. With `read_only` nothing is changed.

        Raises `ManifestMissing`, `ManifestNewer`, `ManifestCorrupt`, and `ManifestError`, and `MirrorForeign` for a
        manifest that was copied elsewhere.
        """

    def open_target(self) -> AbstractAsyncContextManager[SqlManifest]:
        """Open the manifest as the target of a copy, even after it was retired."""

    def open_existing(self) -> AbstractAsyncContextManager[SqlManifest | None]:
        """Open the manifest to read. Yields None before the first run. Raises as `open_manifest` does."""

    async def open_window(self, stack: AsyncExitStack, disk: DiskThreads, *, makes: bool = True) -> CallWindow:
        """Open the counter of the last minute's calls, for all processes that share the rate limit.

        With `makes` missing tables are created: a sign-in may precede the first run.
        """

    async def open_token_store(
        self, stack: AsyncExitStack, disk: DiskThreads, *, makes: bool = True
    ) -> tuple[ChainStore, DiskThreads]:
        """Open the token store, and return it with the threads to use it from: the lock of a database may block."""

    async def set_aside(self, state: Path, disk: DiskThreads, label: str) -> Path | None:
        """Move the manifest to a name with `label`, and return its new path. Returns None when there was no manifest.

        The caller has locked the state folder. Raises `MirrorLocked` while daemons of other hosts are running.
        """

    def retire(self, label: str, *, successor: str) -> None:
        """Let every later start refuse this manifest, which was copied to `successor`. Blocks."""

    def reinstate(self) -> None:
        """Let starts use a manifest again that was retired and has a copy now. Blocks."""

    async def known_hosts(self, manifest: SqlManifest) -> Sequence[Host]:
        """Return the hosts that share the manifest, by name."""

    async def refuse_others(self, manifest: SqlManifest) -> None:
        """Raise `MirrorLocked` while daemons of other hosts are running."""

    def arriving(
        self, manifest: SqlManifest, *, state: Path, role: str, clock: Clock
    ) -> AbstractAsyncContextManager[Arrival]:
        """Wait for this process's turn to open the mirror. The end of the block removes it from the hosts.

        Raises `MirrorLocked` when `role` cannot run while the daemons of other hosts are running.
        """


#: Chooses the stores of a configuration. The mapping is the environment, with the secrets that it refers to.
StoresFor: TypeAlias = Callable[[Config, Mapping[str, str]], Stores]


class FileStores:
    """Meets the port `Stores` with files of the state folder, for a single host."""

    has_own_log = False
    is_rebuilt_when_damaged = True
    needs_manifest = False
    hidden_names: frozenset[str] = frozenset()

    def __init__(self, state: Path) -> None:
        self.place = state / MANIFEST_NAME
        self.shown = str(self.place)

    def open_manifest(self, *, read_only: bool = False) -> AbstractAsyncContextManager[SqlManifest]:
        """Open the file. Create it if it is missing, unless `read_only` is set."""
        self._refuse_retired()
        return open_manifest(self.place, read_only=read_only)

    def open_target(self) -> AbstractAsyncContextManager[SqlManifest]:
        """Open the file. Create it if it is missing."""
        return open_manifest(self.place)

    @asynccontextmanager
    async def open_existing(self) -> AsyncIterator[SqlManifest | None]:
        """Open the file to read. An empty file counts as missing."""
        self._refuse_retired()
        if not await asyncio.to_thread(has_content, self.place):
            yield None
            return
        async with open_manifest(self.place, read_only=True) as manifest:
            yield manifest

    async def open_window(self, stack: AsyncExitStack, disk: DiskThreads, *, makes: bool = True) -> CallWindow:  # noqa: ARG002 - the port's
        """Return the window of a file, which its first use creates."""
        return FileWindow(self.place.with_name(QUOTA_NAME), disk)

    async def open_token_store(
        self,
        stack: AsyncExitStack,  # noqa: ARG002 - the port's
        disk: DiskThreads,
        *,
        makes: bool = True,  # noqa: ARG002 - the same
    ) -> tuple[ChainStore, DiskThreads]:
        """Return the store in the state folder."""
        return TokenStore(self.place.parent), disk

    async def set_aside(self, state: Path, disk: DiskThreads, label: str) -> Path | None:  # noqa: ARG002 - the port's
        """Rename the file."""
        return await disk.run(set_aside, self.place, label)

    def retire(self, label: str, *, successor: str) -> None:
        """Rename the file, after a note that it was moved. Without the note, the next start would rebuild it."""
        write_text(self.place.parent, MOVED_NAME, successor)
        set_aside(self.place, label)

    def reinstate(self) -> None:
        """Remove the note."""
        (self.place.parent / MOVED_NAME).unlink(missing_ok=True)

    def _refuse_retired(self) -> None:
        successor = read_text(self.place.parent / MOVED_NAME)
        if successor is not None:
            message = f"the manifest was copied from {self.place} to {successor}"
            note = self.place.parent / MOVED_NAME
            raise MirrorForeign(
                message,
                hint="set state.manifest to its new address. To copy it back, set that address and run dcsync manifest "
                f"copy --to sqlite. If the copy is lost for good, remove {note}: the next start then rebuilds the "
                "manifest from the mirror",
            )

    async def known_hosts(self, manifest: SqlManifest) -> Sequence[Host]:  # noqa: ARG002 - the port's
        """Return no host."""
        return ()

    async def refuse_others(self, manifest: SqlManifest) -> None:
        """Do nothing: the state folder's lock keeps other processes out."""

    @asynccontextmanager
    async def arriving(
        self,
        manifest: SqlManifest,  # noqa: ARG002 - the port's
        *,
        state: Path,  # noqa: ARG002 - the same
        role: str,  # noqa: ARG002 - the same
        clock: Clock,  # noqa: ARG002 - the same
    ) -> AsyncIterator[Arrival]:
        """Return at once, because no other host opens the mirror."""
        yield _Alone()


class _Alone:
    """Meets the port `Arrival`."""

    shares_lock = False

    async def register(self, root: MirrorRoot, disk: DiskThreads) -> Peers:  # noqa: ARG002 - the port's
        """Return the null object."""
        return SingleHost()
