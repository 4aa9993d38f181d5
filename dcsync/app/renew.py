"""A manifest that is damaged or to be replaced: it is renamed, and a new one is rebuilt from the mirror."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from dcsync.app.mirror import HeldState, hold_state
from dcsync.app.state_dir import INSTANCE_NAME, read_text
from dcsync.app.stores import Stores
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config
from dcsync.errors import ManifestCorrupt, MirrorForeign, MirrorNotMounted
from dcsync.mirror.nesting import holds_snapshots
from dcsync.mirror.root import MirrorRoot, open_root

log = structlog.get_logger(__name__)

T_co = TypeVar("T_co", covariant=True)


class Opener(Protocol[T_co]):
    """Opens a mirror under a role, such as `open_mirror` and `open_sync`."""

    def __call__(
        self, config: Config, stores: Stores, *, role: str, clock: Clock | None = None
    ) -> AbstractAsyncContextManager[T_co]:
        """Open it until the end of the block. Raises `ManifestCorrupt` when its manifest is damaged."""


@asynccontextmanager
async def renewing(
    opener: Opener[T_co], config: Config, stores: Stores, *, role: str, clock: Clock | None = None
) -> AsyncIterator[T_co]:
    """Open a mirror with `opener`. If its manifest is damaged, rename the manifest and open the mirror once more.

    The manifest is empty then, and recovery fills it from the mirror.
    """
    async with AsyncExitStack() as stack:
        try:
            opened = await stack.enter_async_context(opener(config, stores, role=role, clock=clock))
        except ManifestCorrupt:
            await set_aside_damaged(config, stores, role=role, clock=clock)
            opened = await stack.enter_async_context(opener(config, stores, role=role, clock=clock))
        yield opened


async def set_aside_damaged(config: Config, stores: Stores, *, role: str, clock: Clock | None = None) -> None:
    """Rename a damaged manifest to a dated name. A sound one stays.

    The check is repeated under the state folder's lock, because another process may have renewed the manifest since.
    Raises `ManifestCorrupt` for a database, which its operator repairs, since it holds the work of other hosts. Raises
    `MirrorNotMounted` and `MirrorForeign` when the mirror is not there to rebuild the manifest from.
    """
    async with hold_state(config, role=role) as state:
        try:
            async with stores.open_manifest():
                return
        except ManifestCorrupt as error:
            if not stores.is_rebuilt_when_damaged:
                raise
            aside = await set_aside_manifest(
                config, stores, state, f"damaged-{(clock or SystemClock()).now():%Y%m%dT%H%M%SZ}"
            )
            log.error(  # noqa: TRY400 - handled: the traceback says nothing more
                "the manifest is damaged; it is renamed and rebuilt from the mirror",
                code=error.code,
                error=error.message,
                set_aside=str(aside),
            )


async def set_aside_manifest(
    config: Config, stores: Stores, state: HeldState, label: str, *, needs_marker: bool = True
) -> Path | None:
    """Move the manifest to another name, damaged or sound, and return its new path. None if there was no manifest.

    Without `needs_marker`, snapshots in the root are enough. A file gets another name. The rows of a database move into
    such a file. Raises `MirrorLocked` while other hosts are running, and `MirrorNotMounted` and `MirrorForeign` as
    `set_aside_damaged` does.
    """
    with open_root(Path(config.mirror.root)) as root:
        await state.disk.run(_refuse_without_mirror, stores, state.path, root, needs_marker=needs_marker)
    return await stores.set_aside(state.path, state.disk, label)


def _refuse_without_mirror(stores: Stores, state: Path, root: MirrorRoot, *, needs_marker: bool) -> None:
    """Refuse to move a manifest when the mirror to rebuild it from is missing."""
    marker, stored = root.marker(), read_text(state / INSTANCE_NAME)
    if marker is None and (needs_marker or not holds_snapshots(root)):
        message = (
            f"the manifest {stores.shown} can only be rebuilt from the mirror, "
            f"and {root.path} has no mirror ID (.dcsync/instance)"
        )
        raise MirrorNotMounted(message)
    if marker is not None and stored is not None and stored != marker:
        message = f"{root.path} belongs to the instance {marker}, this state folder to {stored}"
        raise MirrorForeign(message, hint="mount the mirror's own disk: the manifest is rebuilt from its snapshots")
