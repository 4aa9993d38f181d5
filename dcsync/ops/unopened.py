"""Published snapshots that cannot be opened: neither missing nor green, until they can be."""

from __future__ import annotations

from collections.abc import Mapping

from dcsync.core.alerts import AlertCode
from dcsync.core.model import JobId
from dcsync.errors import DcsyncError, DiskError, MirrorTampered
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.ops.context import AccountSettings, MirrorContext

#: The codes that these alerts can have.
_CODES = frozenset({AlertCode.F_IO, AlertCode.F_PERM, AlertCode.F_DISK, AlertCode.F_READONLY, AlertCode.M_TAMPERED})


async def record_unopened(
    context: MirrorContext, account: AccountSettings, errors: Mapping[JobId, DcsyncError]
) -> tuple[BrokenPart, ...]:
    """Replace the alerts of an account about snapshots that cannot be opened, and return the new ones."""
    parts = tuple(_unopened(job, error) for job, error in errors.items())
    await BrokenParts(context.manifest, account.name).replace(_CODES, parts)
    return parts


async def look_again(context: MirrorContext, account: AccountSettings) -> tuple[BrokenPart, ...]:
    """Try to open these snapshots again, and return the alerts that remain. Without any, the disk is not read."""
    known = await BrokenParts(context.manifest, account.name).load()
    jobs = [JobId(part.subject) for part in known if part.code in _CODES]
    if not jobs:
        return ()
    folders = await context.manifest.published_folders(account.name)
    errors: dict[JobId, DcsyncError] = {}
    for job in jobs:
        try:
            if job in folders:
                await context.disk.run(context.root.has_folder, folders[job])
        except (DiskError, MirrorTampered) as error:
            errors[job] = error
    return await record_unopened(context, account, errors)


def _unopened(job: JobId, error: DcsyncError) -> BrokenPart:
    message = f"the snapshot of job {job} cannot be opened: {error.message}"
    hint = f"{error.advice}. Each poll tries again" if error.advice else ""
    return BrokenPart(code=AlertCode.parse(error.code), subject=job, message=message, hint=hint)
