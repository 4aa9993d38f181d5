"""The rebuild of the manifest from the mirror."""

from __future__ import annotations

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import hold_state, open_held_mirror
from dcsync.app.renew import set_aside_manifest
from dcsync.app.stores import Stores
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config
from dcsync.ops.integrity.content_reader import ReadingObserver
from dcsync.ops.integrity.rebuild import RebuildReport, rebuild
from dcsync.ops.recovery import recover


async def rebuild_manifest(
    config: Config, stores: Stores, *, clock: Clock | None = None, observer: ReadingObserver | None = None
) -> RebuildReport:
    """Set the manifest aside, sound or damaged, and rebuild it from the mirror, all under the state folder's lock."""
    clock = clock or SystemClock()
    accounts, label = account_settings(config), f"replaced-{clock.now():%Y%m%dT%H%M%SZ}"
    async with hold_state(config, role="rebuild") as state:
        aside = await set_aside_manifest(config, stores, state, label, needs_marker=False)
        async with open_held_mirror(config, stores, state, clock=clock) as context:
            report = await rebuild(context, accounts, observer=observer)
            await recover(context, accounts)
    report.set_aside = None if aside is None else str(aside)
    return report
