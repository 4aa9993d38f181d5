"""Opening opens: locks first, nothing mended, and nothing held after a failure."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import open_mirror, open_mirror_unlocked
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.errors import ConfigError, ManifestCorrupt, MirrorLocked, MirrorMissing
from dcsync.mirror.root import open_root
from dcsync.mirror.staging import Staging
from dcsync.ops.context import MirrorContext
from dcsync.ops.recovery import recover
from tests.rigs.mirror import Mirror, add_extract, tables

ACME = AccountName("acme")


def staged(mirror: Mirror) -> Path:
    """Leave the staging of a job that nobody knows."""
    with open_root(mirror.root) as root, Staging(root, JobId("abandoned"), 0) as staging:
        return mirror.root / staging.relative


async def state_of(context: MirrorContext, job: str) -> JobState:
    known = await context.manifest.job(ACME, JobId(job))
    assert known is not None
    return known.state


async def test_opening_mends_nothing_and_recovery_does(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    await mirror.sync()
    shutil.rmtree(mirror.snapshot_of(job))
    abandoned, config = staged(mirror), mirror.configuration()

    async with open_mirror(config, mirror.stores(config), clock=mirror.clock, role="sync") as context:
        assert abandoned.is_dir()
        assert await state_of(context, job) is JobState.PUBLISHED

        await recover(context, account_settings(config))

        assert not abandoned.exists()
        assert await state_of(context, job) is JobState.SEEN


async def test_opening_does_not_rebuild_a_lost_manifest(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    await mirror.sync()
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()

    async with open_mirror(mirror.configuration(), mirror.stores(), clock=mirror.clock, role="sync") as context:
        assert not await context.manifest.knows_snapshots()
        await recover(context, account_settings(mirror.configuration()))
        assert await context.manifest.knows_snapshots()


async def test_a_damaged_manifest_stays_where_it_is(mirror: Mirror) -> None:
    await mirror.sync()
    manifest = mirror.state / "manifest.sqlite"
    manifest.write_bytes(b"rubbish" * 1000)

    with pytest.raises(ManifestCorrupt):
        async with open_mirror(mirror.configuration(), mirror.stores(), clock=mirror.clock, role="sync"):
            pass

    assert manifest.read_bytes() == b"rubbish" * 1000
    assert not list(mirror.state.glob("manifest.sqlite.*"))


async def test_the_state_folder_is_locked_before_the_manifest_is_opened(mirror: Mirror) -> None:
    await mirror.sync()
    async with open_mirror(mirror.configuration(), mirror.stores(), clock=mirror.clock, role="sync"):
        # Opening it would raise ManifestCorrupt.
        (mirror.state / "manifest.sqlite").write_bytes(b"rubbish" * 1000)

        with pytest.raises(MirrorLocked):
            async with open_mirror(mirror.configuration(), mirror.stores(), clock=mirror.clock, role="sync"):
                pass


async def test_a_failed_opening_holds_no_lock(mirror: Mirror) -> None:
    mirror.root.rmdir()
    with pytest.raises(MirrorMissing):
        async with open_mirror(mirror.configuration(), mirror.stores(), clock=mirror.clock, role="sync"):
            pass
    mirror.root.mkdir()

    async with open_mirror(mirror.configuration(), mirror.stores(), clock=mirror.clock, role="sync"):
        pass


async def test_an_error_of_the_network_releases_the_mirror(mirror: Mirror) -> None:
    """The mirror is open by then, and both of its locks are held."""
    del mirror.environ["TOKEN"]
    with pytest.raises(ConfigError):
        async with mirror.opened():
            pass

    async with open_mirror(mirror.configuration(), mirror.stores(), clock=mirror.clock, role="sync"):
        pass


async def test_looking_writes_nothing_to_the_mirror_and_takes_no_lock(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    await mirror.sync()
    abandoned = staged(mirror)

    async with (
        open_mirror(mirror.configuration(), mirror.stores(), clock=mirror.clock, role="sync"),
        open_mirror_unlocked(mirror.configuration(), mirror.stores(), clock=mirror.clock) as context,
    ):
        assert await context.manifest.knows_snapshots()

    assert abandoned.is_dir()
