"""A mirror that is damaged and verified."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import open_mirror_unlocked
from dcsync.core.model import AccountName
from dcsync.ops.integrity.report import VerifyReport
from dcsync.ops.integrity.verify import verify
from tests.rigs.mirror import Mirror

ACME = AccountName("acme")


async def verified(mirror: Mirror, **options: Any) -> VerifyReport:
    """Verify as the command does: read only, unless it repairs."""
    config = mirror.configuration()
    if options.get("repair"):
        async with mirror.opened(notices_missing=False) as context:
            return await verify(context, account_settings(config), **options)
    async with open_mirror_unlocked(config, mirror.stores(config), clock=mirror.clock) as context:
        return await verify(context, account_settings(config), **options)


def spoil(path: Path, body: bytes) -> None:
    """Write into a file as no reader may: its time and its other names are as they were."""
    times = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(body)
    path.chmod(0o444)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
