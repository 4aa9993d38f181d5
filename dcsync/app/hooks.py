"""What hooks need without a run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from dcsync.app.alerts import alert_settings
from dcsync.app.hosts import at_work, known_hosts
from dcsync.app.mirror import hold_state, open_to_look
from dcsync.app.state_dir import host_name, manifest_place, state_folder
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config
from dcsync.manifest import open_manifest
from dcsync.ops.alerts.dispatch import AlertDispatcher
from dcsync.tasks import DiskThreads


@asynccontextmanager
async def open_hooks(
    config: Config, *, environ: Mapping[str, str], clock: Clock | None = None, runs: bool, writes: bool
) -> AsyncIterator[AlertDispatcher]:
    """Open what hooks need: the manifest, to be written to with `writes`, and with `runs` the state folder's lock too.

    One process runs them. Without the lock a manifest of an older version is left alone, `ManifestError`: a daemon of
    that version may be writing to it.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        place, manifest = manifest_place(config, environ=environ), None
        if runs:
            await stack.enter_async_context(hold_state(config, role="hooks"))
        else:
            disk = stack.enter_context(DiskThreads())
            await disk.run(state_folder, config)
            manifest = await open_to_look(stack, place, disk)
        if manifest is None or writes:
            manifest = await stack.enter_async_context(open_manifest(place, label=host_name()))
        others = [host for host in await known_hosts(manifest) if host.is_alive]
        if runs and others:
            raise at_work(others)
        yield AlertDispatcher(manifest=manifest, clock=clock, settings=alert_settings(config, environ=environ))
