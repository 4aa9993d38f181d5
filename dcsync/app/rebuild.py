"""The manifest made anew from the tree."""

from __future__ import annotations

from pathlib import Path

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import open_mirror
from dcsync.app.state_dir import MANIFEST_NAME
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config
from dcsync.ops.integrity.content_reader import ReadingObserver
from dcsync.ops.integrity.rebuild import RebuildReport, rebuild
from dcsync.ops.recovery import recover


async def rebuild_manifest(
    config: Config, *, clock: Clock | None = None, observer: ReadingObserver | None = None
) -> RebuildReport:
    """Set the manifest aside, sound or not, and make it anew from the tree."""
    clock = clock or SystemClock()
    accounts, label = account_settings(config), f"replaced-{clock.now():%Y%m%dT%H%M%SZ}"
    async with open_mirror(config, clock=clock, role="rebuild", anew=label) as context:
        report = await rebuild(context, [account.name for account in accounts], observer=observer)
        await recover(context, accounts, new_mirror=False)
    aside = Path(config.state.dir) / f"{MANIFEST_NAME}.{label}"
    report.set_aside = str(aside) if aside.exists() else None
    return report
