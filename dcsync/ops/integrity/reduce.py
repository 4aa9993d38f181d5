"""Reduce snapshots that the retention policy does not keep, and finish reductions that a crash cut short."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial

import structlog

from dcsync import __version__
from dcsync.core import sidecar
from dcsync.core.lifecycle import ON_DISK, JobState
from dcsync.core.model import AccountName, StoredFile
from dcsync.core.names import SIDECAR_NAME, SUMS_NAME
from dcsync.core.reduction import Division, reduced_sidecar
from dcsync.core.retention import Dated
from dcsync.core.wire import WireError
from dcsync.errors import DcsyncError, DiskError, MirrorTampered
from dcsync.manifest import SnapshotRows
from dcsync.mirror import adopt, reduce
from dcsync.mirror.reduce import Reduction
from dcsync.mirror.root import OWN_FOLDER
from dcsync.ops.context import MirrorContext
from dcsync.ops.integrity.unfinished import Unfinished
from dcsync.ops.trash import empty_trash, report_leftovers
from dcsync.tasks import finish

log = structlog.get_logger(__name__)

_REDUCING = f"{OWN_FOLDER}/{reduce.REDUCING}"


async def reduce_snapshot(context: MirrorContext, account: AccountName, snapshot: Dated, division: Division) -> int:
    """Remove the full tables of a snapshot and return the bytes that this freed.

    Raises `MirrorTampered`, having changed nothing, when the snapshot is damaged or lacks a file that has to stay.
    Cancelling takes effect at the end. The next start finishes after a crash.
    """
    context.root.check_still_there()
    return await finish(_reduce(context, account, snapshot, division))


async def _reduce(context: MirrorContext, account: AccountName, snapshot: Dated, division: Division) -> int:
    """Build the new folder, put it in place, record it, then delete the old one (design.md, steps R1 to R5)."""
    reduction = Reduction(account=account, job=snapshot.job, folder=snapshot.folder)
    records, now = SnapshotRows(context.manifest), context.clock.now()
    record, found = await records.record(account, snapshot.job), await records.snapshot(account, snapshot.job)
    if record is None or found is None:
        message = f"{snapshot.folder} is no longer a published snapshot"
        raise MirrorTampered(message)

    def replace_folder() -> Sequence[StoredFile]:
        made = reduce.build(context.root, reduction, division.kept, own=own)
        try:
            reduce.swap(context.root, reduction)
        except DcsyncError:
            # The next snapshot is pruned after this one: do not leave it aside until the next start.
            reduce.put_back(context.root, reduction)
            raise
        return made

    try:
        own = await context.disk.run(_own_files, context, reduction, division, found[1], now)
        made = await context.disk.run(replace_folder)
    except FileNotFoundError as error:
        message = f"{snapshot.folder} lacks a file that has to stay: {error.filename}"
        raise MirrorTampered(message, hint=reduce.REPAIR_HINT) from None
    digest = hashlib.sha256(own[SIDECAR_NAME]).hexdigest()
    await records.restore(account, replace(record, reduced_at=now), files=made, sidecar_sha256=digest)
    freed = 0
    for name in await _discard_old(context, reduction):
        freed += await empty_trash(context, name)
    log.debug(
        "snapshot reduced",
        account=account,
        job=snapshot.job,
        folder=snapshot.folder,
        kept=len(division.kept),
        removed=len(division.removed),
        freed_bytes=freed,
    )
    return freed


def _own_files(
    context: MirrorContext, reduction: Reduction, division: Division, sha256: str | None, now: datetime
) -> dict[str, bytes]:
    """Return `_dcsync.json` and `SHA256SUMS` of the reduced snapshot. Blocks."""
    body = context.root.read_file(reduction.folder, SIDECAR_NAME)
    if hashlib.sha256(body).hexdigest() != sha256:
        message = f"{reduction.folder}/{SIDECAR_NAME} is not the file that was published"
        raise MirrorTampered(message, hint=reduce.REPAIR_HINT)
    try:
        new = reduced_sidecar(
            body,
            {stored.name for stored in division.kept},
            at=now,
            version=__version__,
            in_history=division.in_history,
        )
    except WireError as error:
        message = f"{reduction.folder}/{SIDECAR_NAME} cannot be used: {error}"
        raise MirrorTampered(message, hint=reduce.REPAIR_HINT) from None
    lines = [(stored.name, stored.sha256) for stored in division.kept]
    sums = sidecar.render_sums([*lines, (SIDECAR_NAME, hashlib.sha256(new).hexdigest())])
    return {SIDECAR_NAME: new, SUMS_NAME: sums}


async def restore_reductions(context: MirrorContext) -> list[Unfinished]:
    """Put snapshots back that a crash left without a folder. The first step of a recovery, before a rebuild.

    Return those that could not be put back. They stay in `.dcsync/reducing` until a later call. Raises an error if it
    is not known which they are.
    """

    def find() -> list[Reduction]:
        left = reduce.leaves(context.root)
        return [one for one in reduce.all_reductions(context.root) if one.leaf in left] if left else []

    unfinished = []
    for one in await context.disk.run(find):
        try:
            if await context.disk.run(reduce.put_back, context.root, one):
                log.warning("snapshot put back after an interrupted pruning", folder=one.folder)
        except (DiskError, MirrorTampered) as error:
            unfinished.append(Unfinished(account=one.account, job=one.job, folder=one.folder, error=error))
    return unfinished


async def finish_reductions(context: MirrorContext) -> None:
    """Record reduced snapshots whose row is that of the whole one, and move what is left of them to the trash.

    The row is that of the whole one after a crash, and in a manifest that was restored from an older backup. What
    cannot be finished stays as it is until a later call, and is an alert.
    """
    try:
        begun = await context.disk.run(reduce.all_reductions, context.root)
        left = await context.disk.run(reduce.leaves, context.root)
    except (DiskError, MirrorTampered) as error:
        await report_leftovers(context, _REDUCING, [error], is_disposable=False)
        return
    steps = [partial(_record_reduced, context, one) for one in await _unrecorded(context, begun, left)]
    steps += [partial(_clear, context, one) for one in begun if one.leaf in left]
    steps += [partial(_drop_unbegun, context, leaf) for leaf in sorted(left - {one.leaf for one in begun})]
    errors: list[DcsyncError] = []
    for step in steps:
        try:
            await step()
        except (DiskError, MirrorTampered) as error:
            errors.append(error)
    await report_leftovers(context, _REDUCING, errors, is_disposable=False)


async def _unrecorded(context: MirrorContext, begun: Mapping[Reduction, int], left: Collection[str]) -> list[Reduction]:
    """Return the reductions of snapshots whose row is that of the whole one, or of an earlier reduction."""
    unrecorded: list[Reduction] = []
    for account in sorted({one.account for one in begun}):
        jobs = await context.manifest.jobs(account, states=ON_DISK)
        there = {
            one: jobs[one.job].state
            for one in begun
            if one.account == account and one.job in jobs and jobs[one.job].folder == one.folder
        }
        unrecorded += [one for one, state in there.items() if state is JobState.PUBLISHED or one.leaf in left]
        again = [one for one in there if begun[one] > 1 and one not in unrecorded]
        found = await SnapshotRows(context.manifest).snapshots(account, [one.job for one in again])
        for one in again:
            body = await context.disk.run(_sidecar_of, context, one)
            if one.job in found and body is not None and hashlib.sha256(body).hexdigest() != found[one.job][1]:
                unrecorded.append(one)
    return unrecorded


def _sidecar_of(context: MirrorContext, reduction: Reduction) -> bytes | None:
    with suppress(FileNotFoundError, DcsyncError):
        return context.root.read_file(reduction.folder, SIDECAR_NAME)
    return None


async def _drop_unbegun(context: MirrorContext, leaf: str) -> None:
    if not await context.disk.run(reduce.drop_unbegun, context.root, leaf):
        log.warning("unknown snapshot in .dcsync", folder=f"{_REDUCING}/{leaf}")


async def _record_reduced(context: MirrorContext, reduction: Reduction) -> None:
    """Record a snapshot as reduced if its folder is."""
    there = await context.disk.run(adopt.read_snapshot, context.root, reduction.folder)
    records = SnapshotRows(context.manifest)
    record, found = (
        await records.record(reduction.account, reduction.job),
        await records.snapshot(reduction.account, reduction.job),
    )
    if there is None or there.reduced_at is None or record is None or found is None:
        return
    await context.disk.run(context.root.settle, reduction.folder)
    names = {stored.name for stored in there.snapshot.files}
    files = [stored for stored in found[0].files if stored.name in names]
    await records.restore(
        reduction.account, replace(record, reduced_at=there.reduced_at), files=files, sidecar_sha256=there.sha256
    )
    log.info("the reduction of a snapshot was recorded", account=reduction.account, folder=reduction.folder)


async def _clear(context: MirrorContext, reduction: Reduction) -> None:
    """Move the rest of a reduction to the trash, if a complete snapshot is in its place. It may be the only one."""
    if await context.disk.run(adopt.read_snapshot, context.root, reduction.folder) is not None:
        await context.disk.run(reduce.discard_old, context.root, reduction)


async def _discard_old(context: MirrorContext, reduction: Reduction) -> Sequence[str]:
    """Move the rest of a reduction to the trash and return the names there. What cannot be moved stays."""
    try:
        return await context.disk.run(reduce.discard_old, context.root, reduction)
    except (DiskError, MirrorTampered) as error:
        await report_leftovers(context, _REDUCING, [error], is_disposable=False)
        return ()
