"""Published rows whose folder is gone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

import pytest

from dcsync.app.from_config import account_settings
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.errors import MassChange
from dcsync.manifest.damage import KnownDamage, known_damage, record_damage
from dcsync.manifest.sql import SqlManifest
from dcsync.ops.integrity.missing import notice_missing
from tests.rigs.mirror import Mirror, add_extract, status_of, tables


async def test_a_snapshot_that_was_removed_is_fetched_again_while_the_server_has_it(mirror: Mirror) -> None:
    add_extract(mirror, tables(1), days_ago=2)
    job = add_extract(mirror, tables(1, seed=1), days_ago=1)
    await mirror.sync()
    shutil.rmtree(mirror.snapshot_of(job))

    outcome = await mirror.sync_one()

    assert [published.job for published in outcome.published] == [job]
    mirror.assert_identical(job)


@pytest.mark.parametrize("notices", [True, False])
async def test_what_was_damaged_of_it_is_no_damage_of_the_one_that_is_fetched_again(
    mirror: Mirror, notices: bool
) -> None:
    """A run notices that a folder is gone, or a verify with repair does."""
    add_extract(mirror, tables(1), days_ago=2)
    job = add_extract(mirror, tables(1, seed=1), days_ago=1)
    await mirror.sync()
    name, job_id = mirror.acme, JobId(job)
    folder = str(mirror.snapshot_of(job).relative_to(mirror.root))
    async with mirror.opened() as context:
        found = [KnownDamage(path=folder, key=folder, job=job_id)]
        await record_damage(context.manifest, name, found, was_read=lambda _: True)
        if not notices:
            await context.manifest.move(name, job_id, JobState.SEEN, at=mirror.clock.now(), attempts=0)
            await record_damage(context.manifest, name, [], was_read=lambda _: True)
    shutil.rmtree(mirror.snapshot_of(job))

    await mirror.sync_one()

    mirror.assert_identical(job)
    async with mirror.opened() as context:
        assert await known_damage(context.manifest, name) == ()


async def test_a_snapshot_that_was_removed_after_its_30_days_is_a_loss_that_is_said_once(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    await mirror.sync()
    mirror.clock.advance(31 * 86400)
    mirror.environ["TOKEN"] = mirror.sandbox.tokens.issue_access_token("tester")
    shutil.rmtree(mirror.snapshot_of(job))

    outcome = await mirror.sync_one()

    assert not outcome.published
    assert await mirror.states() == {job: JobState.EXPIRED}
    status = await status_of(mirror)
    assert [item.alert.code for item in status.accounts[0].alerts if item.alert.subject == job] == ["L-LOST"]


async def test_a_snapshot_that_another_host_prunes_during_the_look_is_not_called_gone(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [add_extract(mirror, tables(1, seed=day), days_ago=2 - day) for day in range(2)]
    await mirror.sync()
    read = SqlManifest.published_folders

    async def read_then_pruned(manifest: SqlManifest, account: AccountName) -> Mapping[JobId, str]:
        folders = await read(manifest, account)
        shutil.rmtree(mirror.snapshot_of(jobs[0]))
        await manifest.move(account, JobId(jobs[0]), JobState.PRUNED, at=mirror.clock.now())
        return folders

    async with mirror.opened() as context:
        monkeypatch.setattr(SqlManifest, "published_folders", read_then_pruned)
        (account,) = account_settings(mirror.configuration())

        await notice_missing(context, account)

    monkeypatch.undo()
    assert await mirror.states() == {jobs[0]: JobState.PRUNED, jobs[1]: JobState.PUBLISHED}


async def test_so_much_gone_at_once_stops_for_safety_and_changes_nothing(mirror: Mirror) -> None:
    for day in range(8):
        add_extract(mirror, {"a.csv": b"%d" % day}, days_ago=8 - day)
    await mirror.sync()
    for snapshot in mirror.snapshots()[:5]:
        shutil.rmtree(snapshot)
    before = len(mirror.sandbox.calls)

    with pytest.raises(MassChange, match="5 of 8 snapshots"):
        await mirror.sync()

    assert len(mirror.sandbox.calls) == before
    assert len(mirror.snapshots()) == 3
