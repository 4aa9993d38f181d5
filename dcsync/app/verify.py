"""What a verify without the lock of the mirror found, recorded in the manifest as the nightly verify does."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dcsync.app.stores import Stores
from dcsync.core.model import AccountName
from dcsync.manifest import SqlManifest
from dcsync.manifest.damage import is_known_damage, record_damage
from dcsync.ops.accounts import record_left_damage
from dcsync.ops.integrity.report import VerifyReport
from dcsync.ops.integrity.verify import WHOLE, Part


async def record_findings(
    stores: Stores,
    manifest: SqlManifest,
    report: VerifyReport,
    accounts: Sequence[AccountName],
    *,
    configured: Collection[AccountName] | None,
) -> None:
    """Record the problems of the verified `accounts`, and forget those that are gone. A daemon may be running.

    `manifest` is open to read, and is only opened to write if something changed. `configured` are all accounts of the
    configuration, or None if only some accounts were verified. Raises `ManifestError`s.
    """
    part = WHOLE if report.part is None else Part(number=report.part[0], of=report.part[1])
    found = {name: report.remaining(name) for name in accounts}
    if all([await is_known_damage(manifest, name, found[name], was_read=part.has) for name in accounts]):
        return
    async with stores.open_manifest() as writable:
        for name in accounts:
            await record_damage(writable, name, found[name], was_read=part.has)
        if configured is not None:
            await record_left_damage(writable, configured)
