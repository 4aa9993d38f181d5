"""What a rebuild finds in the mirror: snapshots, copies, folders of others, and what was pruned."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest

from dcsync.app.from_config import account_settings
from dcsync.app.rebuild import rebuild_manifest
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.core.retention import KeepPolicy
from dcsync.manifest import StoredValues
from dcsync.ops.integrity.prune import prune
from dcsync.ops.integrity.rebuild import REBUILDING, RebuildReport
from tests.rigs.mirror import Mirror, add_extract, tables
from tests.rigs.rebuilt import drop_manifest, fill, manifest_file, reopen, rows

ACME = AccountName("acme")


async def rebuild(mirror: Mirror) -> RebuildReport:
    return await rebuild_manifest(mirror.configuration(), mirror.stores(), clock=mirror.clock)


async def test_a_sound_manifest_is_made_anew_when_asked_for(mirror: Mirror) -> None:
    await fill(mirror)
    before = rows(mirror)
    mirror.clock.advance(86400)

    report = await rebuild(mirror)

    assert rows(mirror) == before
    assert len(report.snapshots) == 7
    assert report.refused == []
    assert report.set_aside is not None
    assert str(manifest_file(mirror)) + ".replaced-20261123T120000Z" == report.set_aside
    assert len(list(mirror.state.glob("*.replaced-*"))) == 1


async def test_each_inode_is_read_once_however_many_snapshots_share_it(mirror: Mirror) -> None:
    for day in range(4):
        add_extract(mirror, {"big.csv": b"x" * 100_000, "new.csv": b"%d" % day}, days_ago=4 - day)
    await mirror.sync()

    report = await rebuild(mirror)

    assert report.read_bytes == 100_000 + 4


async def test_without_sidecars_rows_are_made_from_names_and_hashes(mirror: Mirror) -> None:
    """docs/project/faults.md M2."""
    await fill(mirror)
    before = rows(mirror)
    for path in mirror.root.glob("acme/**/_dcsync.json"):
        path.unlink()

    report = await rebuild(mirror)

    after = rows(mirror)
    assert {row["strategy"] for row in after["job"]} == {"adopted"}
    assert {(row["folder"], row["completed_at"], row["state"]) for row in after["job"]} == {
        (row["folder"], row["completed_at"] // 1_000_000 * 1_000_000, row["state"]) for row in before["job"]
    }
    facts = ("name", "size", "crc32", "sha256", "mtime_ns", "inode")
    assert sorted([row[key] for key in facts] for row in after["file"]) == sorted(
        [row[key] for key in facts] for row in before["file"]
    )
    assert {rebuilt.source.value for rebuilt in report.snapshots} == {"names"}


async def test_what_was_rebuilt_without_sidecars_is_known_again_by_the_next_sync_and_not_fetched(
    mirror: Mirror,
) -> None:
    await fill(mirror)
    before = {(row["id"], row["folder"], row["request"]) for row in rows(mirror)["job"]}
    requests = {row["id"] for row in rows(mirror)["request"]}
    for path in mirror.root.glob("acme/**/_dcsync.json"):
        path.unlink()
    drop_manifest(mirror)
    sent = mirror.sandbox.count("storage")

    outcome = await mirror.sync_one()

    assert (outcome.failed, outcome.error) == ([], None)
    assert mirror.sandbox.count("storage") == sent
    assert {(row["id"], row["folder"], row["request"]) for row in rows(mirror)["job"]} == before
    assert {row["id"] for row in rows(mirror)["request"]} == requests
    # And tomorrow links to them.
    add_extract(mirror, tables(4, seed=2), request=list(mirror.world.requests)[1], with_archive=True)
    assert (await mirror.sync_one()).published[0].transfer.linked_bytes > 4000


@pytest.mark.parametrize("lost", ["_dcsync.json", "SHA256SUMS"])
async def test_one_sidecar_that_is_lost_takes_its_request_from_its_neighbours(mirror: Mirror, lost: str) -> None:
    jobs = [add_extract(mirror, tables(2, seed=day), days_ago=3 - day) for day in range(3)]
    await mirror.sync()
    folder = mirror.snapshot_of(jobs[1])
    (folder / lost).unlink()
    (folder / "_dcsync.json").unlink(missing_ok=True)

    await rebuild(mirror)

    async with mirror.opened() as context:
        known = await context.manifest.jobs(ACME)
        assert set(known) == {jobs[0], jobs[1][:8], jobs[2]}
        assert len(await context.manifest.requests(ACME)) == 1


async def test_a_sidecar_that_was_changed_is_outvoted_by_the_sums_and_the_file(mirror: Mirror) -> None:
    job = add_extract(mirror, {"a.csv": b"content"})
    await mirror.sync()
    before = rows(mirror)["file"]
    path = mirror.snapshot_of(job) / "_dcsync.json"
    body = path.read_text()
    path.chmod(0o644)
    path.write_text(body.replace(before[0]["sha256"], "0" * 64))

    report = await rebuild(mirror)

    assert [row["sha256"] for row in rows(mirror)["file"]] == [before[0]["sha256"]]
    assert report.snapshots[0].damaged == ()


async def test_damage_in_a_file_is_said_and_its_row_is_what_was_published(mirror: Mirror) -> None:
    job = add_extract(mirror, {"a.csv": b"content", "b.csv": b"more"})
    await mirror.sync()
    before = {row["name"]: row["sha256"] for row in rows(mirror)["file"]}
    path = mirror.snapshot_of(job) / "a.csv"
    path.chmod(0o644)
    path.write_bytes(b"CONTENT")
    (mirror.snapshot_of(job) / "b.csv").unlink()

    report = await rebuild(mirror)

    assert report.snapshots[0].damaged == ("a.csv: content differs from the recorded SHA-256", "b.csv: missing")
    assert {row["name"]: row["sha256"] for row in rows(mirror)["file"]} == before
    assert {row["inode"] for row in rows(mirror)["file"]} == {None}


async def test_a_copy_of_a_snapshot_elsewhere_in_the_tree_is_refused(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    await mirror.sync()
    shutil.copytree(mirror.snapshot_of(job), mirror.root / "zzz-copy")

    report = await rebuild(mirror)

    assert [rebuilt.job for rebuilt in report.snapshots] == [job]
    assert [folder for folder, _ in report.refused] == ["zzz-copy"]


async def test_a_copy_is_refused_also_when_the_snapshot_was_taken_in_before_a_rebuild_was_cut_short(
    mirror: Mirror,
) -> None:
    job = add_extract(mirror, tables(1))
    await mirror.sync()
    before = rows(mirror)
    shutil.copytree(mirror.snapshot_of(job), mirror.root / "zzz-copy")
    async with mirror.opened() as context:
        await StoredValues(context.manifest).save(REBUILDING, "yes")

    # Goes on with it.
    await mirror.sync()

    assert rows(mirror)["job"] == before["job"]
    assert rows(mirror)["file"] == before["file"]


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('"etag": ', '"etag": "\\ud800", "was": ', "invalid Unicode"),
        ('"name": "admin_table_001.csv"', '"name": "ADMIN_TABLE_000.csv"', "a file name twice"),
    ],
)
async def test_a_sidecar_that_no_row_can_hold_stops_nothing(
    mirror: Mirror, before: str, after: str, reason: str
) -> None:
    sound = add_extract(mirror, tables(2), days_ago=1)
    job = add_extract(mirror, tables(2, seed=1))
    await mirror.sync()
    path = mirror.snapshot_of(job) / "_dcsync.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace(before, after))

    report = await rebuild(mirror)

    assert [rebuilt.job for rebuilt in report.snapshots] == [sound]
    assert reason in report.refused[0][1]
    await reopen(mirror)


async def test_a_folder_of_the_operator_s_is_not_taken_for_a_snapshot(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"layout": "{account}/{request}/{job}"}
    job = add_extract(mirror, tables(1))
    await mirror.sync()
    (mirror.root / "acme/notes/mine").mkdir(parents=True)
    (mirror.root / "acme/notes/mine/todo.txt").write_text("buy a disk")

    report = await rebuild(mirror)

    assert [rebuilt.job for rebuilt in report.snapshots] == [job]
    assert report.refused == []


async def test_a_latest_of_hard_links_is_not_taken_for_a_snapshot(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"latest": "hardlinks"}
    add_extract(mirror, tables(2))
    await mirror.sync()
    before = rows(mirror)

    report = await rebuild(mirror)

    assert rows(mirror) == before
    assert report.refused == []


async def test_what_was_pruned_is_known_again_and_not_fetched(mirror: Mirror) -> None:
    for day in range(3):
        add_extract(mirror, tables(1, seed=day), days_ago=3 - day)
    await mirror.sync()
    async with mirror.opened() as context:
        await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=2))
    before = rows(mirror)
    drop_manifest(mirror)

    outcome = await mirror.sync_one()

    assert outcome.published == []
    after = rows(mirror)
    assert after == before
    assert sorted(row["state"] for row in after["job"]) == ["pruned", "published", "published"]


async def test_a_rebuild_that_was_cut_short_goes_on_at_the_next_start(mirror: Mirror) -> None:
    await fill(mirror)
    before = rows(mirror)
    async with mirror.opened() as context:
        await StoredValues(context.manifest).save(REBUILDING, "yes")
    with closing(sqlite3.connect(manifest_file(mirror))) as connection:
        # As after a kill: the first ones are in, the others are not.
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("DELETE FROM job WHERE id IN (SELECT id FROM job ORDER BY completed_at DESC LIMIT 4)")
        connection.commit()

    await reopen(mirror)

    assert rows(mirror) == before
    async with mirror.opened() as context:
        assert await StoredValues(context.manifest).load(REBUILDING) is None


async def test_a_snapshot_of_an_older_version_s_sidecar_is_adopted(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(2))
    await mirror.sync()
    path = mirror.snapshot_of(job) / "_dcsync.json"
    path.chmod(0o644)
    document = path.read_text()
    start = document.index(',\n "record"')
    path.write_text(document[:start] + "\n}\n")
    (path.parent / "SHA256SUMS").unlink()

    await rebuild(mirror)

    async with mirror.opened() as context:
        known = (await context.manifest.jobs(ACME))[JobId(job)]
        assert known.state is JobState.PUBLISHED
        assert known.folder == str(path.parent.relative_to(mirror.root))
        assert len(await context.manifest.requests(ACME)) == 1


async def test_what_a_nas_and_desktops_left_is_neither_a_file_nor_a_snapshot(mirror: Mirror) -> None:
    await fill(mirror)
    folders = mirror.snapshots()
    for folder in folders:
        (folder / ".DS_Store").write_bytes(b"x")
        (folder / "@eaDir" / "_dcsync.json").mkdir(parents=True)
    # Nothing says which files this one had.
    (folders[0] / "_dcsync.json").unlink()
    (folders[0] / "SHA256SUMS").unlink()
    (mirror.root / "acme/@eaDir/_dcsync.json").mkdir(parents=True)
    for place in ("#recycle", "acme/.snapshot/daily"):
        shutil.copytree(folders[-1], mirror.root / place / "acme" / folders[-1].name)
    drop_manifest(mirror)

    report = await rebuild(mirror)

    assert report.refused == []
    assert {mirror.root / rebuilt.folder for rebuilt in report.snapshots} == set(folders)
    # The ZIPs have two schema documents, and a listing without a ZIP has none.
    assert sorted(rebuilt.files for rebuilt in report.snapshots) == [1, 5, 5, 5, 6, 6, 6]
