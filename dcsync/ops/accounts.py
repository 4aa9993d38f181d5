"""Accounts of the manifest that the configuration does not have. `dcsync status` imports this module."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from dcsync.core.alerts import AlertCode
from dcsync.core.layout import NAMED_LAYOUTS, Layout, account_folder, parse_layout
from dcsync.core.lifecycle import ON_DISK
from dcsync.core.model import AccountId, AccountName
from dcsync.manifest import SqlManifest
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.manifest.damage import known_damage
from dcsync.ops.context import AccountSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftAccount:
    """An account that has snapshots and is not in the configuration."""

    name: AccountName
    snapshots: int
    newest_snapshot: str
    newest_completed_at: datetime | None

    @property
    def hint(self) -> str:
        """What to do about it."""
        return (
            "its snapshots stay: dcsync verify checks them, and nothing updates or prunes them. If you removed the "
            "account on purpose, you can remove its folder. If you renamed it, the next start moves its snapshots to "
            f"the new name, unless that name has snapshots already. Otherwise add the account {self.name} again"
        )


def account_move(layout: Layout, folder: str, old: AccountName, new: AccountName) -> tuple[str, str] | None:
    """Return the old and the new path of the account's folder above a snapshot, in this layout or a named one."""
    layouts = [layout, *map(parse_layout, NAMED_LAYOUTS)]
    return next((move for one in layouts if (move := account_folder(one, folder, old=old, new=new))), None)


def owner_of(
    accounts: Sequence[AccountSettings], name: AccountName, account_id: str | None, *, layout: Layout, folder: str
) -> AccountName:
    """Return the account of the configuration that has a snapshot now, or `name`, under which it was published.

    A renamed account keeps its ID, and its snapshots keep the old name in `_dcsync.json`. A snapshot that is still in
    the folder of the old name was not moved. An empty `folder` is no longer there.
    """
    wanted = (account_id or "").removeprefix("b.").lower()
    heirs = [account.name for account in accounts if wanted and account.id == wanted]
    for heir in heirs:
        if folder and account_move(layout, folder, heir, heir) is not None:
            return heir
    is_in_place = folder and account_move(layout, folder, name, name) is not None
    return name if name in heirs or len(heirs) != 1 or is_in_place else heirs[0]


async def left_accounts(manifest: SqlManifest, configured: Collection[str]) -> list[LeftAccount]:
    """Return the accounts with snapshots that are not in the configuration, by name."""
    left = []
    for name in await manifest.accounts():
        jobs = [] if name in configured else list((await manifest.jobs(name, states=ON_DISK)).values())
        if jobs:
            newest = max(jobs, key=lambda known: (known.job.completed_at is not None, known.job.completed_at))
            left.append(
                LeftAccount(
                    name=name,
                    snapshots=len(jobs),
                    newest_snapshot=newest.folder or "",
                    newest_completed_at=newest.job.completed_at,
                )
            )
    return left


async def left_settings(manifest: SqlManifest, configured: Sequence[AccountSettings]) -> list[AccountSettings]:
    """Return settings for `verify` of the accounts that are not in the configuration."""
    names = {account.name for account in configured}
    return [AccountSettings(name=left.name, id=AccountId("")) for left in await left_accounts(manifest, names)]


async def record_left_damage(manifest: SqlManifest, configured: Collection[str]) -> None:
    """Record an alert for each account that is not in the configuration and has damaged files, after a verify."""
    parts = []
    for left in await left_accounts(manifest, configured):
        damage = [item for item in await known_damage(manifest, left.name) if not item.is_extra]
        if damage:
            message = f"{len(damage)} files of {left.name}, which is not in the configuration, do not match what was "
            message += f"published (first: {damage[0].path})"
            hint = "dcsync verify lists them. To repair them, add the account again, reload the daemon (systemctl "
            hint += (
                "reload dcsync), and run dcsync verify --repair. If you no longer need its snapshots, remove its folder"
            )
            parts.append(BrokenPart(code=AlertCode.V_DAMAGED, subject=left.name, message=message, hint=hint))
    await BrokenParts(manifest, None).replace([AlertCode.V_DAMAGED], parts)
