"""The mirror, opened to work on it or to look at it. Opening mends nothing: `ops.recovery` does, for who asks."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from dcsync.app.hosts import SeveralHosts, at_work, known_hosts, register
from dcsync.app.state_dir import (
    INSTANCE_NAME,
    LOCK_NAME,
    MANIFEST_NAME,
    host_name,
    is_file,
    manifest_place,
    read_text,
    state_folder,
    write_text,
)
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config
from dcsync.database import Database
from dcsync.errors import DAEMON_ROLE, ManifestError, ManifestMissing
from dcsync.manifest import SqlManifest, open_manifest
from dcsync.mirror.latest import LatestKind
from dcsync.mirror.root import FileLock, MirrorRoot, claim, is_new, locked, open_root
from dcsync.ops.context import MirrorContext, MirrorSettings, ReadContext, Strategy
from dcsync.ops.peers import Peers, SingleHost
from dcsync.tasks import DiskThreads

log = structlog.get_logger(__name__)

#: How often a host that comes up looks whether the one before it is done.
_TURN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldState:
    """The state folder, locked for one process, and the threads for the disk."""

    path: Path
    role: str
    disk: DiskThreads


@asynccontextmanager
async def hold_state(config: Config, *, role: str) -> AsyncIterator[HeldState]:
    """Lock the state folder, which is the first thing that every writing command does. Raises `MirrorLocked`.

    `role` is what other processes are told of the holder.
    """
    with DiskThreads() as disk:
        path = await disk.run(state_folder, config)
        with FileLock(path / LOCK_NAME, f"the state folder {path}", role=role):
            yield HeldState(path=path, role=role, disk=disk)


@asynccontextmanager
async def open_mirror(
    config: Config, *, clock: Clock | None = None, role: str, environ: Mapping[str, str] | None = None
) -> AsyncIterator[MirrorContext]:
    """Lock the state folder and open the mirror in it, as `open_held_mirror` does."""
    async with (
        hold_state(config, role=role) as state,
        open_held_mirror(config, state, clock=clock, environ=environ) as context,
    ):
        yield context


@asynccontextmanager
async def open_held_mirror(
    config: Config, state: HeldState, *, clock: Clock | None = None, environ: Mapping[str, str] | None = None
) -> AsyncIterator[MirrorContext]:
    """Open the mirror to write, without the network: the manifest, then the root's marker, then the root's lock.

    The caller recovers it (`ops.recovery.recover`) before anything else. Where several hosts share a manifest, their
    daemons (role `run`) come up one after another: the next one waits until this one has recovered. Any other role is
    refused while a daemon is at work, with `MirrorLocked`. Raises that, `MirrorError`s, `ManifestError`s, `DiskError`s,
    and the `ConfigError`s of the manifest's address.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        root = stack.enter_context(open_root(Path(config.mirror.root)))
        place = manifest_place(config, environ=environ)
        manifest = await stack.enter_async_context(open_manifest(place, label=host_name()))
        # Before anything is written: a bare mount point knows no snapshot.
        await state.disk.run(is_new, root, knows_snapshots=await manifest.knows_snapshots())
        turn = await stack.enter_async_context(AsyncExitStack())
        await turn.enter_async_context(_turn_to_open(manifest, clock))
        others = [host for host in await known_hosts(manifest) if host.is_alive]
        shared = manifest.is_shared and state.role == DAEMON_ROLE
        if others and not shared:
            raise at_work(others)
        stack.enter_context(locked(root, role=state.role, shared=shared))
        new = await _bind(manifest, root, state)
        peers: Peers = SingleHost()
        if manifest.is_shared:
            number = await register(stack, manifest, root, state.path, state.role, state.disk)
            peers = SeveralHosts(manifest, number, are_at_work=bool(others), turn=turn)
        yield _context(config, manifest, root, clock, state.disk, peers=peers, new=new)


@asynccontextmanager
async def look_at_mirror(
    config: Config, *, clock: Clock | None = None, environ: Mapping[str, str] | None = None
) -> AsyncIterator[MirrorContext]:
    """Open the mirror to look at it as a writing command would: no lock, and no write to the mirror.

    Before the first run the manifest is an empty one. Raises as `open_held_mirror` does, but for locks.
    """
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(DiskThreads())
        await disk.run(state_folder, config)
        root = stack.enter_context(open_root(Path(config.mirror.root)))
        manifest = await open_to_look(stack, manifest_place(config, environ=environ), disk)
        await disk.run(is_new, root, knows_snapshots=await manifest.knows_snapshots())
        yield _context(config, manifest, root, clock or SystemClock(), disk)


@asynccontextmanager
async def read_mirror(config: Config) -> AsyncIterator[ReadContext]:
    """Open the manifest, which must exist, and the root to read what was mirrored. Raises as `look_at_mirror` does."""
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(DiskThreads())
        root = stack.enter_context(open_root(Path(config.mirror.root)))
        manifest = await stack.enter_async_context(open_manifest(manifest_place(config), read_only=True))
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
        settings=MirrorSettings(
            layout=config.mirror.parsed_layout,
            zone=config.mirror.zone,
            latest=LatestKind(config.mirror.latest),
            min_free=config.mirror.min_free,
            concurrency=config.transfer.concurrency,
            strategy=Strategy(config.mirror.strategy),
            trust_crc=config.mirror.trust_crc,
        ),
        peers=peers or SingleHost(),
        is_new=new,
    )


async def open_to_look(stack: AsyncExitStack, place: Path | Database, disk: DiskThreads) -> SqlManifest:
    """Open the manifest read-only, without migrating it. Where there is none, an empty one takes its place."""
    if isinstance(place, Database) or await disk.run(is_file, place):
        with suppress(ManifestMissing):
            manifest = await stack.enter_async_context(open_manifest(place, read_only=True))
            await _refuse_older(manifest)
            return manifest
    # A dry run before the first run: an empty manifest that goes away with it.
    place = Path(stack.enter_context(TemporaryDirectory(prefix="dcsync-"))) / MANIFEST_NAME
    return await stack.enter_async_context(open_manifest(place))


async def _refuse_older(manifest: SqlManifest) -> None:
    """Refuse a manifest of an older version: it is not migrated here, and lacks columns that are asked for."""
    if not await manifest.is_current():
        message = "the manifest was written by an older dcsync, and looking at it does not change it"
        raise ManifestError(message, hint="run dcsync sync, or start the daemon: that brings it up to date")


@asynccontextmanager
async def _turn_to_open(manifest: SqlManifest, clock: Clock) -> AsyncIterator[None]:
    """Let hosts come up one after another: two must not recover the same mirror at the same time."""
    if not manifest.is_shared:
        yield
        return
    from dcsync.manifest.postgres import PostgresBackend

    assert isinstance(manifest.backend, PostgresBackend)  # noqa: S101 - there is no other that is shared
    told = False
    while True:
        async with manifest.backend.opening() as ours:
            if ours:
                yield
                return
        if not told:
            log.info("another host is opening the mirror; this one comes after it")
            told = True
        await clock.sleep(_TURN_S)


def shared_database(context: MirrorContext) -> Database:
    """Return the database of a context whose manifest several hosts share."""
    from dcsync.manifest.postgres import PostgresBackend

    assert isinstance(context.manifest.backend, PostgresBackend)  # noqa: S101 - there is no other that is shared
    return context.manifest.backend.database


async def _bind(manifest: SqlManifest, root: MirrorRoot, state: HeldState) -> bool:
    """Bring state folder, manifest and root under one instance id; return whether the mirror is new.

    The state folder has the id before the root has it: a crash between the two must not leave a root that belongs to
    nobody.
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
