"""The manifest rebuilt from the tree."""

from __future__ import annotations

from pathlib import Path

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import hold_state, open_held_mirror
from dcsync.app.renew import set_aside_manifest
from dcsync.app.state_dir import MANIFEST_NAME
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config
from dcsync.ops.integrity.content_reader import ReadingObserver
from dcsync.ops.integrity.rebuild import RebuildReport, rebuild
from dcsync.ops.recovery import recover


async def rebuild_manifest(
    config: Config, *, clock: Clock | None = None, observer: ReadingObserver | None = None
) -> RebuildReport:
    """Set the manifest aside, sound or not, and rebuild it from the tree. The state folder is locked throughout."""
    clock = clock or SystemClock()
    accounts, label = account_settings(config), f"replaced-{clock.now():%Y%m%dT%H%M%SZ}"
    async with hold_state(config, role="rebuild") as state:
        await set_aside_manifest(config, state, label)
        async with open_held_mirror(config, state, clock=clock) as context:
            report = await rebuild(context, [account.name for account in accounts], observer=observer)
            await recover(context, accounts)
    aside = Path(config.state.dir) / f"{MANIFEST_NAME}.{label}"
    report.set_aside = str(aside) if aside.exists() else None
    return report
