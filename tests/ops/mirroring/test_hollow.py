"""Snapshots without tables, which earlier versions published: they are named, and replaced when you name the job."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcsync.app.from_config import account_settings
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.core.standing import StandingAlert
from dcsync.errors import ExitStatus
from dcsync.manifest import StandingAlerts
from dcsync.mirror import trash
from dcsync.ops.alerts.collect import AlertSources, collect_alerts
from dcsync.ops.mirroring.outcome import Wanted
from dcsync.sandbox import Fault
from tests.rigs.listener import Listener
from tests.rigs.mirror import Mirror, add_extract, assert_proved_by_sums, sidecar, tables
from tests.rigs.publishing import publish_hollow

ACME = AccountName("acme")


def latest_of(snapshot: Path) -> Path:
    return next(path for path in (parent / "latest" for parent in snapshot.parents) if path.is_symlink())


async def standing(mirror: Mirror) -> list[StandingAlert]:
    async with mirror.opened() as context:
        return list(await StandingAlerts(context.manifest).load([ACME]))


async def test_they_are_one_alert_with_the_way_to_fetch_them_again_and_that_way_works(mirror: Mirror) -> None:
    first, second = (add_extract(mirror, tables(3, seed=day), days_ago=2 - day, with_archive=True) for day in (0, 1))
    folders = await publish_hollow(mirror, first, second)

    # A plain run does not download what the manifest has as published.
    assert (await mirror.run()).published == []
    (item,) = await standing(mirror)
    assert (item.alert.code, item.alert.kind.exit_status) == ("M-EMPTY", ExitStatus.INCOMPLETE)
    assert item.alert.message == (
        f"2 snapshots of My Company Data Extract hold no table (first: {folders[0].relative_to(mirror.root)})"
    )
    assert f"dcsync sync --job {first} --job {second}" in item.alert.hint

    outcome = await mirror.run(wanted=Wanted(jobs=(first, second)))

    assert [published.job for published in outcome.published] == [first, second]
    assert [mirror.snapshot_of(job) for job in (first, second)] == folders
    for job in (first, second):
        mirror.assert_identical(job)
        assert_proved_by_sums(mirror.snapshot_of(job))
    assert latest_of(folders[1]).resolve() == folders[1]
    assert await standing(mirror) == []
    assert [list((mirror.root / ".dcsync" / name).iterdir()) for name in ("trash", "staging")] == [[], []]
    assert (await mirror.states()) == {first: JobState.PUBLISHED, second: JobState.PUBLISHED}


async def test_a_dry_run_plans_it_and_changes_nothing(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(3))
    (folder,) = await publish_hollow(mirror, job)

    outcome = await mirror.sync_one(wanted=Wanted(jobs=(job,)), dry_run=True)

    assert [planned.job for planned in outcome.planned] == [job]
    assert {path.name for path in folder.iterdir()} == {"README.html", "_dcsync.json", "SHA256SUMS"}


async def test_the_old_one_stays_until_the_new_one_is_ready(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(3))
    (folder,) = await publish_hollow(mirror, job)
    mirror.sandbox.faults.add(Fault(server="storage", kind="reset", times=None))

    outcome = await mirror.sync_one(wanted=Wanted(jobs=(job,)))

    assert [failed.code for failed in outcome.failed] == ["S-NETWORK"]
    assert (folder / "README.html").is_file()
    mirror.sandbox.faults.clear()
    mirror.clock.advance(7 * 3600)
    # It is an open job now, so the next run goes on without being told.
    await mirror.sync()
    mirror.assert_identical(job)


async def test_once_autodesk_has_deleted_the_extract_it_is_a_final_loss(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(3), days_ago=24)
    (folder,) = await publish_hollow(mirror, job)
    listener = Listener(mirror)
    assert ("alert", "M-EMPTY") in await listener.run()
    mirror.clock.advance(6 * 86400)

    events = await listener.run()

    assert ("failure", "L-LOST") in events
    assert ("recovered", "M-EMPTY") not in events
    (item,) = (item for item in await standing(mirror) if item.alert.code in {"M-EMPTY", "L-LOST"})
    async with mirror.opened() as context:
        (account,) = account_settings(mirror.configuration())
        sources = AlertSources(account=account, root=mirror.root)
        found = await collect_alerts(context.manifest, sources, mirror.clock.now())
    # Nothing can resolve it, so it is notified once.
    assert [alert.is_final for alert in found.alerts if alert.code == "L-LOST"] == [True]
    assert (item.alert.code, item.alert.kind.exit_status) == ("L-LOST", ExitStatus.DONE)
    assert item.alert.message.endswith("Autodesk has deleted the extract")
    outcome = await mirror.sync_one(wanted=Wanted(jobs=(job,)))
    assert [skipped.reason for skipped in outcome.skipped] == [
        "it is published without any table, and Autodesk has deleted the extract"
    ]
    assert folder.is_dir()


async def test_a_selection_that_still_leaves_nothing_replaces_nothing(mirror: Mirror) -> None:
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "include": ["adm_*"]}]
    job = add_extract(mirror, tables(3))
    (folder,) = await publish_hollow(mirror, job)

    outcome = await mirror.sync_one(wanted=Wanted(jobs=(job,)))

    assert [failed.code for failed in outcome.failed] == ["C-NOTABLES"]
    assert (folder / "README.html").is_file()


async def test_latest_moves_to_the_newest_snapshot_with_tables(mirror: Mirror) -> None:
    full = add_extract(mirror, tables(3), days_ago=2)
    await mirror.sync()
    snapshot = mirror.snapshot_of(full)
    (hollow,) = await publish_hollow(mirror, add_extract(mirror, tables(3), days_ago=1))
    assert latest_of(hollow).resolve() == hollow

    await mirror.sync()

    assert latest_of(hollow).resolve() == snapshot
    # The next snapshot is compared with it too, not with the one in between.
    job = add_extract(mirror, tables(3))
    await mirror.sync()
    assert sidecar(mirror.snapshot_of(job))["changes"]["against"] == full


@pytest.mark.parametrize("kind", ["symlink", "hardlinks"])
async def test_latest_is_removed_if_no_snapshot_has_tables(mirror: Mirror, kind: str) -> None:
    (hollow,) = await publish_hollow(mirror, add_extract(mirror, tables(3)))
    latest = latest_of(hollow)
    if kind == "hardlinks":
        latest.unlink()
        latest.mkdir()
        for path in hollow.iterdir():
            (latest / path.name).hardlink_to(path)

    await mirror.sync()

    assert latest.name not in {path.name for path in latest.parent.iterdir()}
    assert hollow.is_dir()


async def test_a_latest_of_somebody_else_is_not_removed(mirror: Mirror) -> None:
    (hollow,) = await publish_hollow(mirror, add_extract(mirror, tables(3)))
    latest = latest_of(hollow)
    latest.unlink()
    latest.symlink_to("/nowhere")

    await mirror.sync()

    assert latest.is_symlink()


async def test_a_kill_between_the_two_renames_costs_nothing(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(3))
    (folder,) = await publish_hollow(mirror, job)
    async with mirror.opened() as context:
        for state in (JobState.SEEN, JobState.LISTED, JobState.STAGING):
            await context.manifest.move(ACME, JobId(job), state, at=mirror.clock.now())
        trash.discard(context.root, str(folder.relative_to(mirror.root)), "hollow-x", depth=2)

    outcome = await mirror.sync_one()

    assert [published.job for published in outcome.published] == [job]
    mirror.assert_identical(job)
    assert list((mirror.root / ".dcsync/trash").iterdir()) == []


async def test_a_kill_before_the_row_of_an_old_version_does_not_adopt_it(mirror: Mirror) -> None:
    """The folder is there, the row is not: the extract is fetched, and the folder replaced."""
    job = add_extract(mirror, tables(3))
    await publish_hollow(mirror, job)
    async with mirror.opened() as context:
        await context.manifest.move(ACME, JobId(job), JobState.SEEN, at=mirror.clock.now())

    await mirror.sync()

    mirror.assert_identical(job)


async def test_a_rebuilt_manifest_knows_them(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(3))
    await publish_hollow(mirror, job)
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()

    await mirror.run()

    assert [item.alert.code for item in await standing(mirror)] == ["M-EMPTY"]
