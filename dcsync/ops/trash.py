"""Empty the trash of a mirror. What cannot be removed stays, is an alert, and stops nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from dcsync.core.alerts import AlertCode
from dcsync.errors import DcsyncError, DiskError, MirrorTampered
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.mirror import trash
from dcsync.mirror.root import OWN_FOLDER
from dcsync.ops.context import MirrorContext

log = structlog.get_logger(__name__)

TRASH_FOLDER = f"{OWN_FOLDER}/{trash.TRASH}"


async def empty_trash(context: MirrorContext, leaf: str) -> int:
    """Remove a snapshot from the trash and return the number of bytes that this freed.

    A NAS may have put files of another user into it (`@eaDir`), and a file may be open on NFS or immutable. Such files
    stay until a later call of `empty_whole_trash`, and everything else is removed.
    """
    try:
        return await context.disk.run(trash.empty, context.root, leaf)
    except (DiskError, MirrorTampered) as error:
        await report_leftovers(context, TRASH_FOLDER, [error])
        return 0


async def empty_whole_trash(context: MirrorContext, leaves: Sequence[str]) -> None:
    """Remove all of these snapshots, which are all in the trash. The alert then lists what could not be removed."""
    errors: list[DcsyncError] = []
    for leaf in leaves:
        try:
            await context.disk.run(trash.empty, context.root, leaf)
        except (DiskError, MirrorTampered) as error:
            errors.append(error)
    await report_leftovers(context, TRASH_FOLDER, errors)


async def read_pruned(context: MirrorContext) -> list[trash.Pruned] | None:
    """Return the pruned snapshots, oldest first. If their lines cannot be read, record an alert and return None."""
    try:
        found = await context.disk.run(lambda: list(trash.all_pruned(context.root)))
    except (DiskError, MirrorTampered) as error:
        await report_lines(context, error)
        return None
    await report_lines(context, None)
    return found


async def report_lines(context: MirrorContext, error: DcsyncError | None) -> None:
    """Record the alert about the lines of pruned snapshots, or resolve it without an error."""
    parts, path = BrokenParts(context.manifest, None), f"{OWN_FOLDER}/{trash.PRUNED}"
    if error is None:
        await parts.resolve(AlertCode.M_TRASH, path)
        return
    message = f"{path} cannot be used: {error.message}. Nothing can be pruned, and no missing snapshot is replaced"
    log.warning("the lines of pruned snapshots cannot be used", error=error.message, hint=error.advice)
    await parts.record(BrokenPart(code=AlertCode.M_TRASH, subject=path, message=message, hint=error.advice))


async def report_leftovers(
    context: MirrorContext, folder: str, errors: Sequence[DcsyncError], *, is_disposable: bool = True
) -> None:
    """Record the alert about a folder of dcsync in which something cannot be removed. Resolve it without an error.

    Unless `is_disposable`, the folder may have the only copy of something.
    """
    parts = BrokenParts(context.manifest, None)
    if not errors:
        await parts.resolve(AlertCode.M_TRASH, folder)
        return
    first, more = errors[0], len(errors) - 1
    message = f"{folder} cannot be emptied: {first.message}"
    message += f", and {more} more" if more else ""
    hint = "find out what keeps it there: another user's file, an immutable file (lsattr), or a program that uses it"
    hint += f". You can also remove the content of {folder} by hand" if is_disposable else ""
    hint += ". dcsync tries again every night and at each start"
    log.warning("some files of dcsync cannot be removed", folder=folder, error=message, hint=hint)
    await parts.record(BrokenPart(code=AlertCode.M_TRASH, subject=folder, message=message, hint=hint))
