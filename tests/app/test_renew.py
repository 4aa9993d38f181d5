"""A damaged manifest is set aside for a new one, under the lock, and only while it is damaged."""

from __future__ import annotations

import pytest

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import hold_state, open_mirror
from dcsync.app.renew import renewing, set_aside_damaged
from dcsync.errors import ManifestCorrupt, MirrorLocked, MirrorNotMounted
from dcsync.ops.recovery import recover
from tests.rigs.mirror import Mirror, add_extract, tables


def damage(mirror: Mirror) -> None:
    for path in mirror.state.glob("manifest.sqlite-*"):
        path.unlink()
    (mirror.state / "manifest.sqlite").write_bytes(b"rubbish" * 1000)


def set_aside(mirror: Mirror) -> list[str]:
    return [path.name for path in mirror.state.glob("manifest.sqlite.damaged-*")]


async def test_a_damaged_manifest_is_set_aside_and_recovery_fills_the_new_one(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    await mirror.sync()
    damage(mirror)

    config = mirror.configuration()
    async with renewing(open_mirror, config, mirror.stores(), role="sync", clock=mirror.clock) as context:
        assert not await context.manifest.knows_snapshots()
        await recover(context, account_settings(config))
        assert await context.manifest.knows_snapshots()

    assert set_aside(mirror) == [f"manifest.sqlite.damaged-{mirror.clock.now():%Y%m%dT%H%M%SZ}"]


async def test_a_manifest_that_is_sound_by_now_stays(mirror: Mirror) -> None:
    """Another process renewed it after this one had found it damaged."""
    await mirror.sync()

    await set_aside_damaged(mirror.configuration(), mirror.stores(), role="sync", clock=mirror.clock)

    assert set_aside(mirror) == []


async def test_nothing_is_set_aside_while_another_process_has_the_state_folder(mirror: Mirror) -> None:
    await mirror.sync()
    damage(mirror)
    async with hold_state(mirror.configuration(), role="sync"):
        with pytest.raises(MirrorLocked):
            await set_aside_damaged(mirror.configuration(), mirror.stores(), role="sync", clock=mirror.clock)

    assert set_aside(mirror) == []


async def test_nothing_is_set_aside_without_the_tree_to_rebuild_from(mirror: Mirror) -> None:
    await mirror.sync()
    damage(mirror)
    mirror.root.rename(mirror.folder / "the disk")
    mirror.root.mkdir()

    with pytest.raises(MirrorNotMounted):
        await set_aside_damaged(mirror.configuration(), mirror.stores(), role="sync", clock=mirror.clock)

    assert set_aside(mirror) == []


async def test_damage_that_is_found_later_sets_nothing_aside(mirror: Mirror) -> None:
    await mirror.sync()

    config = mirror.configuration()

    async def read() -> None:
        async with renewing(open_mirror, config, mirror.stores(), role="sync", clock=mirror.clock):
            message = "found by a query"
            raise ManifestCorrupt(message)

    with pytest.raises(ManifestCorrupt):
        await read()

    assert set_aside(mirror) == []
