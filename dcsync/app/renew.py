"""A manifest set aside, so that a new one is rebuilt from the tree: a damaged one, or one that is to be replaced."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import structlog

from dcsync.app.hosts import at_work, known_hosts
from dcsync.app.mirror import HeldState, hold_state
from dcsync.app.state_dir import INSTANCE_NAME, MANIFEST_NAME, host_name, manifest_place, read_text
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config
from dcsync.database import Database
from dcsync.errors import ManifestCorrupt, MirrorForeign, MirrorNotMounted
from dcsync.manifest import open_manifest
from dcsync.manifest.copy import move_out
from dcsync.manifest.sqlite import set_aside
from dcsync.mirror.root import MirrorRoot, open_root

log = structlog.get_logger(__name__)

T = TypeVar("T")


@asynccontextmanager
async def renewing(
    opening: Callable[[], AbstractAsyncContextManager[T]],
    config: Config,
    *,
    role: str,
    clock: Clock | None = None,
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[T]:
    """Open what `opening` opens; if the manifest is damaged, set it aside and open once more.

    The manifest is an empty one then, which recovery fills from the tree.
    """
    async with AsyncExitStack() as stack:
        try:
            opened = await stack.enter_async_context(opening())
        except ManifestCorrupt:
            await set_aside_damaged(config, role=role, clock=clock, environ=environ)
            opened = await stack.enter_async_context(opening())
        yield opened


async def set_aside_damaged(
    config: Config, *, role: str, clock: Clock | None = None, environ: Mapping[str, str] | None = None
) -> None:
    """Set a damaged manifest aside under a dated name; do nothing for a sound one.

    The check is done again under the state folder's lock: another process may have renewed the manifest meanwhile. A
    damaged database is for its operator, since it holds the work of other hosts: `ManifestCorrupt`. Raises
    `MirrorNotMounted` and `MirrorForeign` when the tree to rebuild from is not there.
    """
    place = manifest_place(config, environ=environ)
    async with hold_state(config, role=role) as state:
        try:
            async with open_manifest(place, label=host_name()):
                return
        except ManifestCorrupt as error:
            if isinstance(place, Database):
                raise
            label = f"damaged-{(clock or SystemClock()).now():%Y%m%dT%H%M%SZ}"
            with open_root(Path(config.mirror.root)) as root:
                aside = await state.disk.run(_set_aside_file, place, root, label)
            log.error(  # noqa: TRY400 - handled; where it was found says nothing
                "the manifest is damaged; it is set aside and rebuilt from the tree",
                code=error.code,
                error=error.message,
                set_aside=str(aside),
            )


async def set_aside_manifest(
    config: Config, state: HeldState, label: str, *, environ: Mapping[str, str] | None = None
) -> None:
    """Set the manifest aside, damaged or sound: a file under another name, a database's rows into such a file.

    Raises as `set_aside_damaged` does, and `MirrorLocked` while other hosts are at work.
    """
    place, file = manifest_place(config, environ=environ), state.path / MANIFEST_NAME
    with open_root(Path(config.mirror.root)) as root:
        if isinstance(place, Path):
            await state.disk.run(_set_aside_file, place, root, label)
            return
        await state.disk.run(_refuse_without_tree, file, root)
    async with open_manifest(place, label=host_name()) as manifest:
        others = [host for host in await known_hosts(manifest) if host.is_alive]
        if others:
            raise at_work(others)
        await move_out(manifest, file.with_name(f"{file.name}.{label}"))


def _set_aside_file(place: Path, root: MirrorRoot, label: str) -> Path | None:
    _refuse_without_tree(place, root)
    return set_aside(place, label)


def _refuse_without_tree(place: Path, root: MirrorRoot) -> None:
    """Refuse to set a manifest aside when the tree from which it would be rebuilt is not there."""
    marker, stored = root.marker(), read_text(place.with_name(INSTANCE_NAME))
    if marker is None:
        message = f"the manifest {place} can only be rebuilt from the tree, and {root.path} has no marker of a mirror"
        raise MirrorNotMounted(message)
    if stored is not None and stored != marker:
        message = f"{root.path} belongs to the instance {marker}, this state folder to {stored}"
        raise MirrorForeign(message, hint="mount the mirror's own disk: the manifest is rebuilt from its tree")
