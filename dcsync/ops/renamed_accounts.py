"""Follow the configuration: move the snapshots of renamed accounts, and forget those of removed ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import structlog

from dcsync.core.alerts import AlertCode
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.errors import DcsyncError, DiskError, MirrorLocked, MirrorTampered
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.manifest.rename import rename_account
from dcsync.mirror import adopt
from dcsync.mirror.rename import rename_folder
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
    call continues. An account whose folder was removed has no snapshots any more. `unfinished` accounts wait. Raises
    `MirrorLocked` when an account was renamed while other hosts are running: they would download everything again.
    """
    manifest = context.manifest
    names = {account.name for account in accounts}
    parts: list[BrokenPart] = []
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
    await BrokenParts(manifest, None).replace([AlertCode.C_ACCOUNT], parts)


async def _follow(context: MirrorContext, accounts: Sequence[AccountSettings], left: LeftAccount) -> None:
    manifest = context.manifest
    folders = await manifest.published_folders(left.name)
    free = [account for account in accounts if not await manifest.published_folders(account.name)]
    names = [account.name for account in free]
    there = {folder: _moved(context, folder, left.name, names) for folder in folders.values()}
    exists = await context.disk.run(_existing, context.root, there)
    if not exists and not context.peers.are_at_work:
        await _forget(context, left.name, folders)
        return
    found = await context.disk.run(_account_id, context.root, exists)
    heirs = [account for account in free if found and account.id == found]
    if len(heirs) != 1:
        log.warning("account is not in the configuration", account=left.name, snapshots=left.snapshots, hint=left.hint)
        return
    if context.peers.are_at_work:
        message = f"the account {left.name} has the name {heirs[0].name} now, and other hosts are running"
        raise MirrorLocked(
            message, hint="stop the daemons of all hosts, give all of them the new name, then start them"
        )
    await _rename(context, left.name, heirs[0].name, folders)


async def _rename(context: MirrorContext, old: AccountName, new: AccountName, folders: Mapping[JobId, str]) -> None:
    """Rename the folders, then record it. After a crash in between, the folders have their new names already."""
    moves = {folder: move for folder in folders.values() if (move := account_move(context.settings.layout, folder, old, new))}
    for source, target in sorted(set(moves.values())):
        await context.disk.run(rename_folder, context.root, source, target)
    moved = {folder: target + folder[len(source) :] for folder, (source, target) in moves.items()}
    await context.disk.run(context.root.settle)
    await rename_account(context.manifest, old, new, folders=moved)
    log.info("account renamed", account=old, to=new, snapshots=len(folders), moved=len(moved))


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


def _account_id(root: MirrorRoot, folders: Sequence[str]) -> str:
    """Return the ID of the account in the sidecar of one of the snapshots. Empty if none tells. Blocks."""
    for folder in folders[:_MOST_READ]:
        try:
            found = adopt.read_snapshot(root, folder)
        except DcsyncError:
            continue
        if found is not None and found.account_id:
            return found.account_id
    return ""
