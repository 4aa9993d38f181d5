"""Damage that `verify` found, kept until a later `verify` of the same part no longer finds it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from dcsync.core.model import AccountName, JobId
from dcsync.manifest.sql import SqlManifest
from dcsync.manifest.state import StoredValues


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDamage:
    """A damaged file or folder. `key` is the part of the nightly verify that reads it, and None means every part."""

    path: str
    key: str | None
    #: The snapshot that it belongs to, or None for a folder that the manifest does not know.
    job: JobId | None
    #: Whether it is a file that was never published. The snapshot's own files are intact.
    is_extra: bool = False

    @property
    def is_history(self) -> bool:
        """Whether it is the file of a row history, which no snapshot has."""
        return self.job is None and self.path.endswith(".parquet")


async def known_damage(manifest: SqlManifest, account: AccountName) -> tuple[KnownDamage, ...]:
    """Return the damage that is known of an account, but for snapshots that are no longer published."""
    return await _of_published(manifest, account, await _stored(manifest, account))


async def record_damage(
    manifest: SqlManifest, account: AccountName, found: Sequence[KnownDamage], *, was_read: Callable[[str], bool]
) -> None:
    """Replace the known damage of the part that a verify read by the damage that it found."""
    stored = await _stored(manifest, account)
    damage = _after(await _of_published(manifest, account, stored), found, was_read)
    # Also to forget what is hidden now: the snapshot may be published again.
    if set(damage) != set(stored):
        await _save(manifest, account, damage)


async def forget_damage(manifest: SqlManifest, account: AccountName, job: JobId) -> None:
    """Forget the damage of a snapshot that is no longer there. The next one of the job is a new one."""
    stored = await _stored(manifest, account)
    left = [item for item in stored if item.job != job]
    if len(left) < len(stored):
        await _save(manifest, account, left)


async def is_known_damage(
    manifest: SqlManifest, account: AccountName, found: Sequence[KnownDamage], *, was_read: Callable[[str], bool]
) -> bool:
    """Return whether `record_damage` would change nothing. Writes nothing."""
    stored = await _stored(manifest, account)
    return set(stored) == set(_after(await _of_published(manifest, account, stored), found, was_read))


async def _stored(manifest: SqlManifest, account: AccountName) -> tuple[KnownDamage, ...]:
    stored = await StoredValues(manifest).load(_key(account))
    return () if stored is None else tuple(KnownDamage(**entry) for entry in json.loads(stored))


async def _save(manifest: SqlManifest, account: AccountName, damage: Sequence[KnownDamage]) -> None:
    text = json.dumps([asdict(item) for item in damage]) if damage else None
    await StoredValues(manifest).save(_key(account), text)


async def _of_published(
    manifest: SqlManifest, account: AccountName, stored: Sequence[KnownDamage]
) -> tuple[KnownDamage, ...]:
    if not stored:
        return ()
    published = await manifest.published_folders(account)
    return tuple(item for item in stored if item.job is None or item.job in published)


def _after(
    known: Sequence[KnownDamage], found: Sequence[KnownDamage], was_read: Callable[[str], bool]
) -> list[KnownDamage]:
    return [*(item for item in known if item.key is not None and not was_read(item.key)), *found]


def moved_damage(stored: str, folders: Mapping[str, str]) -> str:
    """Return stored damage with the new paths of snapshots whose folders were moved: old path to new path."""
    moved = []
    for item in (KnownDamage(**entry) for entry in json.loads(stored)):
        # The key of a whole folder is its path.
        key = None if item.key is None else _moved(item.key, folders)
        moved.append(replace(item, path=_moved(item.path, folders), key=key))
    return json.dumps([asdict(item) for item in moved])


def _moved(path: str, folders: Mapping[str, str]) -> str:
    for old, new in folders.items():
        if path == old or path.startswith(f"{old}/"):
            return new + path[len(old) :]
    return path


def _key(account: AccountName) -> str:
    return f"damage:{account}"
