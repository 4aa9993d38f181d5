"""Follow the configuration: move the snapshots of renamed accounts, and forget those of removed ones."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import structlog

from dcsync.core.alerts import AlertCode
from dcsync.core.lifecycle import ON_DISK, JobState
from dcsync.core.model import AccountName, JobId
from dcsync.errors import DcsyncError, DiskError, MirrorLocked, MirrorTampered
from dcsync.manifest import StoredValues
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.manifest.rename import RENAMING, rename_account
from dcsync.mirror import adopt
from dcsync.mirror.rename import drop_empty, rename_entry, renames
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.accounts import LeftAccount, account_move, left_accounts
from dcsync.ops.context import AccountSettings, MirrorContext

log = structlog.get_logger(__name__)

#: How many snapshots are read to find the ID of an account.
_MOST_READ = 5


async def follow_accounts(
    context: MirrorContext, accounts: Sequence[AccountSettings], *, unfinished: Collection[AccountName] = ()
) -> None:
    """Move the snapshots of renamed accounts to their new names, without a download. Forget those that were removed.

    An account was renamed if the configuration has its ID under a name without snapshots. Killed at any point, the next
    call continues. An account whose folder was removed has no snapshots any more. Accounts in `unfinished` wait. Raises
    `MirrorLocked` when an account was renamed while other hosts are running: they would download everything again.
    """
    manifest = context.manifest
    names = {account.name for account in accounts}
    parts: list[BrokenPart] = []
    try:
        await _undo(context)
    except (DiskError, MirrorTampered) as error:
        message = f"an interrupted rename of an account cannot be undone: {error.message}"
        log.warning("account not renamed", error=error.message, hint=error.advice)
        parts.append(BrokenPart(code=AlertCode.C_ACCOUNT, message=message, hint=error.advice or ""))
    for left in await left_accounts(manifest, names):
        if left.name in unfinished:
            continue
        try:
            await _follow(context, accounts, left)
        except (DiskError, MirrorTampered) as error:
            log.warning("account not renamed", account=left.name, error=error.message, hint=error.advice)
            message = f"the account {left.name} is not in the configuration: {error.message}"
            parts.append(
                BrokenPart(code=AlertCode.C_ACCOUNT, subject=left.name, message=message, hint=error.advice or left.hint)
            )
    parts += await _with_other_ids(context, accounts)
    await BrokenParts(manifest, None).replace([AlertCode.C_ACCOUNT], parts)


async def _with_other_ids(context: MirrorContext, accounts: Sequence[AccountSettings]) -> list[BrokenPart]:
    """Return an alert for each name whose newest snapshot is of another account: the IDs may be swapped or mistyped."""
    parts = []
    for account in accounts:
        newest = await context.manifest.newest_folder(account.name)
        try:
            found = await context.disk.run(_account_id, context.root, [newest] if newest else [])
        except (DiskError, MirrorTampered):
            continue
        if found and found != account.id:
            message = (
                f"the newest snapshot of {account.name} is of the Autodesk account {found}, and the configuration "
            )
            message += f"now gives {account.name} the ID {account.id}"
            hint = (
                f"if that is a mistake, correct the id of {account.name} and restart dcsync. Otherwise give the other "
            )
            hint += "account a name of its own, so that the snapshots of two accounts are not mixed in one folder"
            log.warning("the ID of an account has changed", account=account.name, snapshots_of=found, id=account.id)
            parts.append(BrokenPart(code=AlertCode.C_ACCOUNT, subject=account.name, message=message, hint=hint))
    return parts


async def _follow(context: MirrorContext, accounts: Sequence[AccountSettings], left: LeftAccount) -> None:
    manifest = context.manifest
    folders = await manifest.published_folders(left.name)
    free = [account for account in accounts if not await manifest.published_folders(account.name)]
    names = [account.name for account in free]
    there = {folder: _moved(context, folder, left.name, names) for folder in folders.values()}
    exists = await context.disk.run(_existing, context.root, there)
    # An empty folder of the account may be the mount point of a disk that is away.
    is_here = await context.disk.run(_has_any, context, folders.values(), left.name)
    if not exists and not is_here and not context.peers.are_at_work:
        await _forget(context, left.name, folders)
        return
    found = await context.disk.run(_account_id, context.root, exists)
    heirs = await _heirs(context, left.name, [account for account in accounts if found and account.id == found], free)
    if len(heirs) != 1:
        log.warning("account is not in the configuration", account=left.name, snapshots=left.snapshots, hint=left.hint)
        return
    if context.peers.are_at_work:
        message = f"the account {left.name} has the name {heirs[0].name} now, and other hosts are running"
        raise MirrorLocked(
            message, hint="stop the daemons of all hosts, give all of them the new name, then start them"
        )
    await _rename(context, left.name, heirs[0].name, folders)


async def _heirs(
    context: MirrorContext, left: AccountName, same: Sequence[AccountSettings], free: Sequence[AccountSettings]
) -> list[AccountSettings]:
    """Return the free ones of the accounts with the same ID. Of several, only those that want all its data requests."""
    heirs = [account for account in same if account in free]
    if len(same) < 2:
        return heirs
    requests = await context.manifest.requests(left)
    jobs = await context.manifest.jobs(left, states=ON_DISK)
    had = [requests[known.job.request_id] for known in jobs.values() if known.job.request_id in requests]
    return [account for account in heirs if all(map(account.wants_request, had))]


async def _rename(context: MirrorContext, old: AccountName, new: AccountName, folders: Mapping[JobId, str]) -> None:
    """Rename the folders, then record it. After a crash in between, the next start begins with `_undo`."""
    layout, disk, root = context.settings.layout, context.disk, context.root
    moves = {folder: move for folder in folders.values() if (move := account_move(layout, folder, old, new))}
    tops = sorted(set(moves.values()))
    steps: list[tuple[str, str]] = []
    for source, target in tops:
        steps += await disk.run(partial(renames, snapshots=moves), root, source, target)
    if steps:
        await StoredValues(context.manifest).save(RENAMING, json.dumps(steps))
    for source, target in steps:
        await disk.run(rename_entry, root, source, target)
    moved = {folder: target + folder[len(source) :] for folder, (source, target) in moves.items()}
    await disk.run(root.settle)
    await rename_account(context.manifest, old, new, folders=moved)
    for source, _ in tops:
        await disk.run(drop_empty, root, source)
    log.info("account renamed", account=old, to=new, snapshots=len(folders), moved=len(moved))


async def _undo(context: MirrorContext) -> None:
    """Undo the renames of a killed run that are not recorded: the configuration may have the old name again."""
    values = StoredValues(context.manifest)
    steps = await values.load(RENAMING)
    if steps is None or context.peers.are_at_work:
        return
    for source, target in reversed(json.loads(steps)):
        await context.disk.run(rename_entry, context.root, target, source)
    await context.disk.run(context.root.settle)
    await values.save(RENAMING, None)
    log.info("an interrupted rename of an account was undone")


async def _forget(context: MirrorContext, account: AccountName, folders: Mapping[JobId, str]) -> None:
    """Record that the snapshots of an account are gone: its folder was removed after the account itself."""
    for job in folders:
        await context.manifest.move(
            account,
            job,
            JobState.EXPIRED,
            at=context.clock.now(),
            reason_code="M-REMOVED",
            reason="its folder was removed after its account was removed from the configuration",
        )
    log.info("the snapshots of a removed account are gone", account=account, snapshots=len(folders))


def _moved(context: MirrorContext, folder: str, old: AccountName, names: Sequence[AccountName]) -> list[str]:
    """Return the paths that a snapshot may have: its own, and those after a rename that was cut short."""
    moves = [account_move(context.settings.layout, folder, old, name) for name in names]
    return [folder, *(target + folder[len(source) :] for source, target in filter(None, moves))]


def _existing(root: MirrorRoot, places: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the first existing path of each snapshot, newest first. Blocks."""
    return [
        found
        for folder in sorted(places, reverse=True)
        if (found := next((path for path in places[folder] if root.has_folder(path)), None)) is not None
    ]


def _has_any(context: MirrorContext, folders: Collection[str], account: AccountName) -> bool:
    """Return whether a folder of the account exists above one of these paths. Blocks."""
    moves = {account_move(context.settings.layout, folder, account, account) for folder in folders}
    return any(context.root.has_folder(move[0]) for move in filter(None, moves))


def _account_id(root: MirrorRoot, folders: Sequence[str]) -> str:
    """Return the ID of the account in the sidecar of one of the snapshots. Empty if none tells. Blocks."""
    for folder in folders[:_MOST_READ]:
        try:
            found = adopt.read_snapshot(root, folder)
        except DcsyncError:
            continue
        if found is not None and found.account_id:
            return found.account_id.removeprefix("b.").lower()
    return ""
