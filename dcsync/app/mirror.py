"""The mirror, opened to work on it: locks, manifest, root, recovery."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from dcsync.app.from_config import account_settings
from dcsync.app.hosts import DAEMON, arrive, at_work, known_hosts
from dcsync.app.reading import refuse_older
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
from dcsync.errors import ManifestCorrupt, ManifestMissing, MirrorForeign, MirrorNotMounted
from dcsync.manifest import SqlManifest, open_manifest
from dcsync.manifest.aside import set_aside
from dcsync.manifest.copy import move_out
from dcsync.manifest.hosts import Hosts
from dcsync.mirror.latest import LatestKind
from dcsync.mirror.root import FileLock, MirrorRoot, claim, is_new, locked, open_root
from dcsync.ops.context import MirrorContext, MirrorSettings, Strategy
from dcsync.ops.recovery import recover
from dcsync.tasks import DiskThreads

log = structlog.get_logger(__name__)

#: How often a host that comes up looks whether the one before it is done.
_TURN_S = 1.0


@asynccontextmanager
async def open_mirror(
    config: Config,
    *,
    clock: Clock | None = None,
    role: str,
    writes: bool = True,
    anew: str | None = None,
    notices_missing: bool = True,
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[MirrorContext]:
    """Open the mirror without the network: locks first, then the manifest, the root, recovery.

    A damaged manifest is set aside and made anew from the tree; with `anew`, a label, so is a sound one, and the
    caller rebuilds and recovers. Without `writes` nothing is locked, recovered or made, and `ManifestCorrupt` is raised
    for a damaged manifest. Where several hosts share a manifest, their daemons (`role` run) work side by side, and
    whatever else writes waits for none of them: `MirrorLocked`. Raises that, `MirrorError`s, `ManifestError`s,
    `DiskError`s, and the `ConfigError`s of the manifest's address.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(DiskThreads())
        state = await disk.run(state_folder, config)
        if writes:
            stack.enter_context(FileLock(state / LOCK_NAME, f"the state folder {state}", role=role))
        root = stack.enter_context(open_root(Path(config.mirror.root)))
        place = manifest_place(config, environ=environ)
        if writes:
            if anew is not None:
                await _put_aside(place, root, state, anew, disk)
            manifest = await _open_or_renew(stack, place, root, clock, disk)
        else:
            manifest = await open_to_look(stack, place, disk)
        # Before anything is written, and also where nothing will be: a bare mount point knows no snapshot.
        await disk.run(is_new, root, knows_snapshots=await manifest.knows_snapshots())
        async with _turn_to_open(manifest, clock, writes=writes):
            others = [host for host in await known_hosts(manifest, writes=writes) if host.is_alive]
            new_mirror, number = False, None
            if writes:
                shared = manifest.is_shared and role == DAEMON
                if others and not shared:
                    raise at_work(others)
                stack.enter_context(locked(root, role=role, shared=shared))
                new_mirror = await _bind(manifest, root, state, disk)
                number = await arrive(stack, manifest, root, state, role, disk)
            context = MirrorContext(
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
                host=number,
            )
            if writes and anew is None:
                await recover(
                    context,
                    account_settings(config),
                    new_mirror=new_mirror,
                    notices_missing=notices_missing,
                    alone=not others,
                )
            if number is not None:
                # It may have taken long: the next one that comes up must not think that nobody is here.
                await Hosts(manifest).beat(number, "")
        yield context


async def open_to_look(stack: AsyncExitStack, place: Path | Database, disk: DiskThreads) -> SqlManifest:
    """Open the manifest for who only looks: it is not brought up to date, and an empty one stands for none."""
    if isinstance(place, Database) or await disk.run(is_file, place):
        with suppress(ManifestMissing):
            manifest = await stack.enter_async_context(open_manifest(place, read_only=True))
            await refuse_older(manifest)
            return manifest
    # A dry run before the first run: an empty manifest that goes away with it.
    place = Path(stack.enter_context(TemporaryDirectory(prefix="dcsync-"))) / MANIFEST_NAME
    return await stack.enter_async_context(open_manifest(place))


@asynccontextmanager
async def _turn_to_open(manifest: SqlManifest, clock: Clock, *, writes: bool) -> AsyncIterator[None]:
    """Let hosts come up one after another: what one finds and mends, another must not be mending."""
    if not writes or not manifest.is_shared:
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


async def _open_or_renew(
    stack: AsyncExitStack, place: Path | Database, root: MirrorRoot, clock: Clock, disk: DiskThreads
) -> SqlManifest:
    """Open the manifest; a damaged file is set aside for a new, empty one, which recovery fills from the tree.

    A damaged database is for its operator: it holds what other hosts are at, and cannot be moved out of the way.
    """
    if isinstance(place, Database):
        return await stack.enter_async_context(open_manifest(place, label=host_name()))
    try:
        return await stack.enter_async_context(open_manifest(place))
    except ManifestCorrupt as error:
        aside = await disk.run(_set_aside, place, root, f"damaged-{clock.now():%Y%m%dT%H%M%SZ}")
        log.error(  # noqa: TRY400 - handled; where it was found says nothing
            "the manifest is damaged; it is set aside and made anew from the tree",
            code=error.code,
            error=error.message,
            set_aside=str(aside),
        )
    return await stack.enter_async_context(open_manifest(place))


def _set_aside(place: Path, root: MirrorRoot, label: str) -> Path | None:
    """Put the manifest out of the way, if the tree is there from which it can be made anew."""
    _may_be_made_anew(place, root)
    return set_aside(place, label)


def _may_be_made_anew(place: Path, root: MirrorRoot) -> None:
    marker, stored = root.marker(), read_text(place.with_name(INSTANCE_NAME))
    if marker is None:
        message = f"the manifest {place} can only be made anew from the tree, and {root.path} has no marker of a mirror"
        raise MirrorNotMounted(message)
    if stored is not None and stored != marker:
        message = f"{root.path} belongs to the instance {marker}, this state folder to {stored}"
        raise MirrorForeign(message, hint="mount the mirror's own disk: the manifest is made anew from its tree")


async def _put_aside(place: Path | Database, root: MirrorRoot, state: Path, label: str, disk: DiskThreads) -> None:
    """Put the manifest out of the way: a file under another name, a database's rows into such a file."""
    file = state / MANIFEST_NAME
    if isinstance(place, Path):
        await disk.run(_set_aside, place, root, label)
        return
    await disk.run(_may_be_made_anew, file, root)

    async with open_manifest(place, label=host_name()) as manifest:
        others = [host for host in await known_hosts(manifest) if host.is_alive]
        if others:
            raise at_work(others)
        await move_out(manifest, file.with_name(f"{file.name}.{label}"))


async def _bind(manifest: SqlManifest, root: MirrorRoot, state: Path, disk: DiskThreads) -> bool:
    """Bring state folder, manifest and root under one instance id; return whether the mirror is new.

    The state folder has the id before the root has it: a crash between the two must not leave a root that belongs to
    nobody.
    """
    stored = await disk.run(read_text, state / INSTANCE_NAME)
    in_manifest = await manifest.instance()
    identifier = in_manifest or stored
    knows = await manifest.knows_snapshots()
    if identifier is None and await disk.run(root.marker) is None:
        identifier = str(uuid.uuid4())
    if identifier is not None and stored != identifier:
        await disk.run(write_text, state, INSTANCE_NAME, identifier)
    bound, new = await disk.run(lambda: claim(root, state_id=identifier, knows_snapshots=knows))
    if in_manifest != bound:
        await manifest.set_instance(bound)
    return new
