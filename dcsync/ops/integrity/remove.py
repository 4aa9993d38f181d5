"""Remove snapshots for good. Several go together and share the fsyncs, the write of their lines and the commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from dcsync.core.model import AccountName, JobId
from dcsync.core.retention import Dated
from dcsync.errors import DcsyncError, DiskError, DiskFull, MirrorTampered
from dcsync.manifest import SnapshotRows
from dcsync.mirror import trash
from dcsync.mirror.nesting import refuse_of_other
from dcsync.mirror.trash import Pruned
from dcsync.ops.context import MirrorContext
from dcsync.ops.integrity.missing import note_late
from dcsync.ops.trash import empty_trash
from dcsync.tasks import finish

log = structlog.get_logger(__name__)

#: How many snapshots go together. A cancelled prune waits until they are recorded, which takes some fsyncs and a rename
#: for each of them.
AT_ONCE = 16

_MISSING_HINT = "put the folder back if you have it. Otherwise the next start of dcsync downloads it again or records "
_MISSING_HINT += "the loss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """The bytes that each removed snapshot freed, and the error of each snapshot that stays."""

    freed: Mapping[JobId, int]
    failed: Sequence[tuple[Dated, DcsyncError]]


@dataclass(slots=True)
class _Taken:
    """The snapshots that are in the trash, the errors of the others, and the lines that found no space."""

    snapshots: list[Dated]
    failed: list[tuple[Dated, DcsyncError]]
    unnoted: Sequence[Pruned] = ()


async def remove_snapshots(context: MirrorContext, account: AccountName, snapshots: Sequence[Dated]) -> Removal:
    """Rename the folders, write their lines, record them, then delete the files. The next start finishes after a crash.

    No snapshot follows one that fails with `DiskReadOnly`. After any other error, the others follow. Cancelling waits
    until the removed snapshots are recorded.
    """
    context.root.check_still_there()
    taken = await finish(_take(context, account, snapshots))
    freeing = _free(context, account, taken)
    # On a full disk, the lines are written when the files have made room for them.
    freed = await (finish(freeing) if taken.unnoted else freeing)
    return Removal(freed=freed, failed=taken.failed)


async def _take(context: MirrorContext, account: AccountName, snapshots: Sequence[Dated]) -> _Taken:
    """Move the snapshots into the trash, write their lines, and record them."""
    rows, now = SnapshotRows(context.manifest), context.clock.now()
    records = await rows.records(account, [snapshot.job for snapshot in snapshots])
    lines = {job: Pruned(account=account, record=replace(record, pruned_at=now)) for job, record in records.items()}
    taken = await context.disk.run(_discard, context, account, snapshots, lines)
    if taken.snapshots:
        await rows.record_pruned(account, [snapshot.job for snapshot in taken.snapshots], at=now)
    return taken


async def _free(context: MirrorContext, account: AccountName, taken: _Taken) -> dict[JobId, int]:
    """Delete the files, and return the bytes that this freed."""
    freed = {}
    for snapshot in taken.snapshots:
        size = freed[snapshot.job] = await empty_trash(context, trash.trash_leaf(account, snapshot.job))
        log.debug("snapshot pruned", account=account, job=snapshot.job, folder=snapshot.folder, freed_bytes=size)
    if taken.unnoted:
        await note_late(context, *taken.unnoted)
    return freed


def _discard(
    context: MirrorContext, account: AccountName, snapshots: Sequence[Dated], lines: Mapping[JobId, Pruned]
) -> _Taken:
    """Move snapshots into the trash, and write their lines. Blocks."""
    taken = _move(context, account, snapshots)
    noted = [lines[snapshot.job] for snapshot in taken.snapshots if snapshot.job in lines]
    try:
        if noted:
            trash.note_pruned(context.root, *noted)
    except DiskFull:
        # Removing the files makes room for them.
        taken.unnoted = noted
    except DcsyncError as error:
        # Without its line, a rebuild would have a snapshot downloaded again.
        taken.failed += [(snapshot, _put_back(context, account, snapshot, error)) for snapshot in taken.snapshots]
        taken.snapshots.clear()
    return taken


def _move(context: MirrorContext, account: AccountName, snapshots: Sequence[Dated]) -> _Taken:
    failed: dict[str, DcsyncError | FileNotFoundError] = {}
    leaves = {}
    for snapshot in snapshots:
        try:
            refuse_of_other(context.root, snapshot.folder)
            leaves[snapshot.folder] = trash.trash_leaf(account, snapshot.job)
        except (DiskError, MirrorTampered) as error:
            failed[snapshot.folder] = error
    try:
        failed |= trash.discard_all(context.root, leaves, depth=len(context.settings.layout.request_segments))
    except (DiskError, MirrorTampered) as error:
        failed |= dict.fromkeys(leaves, error)
    taken = _Taken([], [])
    for snapshot in snapshots:
        reason = failed.get(snapshot.folder)
        if reason is None:
            taken.snapshots.append(snapshot)
        elif isinstance(reason, FileNotFoundError):
            message = f"{snapshot.folder} is missing"
            taken.failed.append((snapshot, MirrorTampered(message, hint=_MISSING_HINT)))
        else:
            taken.failed.append((snapshot, reason))
    return taken


def _put_back(context: MirrorContext, account: AccountName, snapshot: Dated, reason: DcsyncError) -> DcsyncError:
    """Move a snapshot back into its place. Return the error that it has then."""
    try:
        trash.restore(context.root, snapshot.folder, trash.trash_leaf(account, snapshot.job))
    except (DiskError, MirrorTampered) as error:
        return error
    return reason
