"""The check of `doctor` that `latest` of each data request shows its newest snapshot, or why it cannot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from dcsync.core.alerts import AlertCode
from dcsync.errors import DcsyncError
from dcsync.manifest import SqlManifest
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.mirror.latest import LatestKind, check_latest
from dcsync.mirror.root import open_root
from dcsync.ops.context import AccountSettings, MirrorSettings
from dcsync.ops.doctor.checks import Check, ok, warned
from dcsync.ops.mirroring.latest import latest_place
from dcsync.tasks import DiskThreads

_NAME = "latest"


async def examine_latest(
    root: Path, manifest: SqlManifest | None, accounts: Sequence[AccountSettings], settings: MirrorSettings
) -> Check:
    """Check `latest` of each data request that has a snapshot. Writes nothing."""
    if settings.latest is LatestKind.NONE:
        return ok(_NAME, 'switched off: mirror.latest = "none"')
    if manifest is None or not await manifest.is_current():
        return ok(_NAME, "the next run makes it")
    count, problems = 0, []
    with DiskThreads() as disk:
        async for place, newest, known in _expected(manifest, accounts, settings):
            count += 1
            if known is not None:
                problems.append((known.message, known.hint))
                continue
            try:
                await disk.run(_check, root, place, newest, settings.latest)
            except DcsyncError as error:
                problems.append((error.message, error.advice))
    if problems:
        messages, advices = zip(*problems, strict=True)
        return warned(_NAME, "\n".join(messages), "; ".join(dict.fromkeys(advices)))
    return ok(_NAME, f"shows the newest snapshot of {count} data request{'' if count == 1 else 's'}")


async def _expected(
    manifest: SqlManifest, accounts: Sequence[AccountSettings], settings: MirrorSettings
) -> AsyncIterator[tuple[str, str, BrokenPart | None]]:
    """Yield the path of each `latest`, the snapshot that it should show, and the problem that the last run met."""
    for account in accounts:
        broken = {
            part.subject: part
            for part in await BrokenParts(manifest, account.name).load()
            if part.code is AlertCode.M_LATEST
        }
        for request in (await manifest.requests(account.name)).values():
            newest = await manifest.newest_snapshot(account.name, request.id)
            if newest is not None and request.is_described and not request.is_delta:
                yield latest_place(settings, newest), newest, broken.get(request.id)


def _check(root: Path, place: str, newest: str, kind: LatestKind) -> None:
    with open_root(root) as opened:
        check_latest(opened, place, snapshot=newest, kind=kind)
