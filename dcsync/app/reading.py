"""The mirror, opened to look at it beside whatever else runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from dcsync.app.state_dir import manifest_place
from dcsync.config import Config
from dcsync.errors import ManifestError
from dcsync.manifest import SqlManifest, open_manifest
from dcsync.mirror.root import open_root
from dcsync.ops.context import ReadContext
from dcsync.tasks import DiskThreads


@asynccontextmanager
async def open_reading(config: Config) -> AsyncIterator[ReadContext]:
    """Open the manifest and the mirror to look at them, beside whatever else runs. Raises as `open_sync` does."""
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(DiskThreads())
        root = stack.enter_context(open_root(Path(config.mirror.root)))
        manifest = await stack.enter_async_context(open_manifest(manifest_place(config), read_only=True))
        await refuse_older(manifest)
        yield ReadContext(manifest=manifest, root=root, disk=disk, zone=config.mirror.zone)


async def refuse_older(manifest: SqlManifest) -> None:
    """What only looks does not migrate, and finds columns missing that it asks for."""
    if not await manifest.is_current():
        message = "the manifest was written by an older dcsync, and looking at it does not change it"
        raise ManifestError(message, hint="run dcsync sync, or start the daemon: that brings it up to date")
