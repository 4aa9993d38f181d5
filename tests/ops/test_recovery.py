"""What a start makes of what it finds: a lost manifest, an old one, folders that are gone, another disk."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from dcsync.app.from_config import account_settings
from dcsync.app.rebuild import rebuild_manifest
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName
from dcsync.core.retention import KeepPolicy
from dcsync.errors import DiskFault, MassChange, MirrorForeign, MirrorLocked, MirrorNotMounted, MirrorTampered
from dcsync.manifest.sql import open_manifest
from dcsync.mirror import disk
from dcsync.ops.integrity.prune import prune
from dcsync.ops.integrity.verify import verify
from dcsync.sandbox import Fault
from tests.rigs.mirror import Mirror, add_extract, tables


def drop_manifest(mirror: Mirror) -> None:
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()


def written(mirror: Mirror) -> dict[Path, int]:
    """Return when each thing in the mirror was written, but for the lock's note of who holds it."""
    return {path: path.stat().st_mtime_ns for path in mirror.root.rglob("*") if path.name != "lock"}


async def test_a_lost_manifest_is_made_anew_from_the_tree_without_a_download(mirror: Mirror) -> None:
    jobs = [add_extract(mirror, tables(3, seed=day), days_ago=3 - day) for day in range(3)]
    await mirror.sync()
    drop_manifest(mirror)
    before = mirror.sandbox.count("storage")

    outcome = await mirror.sync_one()

    assert not outcome.published
    assert mirror.sandbox.count("storage") == before
    assert await mirror.states() == dict.fromkeys(jobs, JobState.PUBLISHED)
    # And tomorrow links to what was adopted.
    today = add_extract(mirror, tables(3, seed=2))
    assert (await mirror.sync_one()).published[0].transfer.fetched_bytes == 0
    mirror.assert_identical(today)


async def test_a_lost_manifest_keeps_the_folder_that_the_request_got_at_first_sight(mirror: Mirror) -> None:
    request = mirror.world.add_request("First name")
    add_extract(mirror, tables(1), request=request, days_ago=1)
    await mirror.sync()
    mirror.world.requests[request].description = "Second name"
    drop_manifest(mirror)
    add_extract(mirror, tables(1), request=request)

    await mirror.sync()

    assert [path.name for path in (mirror.root / "acme").iterdir()] == [f"first-name-{request[:8]}"]


async def test_a_lost_manifest_does_not_make_a_request_known_that_could_not_be_read(mirror: Mirror) -> None:
    request = mirror.world.add_request("Changes", service_groups=("cdcissues",))
    add_extract(mirror, tables(1), request=request, days_ago=1)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=403, match=f"/requests/{request}"))
    await mirror.sync()
    drop_manifest(mirror)

    await mirror.sync()

    assert not list(mirror.root.glob("acme/*/latest"))
    async with mirror.opened() as context:
        (known,) = (await context.manifest.requests(AccountName("acme"))).values()
    assert not known.is_described
    assert len(list((mirror.root / "acme").iterdir())) == 1


async def test_an_older_manifest_put_back_overwrites_nothing_and_adopts(mirror: Mirror, tmp_path: Path) -> None:
    add_extract(mirror, tables(2), days_ago=1)
    await mirror.sync()
    shutil.copy(mirror.state / "manifest.sqlite", tmp_path / "old.sqlite")
    job = add_extract(mirror, tables(2, seed=1))
    await mirror.sync()
    inode = mirror.snapshot_of(job).stat().st_ino
    drop_manifest(mirror)
    shutil.copy(tmp_path / "old.sqlite", mirror.state / "manifest.sqlite")
    before = mirror.sandbox.count("storage")

    outcome = await mirror.sync_one()

    assert [published.job for published in outcome.published] == [job]
    assert outcome.published[0].transfer.fetched_bytes == 0
    assert mirror.sandbox.count("storage") == before
    assert mirror.snapshot_of(job).stat().st_ino == inode


def damage(mirror: Mirror, job: str) -> Path:
    damaged = mirror.snapshot_of(job) / "admin_table_000.csv"
    damaged.chmod(0o644)
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    return damaged


async def test_a_published_folder_without_a_row_that_was_damaged_is_not_adopted(mirror: Mirror, tmp_path: Path) -> None:
    add_extract(mirror, tables(2), days_ago=1)
    await mirror.sync()
    shutil.copy(mirror.state / "manifest.sqlite", tmp_path / "old.sqlite")
    job = add_extract(mirror, tables(2, seed=1))
    await mirror.sync()
    damaged = damage(mirror, job)
    drop_manifest(mirror)
    shutil.copy(tmp_path / "old.sqlite", mirror.state / "manifest.sqlite")

    outcome = await mirror.sync_one()

    (failed,) = outcome.failed
    assert failed.code == MirrorTampered.code
    assert "admin_table_000.csv" in failed.message
    # Left as it is, for a person to look at.
    assert damaged.read_bytes() == b"x" * damaged.stat().st_size


async def test_with_a_lost_manifest_a_damaged_snapshot_is_taken_in_as_it_was_published_and_not_linked_to(
    mirror: Mirror,
) -> None:
    job = add_extract(mirror, tables(2), days_ago=1)
    await mirror.sync()
    original = (mirror.snapshot_of(job) / "admin_table_000.csv").read_bytes()
    damage(mirror, job)
    drop_manifest(mirror)

    assert await mirror.states() == {job: JobState.PUBLISHED}

    today = add_extract(mirror, tables(2))
    (published,) = (await mirror.sync_one()).published
    assert published.transfer.fetched_bytes >= len(original)
    mirror.assert_identical(today)


async def test_a_disk_that_is_not_mounted_is_not_written_to(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    await mirror.sync()
    mirror.root.rename(mirror.folder / "the disk")
    mirror.root.mkdir()
    add_extract(mirror, tables(1, seed=1))

    with pytest.raises(MirrorNotMounted):
        await mirror.sync()

    assert list(mirror.root.iterdir()) == []


async def test_the_disk_of_another_instance_is_not_written_to(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    await mirror.sync()
    mirror.config["state"] = {"dir": str(mirror.folder / "another state")}
    add_extract(mirror, tables(1, seed=1))
    before = written(mirror)

    with pytest.raises(MirrorForeign):
        await mirror.sync()

    assert written(mirror) == before


async def test_two_runs_at_once_leave_the_mirror_to_the_first(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))

    async with mirror.opened():
        with pytest.raises(MirrorLocked, match=r"pid \d+ \(sync\)"):
            await mirror.sync()
        # Another state folder meets the lock in the root (docs/project/faults.md M8).
        mirror.config["state"] = {"dir": str(mirror.folder / "another state")}
        with pytest.raises(MirrorLocked, match="the mirror"):
            await mirror.sync()


async def test_staging_that_nobody_needs_is_cleared(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    await mirror.sync()
    stray = mirror.root / ".dcsync/staging/no such job"
    stray.mkdir()
    (stray / "half.csv.part").write_bytes(b"x")

    await mirror.sync()

    assert list((mirror.root / ".dcsync/staging").iterdir()) == []


async def test_a_crash_between_rename_and_commit_is_acknowledged_at_the_next_start(mirror: Mirror) -> None:
    """docs/project/design.md, Publish protocol (P7), with the manifest as it was just before the commit."""
    job = add_extract(mirror, tables(3))
    mirror.sandbox.faults.add(Fault(server="storage", kind="short", amount=1, match="table_002", times=3))
    await mirror.sync()
    drop_wal = mirror.folder / "before.sqlite"
    shutil.copy(mirror.state / "manifest.sqlite", drop_wal)
    mirror.clock.advance(7 * 3600)
    await mirror.sync()
    drop_manifest(mirror)
    shutil.copy(drop_wal, mirror.state / "manifest.sqlite")
    before = mirror.sandbox.count("storage")

    await mirror.sync()

    assert mirror.sandbox.count("storage") == before
    assert await mirror.states() == {job: JobState.PUBLISHED}
    (latest,) = mirror.root.glob("acme/*/latest")
    assert latest.resolve() == mirror.snapshot_of(job)


@pytest.mark.parametrize("lost", ["the last row", "the manifest"])
async def test_what_cannot_be_made_durable_is_not_acknowledged(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """What a killed run left may be gone with the power, until the disk was asked for it."""
    first = add_extract(mirror, tables(2), days_ago=1)
    await mirror.sync()
    before = mirror.folder / "before.sqlite"
    shutil.copy(mirror.state / "manifest.sqlite", before)
    second = add_extract(mirror, tables(2, seed=1))
    await mirror.sync()
    drop_manifest(mirror)
    if lost == "the last row":
        shutil.copy(before, mirror.state / "manifest.sqlite")
    fetched = mirror.sandbox.count("storage")

    with monkeypatch.context() as broken:
        broken.setattr(disk, "sync_file_system", failing)
        if lost == "the last row":
            outcome = await mirror.sync_one()
            assert isinstance(outcome.error, DiskFault)
            assert await mirror.states() == {first: JobState.PUBLISHED, second: JobState.SEEN}
        else:
            with pytest.raises(DiskFault):
                await mirror.sync()
            async with open_manifest(mirror.state / "manifest.sqlite") as manifest:
                assert await manifest.accounts() == []
    mirror.clock.advance(3600)
    await mirror.sync()

    assert await mirror.states() == {first: JobState.PUBLISHED, second: JobState.PUBLISHED}
    assert mirror.sandbox.count("storage") == fetched


def failing(_descriptor: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("kind", ["symlink", "hardlinks"])
@pytest.mark.parametrize("there", [True, False], ids=["the old one", "none yet"])
async def test_a_crash_between_commit_and_latest_is_made_good_at_the_next_start(
    mirror: Mirror, kind: str, there: bool
) -> None:
    """Also when nothing new comes that would move it."""
    mirror.config["mirror"] = {"latest": kind}
    old = add_extract(mirror, tables(2), days_ago=1)
    await mirror.sync()
    (latest,) = mirror.root.glob("acme/*/latest")
    latest.rename(mirror.folder / "as it was")
    job = add_extract(mirror, tables(2, seed=1))
    await mirror.sync()
    shutil.rmtree(latest) if kind == "hardlinks" else latest.unlink()
    if there:
        (mirror.folder / "as it was").rename(latest)
        assert (latest / "_dcsync.json").samefile(mirror.snapshot_of(old) / "_dcsync.json")

    outcome = await mirror.sync_one()

    assert not outcome.published
    assert (latest / "_dcsync.json").samefile(mirror.snapshot_of(job) / "_dcsync.json")


async def test_latest_of_a_snapshot_that_was_removed_shows_the_one_before(mirror: Mirror) -> None:
    old = add_extract(mirror, tables(2), days_ago=1)
    job = add_extract(mirror, tables(2, seed=1))
    await mirror.sync()
    (latest,) = mirror.root.glob("acme/*/latest")
    shutil.rmtree(mirror.snapshot_of(job))

    async with mirror.opened():
        assert latest.resolve() == mirror.snapshot_of(old)


# --- changes of life --------------------------------------------------------------------------------------------------


def lose_hidden_files(mirror: Mirror) -> None:
    """Replace the mirror by a copy without hidden files, as `cp -r mirror/* elsewhere` makes it."""
    mirror.root.rename(mirror.folder / "original")
    mirror.root.mkdir()
    for path in (mirror.folder / "original").iterdir():
        if not path.name.startswith("."):
            shutil.copytree(path, mirror.root / path.name, symlinks=True)


@pytest.mark.parametrize("way", ["copies the instance", "rebuilds", "new state folder"])
async def test_a_copy_without_hidden_files_has_a_way_out(mirror: Mirror, way: str) -> None:
    jobs = [add_extract(mirror, tables(2, seed=day), days_ago=2 - day) for day in range(2)]
    await mirror.sync()
    lose_hidden_files(mirror)
    fetched = mirror.sandbox.count("storage")
    if way != "new state folder":
        with pytest.raises(MirrorNotMounted, match="it may be a copy without hidden files") as caught:
            await mirror.sync()
        assert "copy .dcsync from the original, at least .dcsync/instance" in caught.value.advice
        assert not (mirror.root / ".dcsync").exists()

    match way:
        case "copies the instance":
            (mirror.root / ".dcsync").mkdir()
            shutil.copy(mirror.folder / "original/.dcsync/instance", mirror.root / ".dcsync")
        case "rebuilds":
            report = await rebuild_manifest(mirror.configuration(), mirror.stores(), clock=mirror.clock)
            assert len(report.snapshots) == 2
        case _:
            shutil.rmtree(mirror.state)

    assert await mirror.states() == dict.fromkeys(jobs, JobState.PUBLISHED)
    outcome = await mirror.sync_one()
    assert (outcome.published, outcome.failed) == ([], [])
    assert mirror.sandbox.count("storage") == fetched


async def test_a_rebuild_on_an_empty_mount_point_is_refused(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    await mirror.sync()
    mirror.root.rename(mirror.folder / "the disk")
    mirror.root.mkdir()

    with pytest.raises(MirrorNotMounted):
        await rebuild_manifest(mirror.configuration(), mirror.stores(), clock=mirror.clock)

    assert (mirror.state / "manifest.sqlite").exists()
    assert list(mirror.root.iterdir()) == []


async def test_snapshots_removed_by_hand_have_a_way_out(mirror: Mirror) -> None:
    jobs = [add_extract(mirror, {"a.csv": b"%d" % day}, days_ago=8 - day) for day in range(8)]
    await mirror.sync()
    for job in jobs[:6]:
        shutil.rmtree(mirror.snapshot_of(job))
    with pytest.raises(MassChange) as caught:
        await mirror.sync()
    assert "run dcsync rebuild" in caught.value.advice

    report = await rebuild_manifest(mirror.configuration(), mirror.stores(), clock=mirror.clock)

    assert len(report.snapshots) == 2
    outcome = await mirror.sync_one()
    assert {done.job for done in outcome.published} == set(jobs[:6])


async def test_a_mirror_inside_another_is_never_adopted_pruned_or_reported(mirror: Mirror) -> None:
    jobs = [add_extract(mirror, {"a.csv": b"%d" % day}, days_ago=4 - day) for day in range(3)]
    await mirror.sync()
    # Another mirror of the same account, made while a version allowed it.
    inner = mirror.root / "inner"
    shutil.copytree(mirror.root, mirror.folder / "copy", symlinks=True)
    (mirror.folder / "copy").rename(inner)
    before = sorted(inner.rglob("*"))

    report = await rebuild_manifest(mirror.configuration(), mirror.stores(), clock=mirror.clock)

    assert {rebuilt.job for rebuilt in report.snapshots} == set(jobs)
    assert report.refused == []
    async with mirror.opened() as context:
        accounts = account_settings(mirror.configuration())
        assert (await verify(context, accounts)).damage == []
        assert (await prune(context, accounts, KeepPolicy(last=2))).removed == 1
    assert sorted(inner.rglob("*")) == before
    # It stays usable with its own state folder, and a new one is refused.
    shutil.copytree(mirror.state, mirror.folder / "inner state")
    mirror.config["mirror"] = {"root": str(inner)}
    mirror.config["state"] = {"dir": str(mirror.folder / "inner state")}
    assert (await mirror.sync_one()).error is None
    (mirror.root / "new").mkdir()
    mirror.config["mirror"] = {"root": str(mirror.root / "new")}
    mirror.config["state"] = {"dir": str(mirror.folder / "new state")}
    with pytest.raises(MirrorForeign, match=r"new is inside the mirror"):
        await mirror.sync()


async def test_a_snapshot_of_another_mirror_that_an_older_version_adopted_is_not_pruned(mirror: Mirror) -> None:
    jobs = [add_extract(mirror, {"a.csv": b"%d" % day}, days_ago=4 - day) for day in range(3)]
    await mirror.sync()
    # The account's folder became a mirror of its own.
    (mirror.root / "acme/.dcsync").mkdir()
    (mirror.root / "acme/.dcsync/instance").write_text('{"id": "theirs"}')

    async with mirror.opened() as context:
        report = await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=2))

    assert set(report.failed) == {jobs[0]}
    assert len(mirror.snapshots()) == 3
