"""Hooks without a run: listed, made due again, or run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from dcsync.app.alerts import alert_settings
from dcsync.app.mirror import hold_state, open_existing_manifest
from dcsync.app.state_dir import state_folder
from dcsync.app.stores import Stores
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config
from dcsync.ops.alerts.dispatch import AlertDispatcher
from dcsync.tasks import DiskThreads


@asynccontextmanager
async def open_hooks(
    config: Config,
    stores: Stores,
    *,
    environ: Mapping[str, str],
    clock: Clock | None = None,
    runs: bool,
    writes: bool,
) -> AsyncIterator[AlertDispatcher]:
    """Open the manifest for hooks: to write with `writes`, and under the state folder's lock with `runs`.

    Only one process runs hooks. Without the lock a manifest of an older version is refused with `ManifestError`,
    because a daemon of that version may be writing to it.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        manifest = None
        if runs:
            await stack.enter_async_context(hold_state(config, role="hooks"))
        else:
            disk = stack.enter_context(DiskThreads())
            await disk.run(state_folder, config)
            manifest = await open_existing_manifest(stack, stores)
        if manifest is None or writes:
            manifest = await stack.enter_async_context(stores.open_manifest())
        if runs:
            await stores.refuse_others(manifest)
        yield AlertDispatcher(manifest=manifest, clock=clock, settings=alert_settings(config, stores, environ=environ))
