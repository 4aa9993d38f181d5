"""The refusal of a prune that would remove too much, kept for each account until a later prune passes."""

from __future__ import annotations

from dcsync.core.model import AccountName
from dcsync.manifest.sql import SqlManifest
from dcsync.manifest.state import StoredValues


async def refused_prune(manifest: SqlManifest, account: AccountName) -> str | None:
    """Return why the last prune of an account was refused. None if it was not."""
    return await StoredValues(manifest).load(_key(account))


async def record_prune(manifest: SqlManifest, account: AccountName, *, refused: str | None) -> None:
    """Record that a prune of an account was refused and why, or with None that it passed."""
    if refused != await refused_prune(manifest, account):
        await StoredValues(manifest).save(_key(account), refused)


def _key(account: AccountName) -> str:
    return f"prune.refused:{account}"
