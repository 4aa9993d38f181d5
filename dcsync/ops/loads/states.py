"""The state of each load in the manifest. A module of its own, because `dcsync status` imports it."""

from __future__ import annotations

from dcsync.core.load_state import LoadState, parse_state, state_text
from dcsync.manifest import SqlManifest, StoredValues


async def load_state(manifest: SqlManifest, name: str) -> LoadState:
    """Return what is known about the last attempt of a load."""
    return parse_state(await StoredValues(manifest).load(_key(name)))


async def save_state(manifest: SqlManifest, name: str, state: LoadState) -> None:
    """Record an attempt of a load."""
    await StoredValues(manifest).save(_key(name), state_text(state))


def _key(name: str) -> str:
    return f"load:{name}"
