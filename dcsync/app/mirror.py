"""The mirror, opened to write or to read. Opening repairs nothing: `ops.recovery` is a separate step of the caller."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from dcsync.app.from_config import mirror_settings
from dcsync.app.state_dir import (
    INSTANCE_NAME,
    LOCK_NAME,
    MANIFEST_NAME,
    read_text,
    state_folder,
    write_text,
)
from dcsync.app.stores import Stores
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config
from dcsync.errors import ManifestError
from dcsync.manifest import SqlManifest, open_manifest
from dcsync.mirror.binding import claim, is_new
from dcsync.mirror.root import FileLock, MirrorRoot, locked, open_root
from dcsync.ops.context import MirrorContext, ReadContext
from dcsync.ops.peers import Peers, SingleHost
from dcsync.tasks import DiskThreads


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldState:
    """The state folder, locked for one process, and the threads for the disk."""

    path: Path
    role: str
    disk: DiskThreads


@asynccontextmanager
async def hold_state(config: Config, *, role: str) -> AsyncIterator[HeldState]:
    """Lock the state folder, the first step of every command that writes. Raises `MirrorLocked`.

    Other processes see `role` as the holder of the lock.
    """
    with DiskThreads() as disk:
        path = await disk.run(state_folder, config)
        async with AsyncExitStack() as stack:
            lock = FileLock(path / LOCK_NAME, f"the state folder {path}", role=role)
            await disk.run(stack.enter_context, lock)
            yield HeldState(path=path, role=role, disk=disk)


@asynccontextmanager
async def open_mirror(
    config: Config, stores: Stores, *, role: str, clock: Clock | None = None
) -> AsyncIterator[MirrorContext]:
    """Lock the state folder and open the mirror as `open_held_mirror` does."""
    async with (
        hold_state(config, role=role) as state,
        open_held_mirror(config, stores, state, clock=clock) as context,
    ):
        yield context


@asynccontextmanager
async def open_held_mirror(
    config: Config, stores: Stores, state: HeldState, *, clock: Clock | None = None
) -> AsyncIterator[MirrorContext]:
    """Open the mirror to write, without the network: the manifest, then the root's marker, then the root's lock.

    The caller recovers the mirror (`ops.recovery.recover`) before any other use. The daemons of several hosts open it
    one after another: the next one waits until this one has recovered it. Raises `MirrorLocked`, which any other role
    gets while a daemon is running, and `MirrorError`, `ManifestError`, and `DiskError`.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        # In a thread: a disk that hangs must not block the event loop, which signals need.
        root = await state.disk.run(stack.enter_context, open_root(Path(config.mirror.root)))
        manifest = await stack.enter_async_context(stores.open_manifest())
        # Before the first write: a bare mount point has no marker, while the manifest knows snapshots.
        await state.disk.run(is_new, root, knows_snapshots=await manifest.knows_snapshots())
        arrival = await stack.enter_async_context(
            stores.arriving(manifest, state=state.path, role=state.role, clock=clock)
        )
        lock = locked(root, role=state.role, shared=arrival.shares_lock)
        await state.disk.run(stack.enter_context, lock)
        new = await _bind(manifest, root, state)
        peers = await arrival.register(root, state.disk)
        yield _context(config, manifest, root, clock, state.disk, peers=peers, new=new)


@asynccontextmanager
async def open_mirror_unlocked(
    config: Config, stores: Stores, *, clock: Clock | None = None
) -> AsyncIterator[MirrorContext]:
    """Open the mirror as a command that writes sees it, but without a lock and without a write.

    Before the first run the manifest is empty. Raises as `open_held_mirror` does, but for `MirrorLocked`.
    """
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(DiskThreads())
        await disk.run(state_folder, config)
        root = await disk.run(stack.enter_context, open_root(Path(config.mirror.root)))
        manifest = await open_existing_manifest(stack, stores)
        await disk.run(is_new, root, knows_snapshots=await manifest.knows_snapshots())
        yield _context(config, manifest, root, clock or SystemClock(), disk)


@asynccontextmanager
async def read_mirror(config: Config, stores: Stores) -> AsyncIterator[ReadContext]:
    """Open the manifest, which must exist, and the root to read snapshots. Raises as `open_mirror_unlocked` does."""
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(DiskThreads())
        root = await disk.run(stack.enter_context, open_root(Path(config.mirror.root)))
        manifest = await stack.enter_async_context(stores.open_manifest(read_only=True))
        await _refuse_older(manifest)
        yield ReadContext(manifest=manifest, root=root, disk=disk, zone=config.mirror.zone)


def _context(
    config: Config,
    manifest: SqlManifest,
    root: MirrorRoot,
    clock: Clock,
    disk: DiskThreads,
    *,
    peers: Peers | None = None,
    new: bool = False,
) -> MirrorContext:
    return MirrorContext(
        manifest=manifest,
        root=root,
        clock=clock,
        disk=disk,
        settings=mirror_settings(config),
        peers=peers or SingleHost(),
        is_new=new,
    )


async def open_existing_manifest(stack: AsyncExitStack, stores: Stores) -> SqlManifest:
    """Open the manifest read-only, without migrating it. Before the first run, open an empty one in its place."""
    manifest = await stack.enter_async_context(stores.open_existing())
    if manifest is not None:
        await _refuse_older(manifest)
        return manifest
    # A dry run before the first run. The empty manifest is deleted with its folder.
    empty = Path(stack.enter_context(TemporaryDirectory(prefix="dcsync-"))) / MANIFEST_NAME
    return await stack.enter_async_context(open_manifest(empty))


async def _refuse_older(manifest: SqlManifest) -> None:
    """Refuse a manifest of an older version: a reader does not migrate it, and queries need the new columns."""
    if not await manifest.is_current():
        message = "an older dcsync wrote the manifest, and a command that only reads does not migrate it"
        raise ManifestError(message, hint="run dcsync sync, or start the daemon: both migrate it")


async def _bind(manifest: SqlManifest, root: MirrorRoot, state: HeldState) -> bool:
    """Give the state folder, the manifest, and the root the same instance id, and return whether the mirror is new.

    The state folder gets the id before the root: after a crash between the two, no root has an id that nothing knows.
    """
    stored = await state.disk.run(read_text, state.path / INSTANCE_NAME)
    in_manifest = await manifest.instance()
    identifier = in_manifest or stored
    knows = await manifest.knows_snapshots()
    if identifier is None and await state.disk.run(root.marker) is None:
        identifier = str(uuid.uuid4())
    if identifier is not None and stored != identifier:
        await state.disk.run(write_text, state.path, INSTANCE_NAME, identifier)
    bound, new = await state.disk.run(lambda: claim(root, state_id=identifier, knows_snapshots=knows))
    if in_manifest != bound:
        await manifest.set_instance(bound)
    return new
