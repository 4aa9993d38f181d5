"""Folders on other file systems below the root, and file systems that refuse chmod.

Each extract is published all the same, or waits without another download.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import duckdb
import pytest

from dcsync.app.from_config import account_settings
from dcsync.app.state_dir import write_text
from dcsync.core.lifecycle import JobState
from dcsync.errors import ManifestError
from dcsync.ops.integrity.report import Outcome
from dcsync.ops.integrity.verify import verify
from dcsync.ops.mirroring.run import sync
from dcsync.sandbox import Fault
from tests.rigs.mirror import Mirror, add_extract, assert_proved_by_sums, sidecar, status_of, tables
from tests.rigs.odd import mounted

pytestmark = pytest.mark.needs_root

FILES = {**tables(3), "README.html": b"<html>"}


@pytest.fixture
def mounts() -> Iterator[ExitStack]:
    """What a test mounts is unmounted at its end."""
    with ExitStack() as stack:
        yield stack


def mount_memory(mounts: ExitStack, place: Path, options: str = "size=64m") -> None:
    place.mkdir(parents=True, exist_ok=True)
    mounts.enter_context(mounted("-t", "tmpfs", "-o", options, "none", place))


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def unmount(place: Path) -> None:
    subprocess.run(["umount", "--lazy", place], check=True)


def mount_again(place: Path, held: int) -> None:
    subprocess.run(["mount", "--bind", f"/proc/self/fd/{held}", place], check=True, pass_fds=[held])


def hidden(mirror: Mirror) -> list[Path]:
    return [path for path in mirror.root.rglob(".dcsync-*") if path.is_dir()]


def staged(mirror: Mirror) -> list[Path]:
    return [path for path in (mirror.root / ".dcsync/staging").iterdir() if not path.name.startswith("latest.")]


@pytest.mark.parametrize("latest", ["none", "symlink", "hardlinks"])
@pytest.mark.parametrize("place", ["acme", ".dcsync/staging"])
async def test_a_snapshot_is_published_across_file_systems(
    mirror: Mirror, mounts: ExitStack, place: str, latest: str
) -> None:
    mirror.config["mirror"] = {"latest": latest}
    mount_memory(mounts, mirror.root / place)
    first = add_extract(mirror, FILES, days_ago=1, with_archive=True)
    second = add_extract(mirror, {**FILES, "new.csv": b"id\n1\n"}, with_archive=True)

    outcome = await mirror.sync_one()

    assert [published.job for published in outcome.published] == [first, second]
    assert (outcome.failed, outcome.error) == ([], None)
    for job in (first, second):
        mirror.assert_identical(job)
        assert_proved_by_sums(mirror.snapshot_of(job))
    assert (hidden(mirror), staged(mirror)) == ([], [])
    unchanged = mirror.snapshot_of(second) / "admin_table_000.csv"
    assert unchanged.samefile(mirror.snapshot_of(first) / "admin_table_000.csv")
    assert stat.S_IMODE(unchanged.stat().st_mode) == 0o444
    assert stat.S_IMODE(unchanged.parent.stat().st_mode) == 0o755
    # The manifest knows the inodes of the published files, so that the next extract links them without reading them.
    third = add_extract(mirror, FILES, days_ago=-0.1)
    assert [published.job for published in (await mirror.sync_one()).published] == [third]
    shown = [path.parent.resolve() for path in mirror.root.glob("acme/*/latest/_dcsync.json")]
    assert [sidecar(path)["job"]["id"] for path in shown] == ([] if latest == "none" else [third])
    assert "M-LATEST" not in (await status_of(mirror)).codes
    mirror.config["mirror"] = {"latest": "none"}
    await mirror.sync()
    assert list(mirror.root.glob("acme/*/latest")) == []
    assert (hidden(mirror), staged(mirror)) == ([], [])


@pytest.mark.parametrize("bind", [False, True], ids=["file system", "bind"])
async def test_under_a_mount_that_went_away_nothing_is_written(mirror: Mirror, mounts: ExitStack, bind: bool) -> None:
    """The snapshot was published on the disk below, and disappeared when the mount was back."""
    place, other = mirror.root / "acme", mirror.folder / "elsewhere"
    for folder in (place, other):
        folder.mkdir()
    how = ("--bind", other, place) if bind else ("-t", "tmpfs", "none", place)
    add_extract(mirror, FILES, days_ago=1)
    with mounted(*how):
        await mirror.sync()
        # Busy, so that it stays when it is unmounted lazily.
        held = os.open(place, os.O_RDONLY)
        async with mirror.opened() as context:
            unmount(place)
            second = add_extract(mirror, FILES)

            (outcome,) = await sync(context, account_settings(mirror.configuration()))

            assert [(failed.job, failed.code) for failed in outcome.failed] == [(second, "F-DISK")]
            assert f"{place} was on another file system" in outcome.failed[0].message
            assert list(place.iterdir()) == []
            # It is mounted again.
            mount_again(place, held)
            os.close(held)
            mirror.clock.advance(3600)
            (outcome,) = await sync(context, account_settings(mirror.configuration()))

        assert [published.job for published in outcome.published] == [second]
        mirror.assert_identical(second)


@pytest.mark.parametrize("latest", ["symlink", "hardlinks"])
async def test_latest_in_a_mount_of_the_same_file_system(mirror: Mirror, mounts: ExitStack, latest: str) -> None:
    """A rename between two mounts is refused, although the device is the same."""
    mirror.config["mirror"] = {"latest": latest}
    (mirror.folder / "elsewhere").mkdir()
    (mirror.root / "acme").mkdir()
    mounts.enter_context(mounted("--bind", mirror.folder / "elsewhere", mirror.root / "acme"))
    for day in (2, 1):
        job = add_extract(mirror, {**FILES, "new.csv": b"id\n%d\n" % day}, days_ago=day)
        assert [published.job for published in (await mirror.sync_one()).published] == [job]

        (shown,) = mirror.root.glob("acme/*/latest")
        assert sidecar(shown)["job"]["id"] == job
    assert (hidden(mirror), list((mirror.root / ".dcsync/staging").iterdir())) == ([], [])


async def test_the_folder_of_a_data_request_that_is_a_mount_of_the_same_file_system(
    mirror: Mirror, mounts: ExitStack
) -> None:
    first = add_extract(mirror, FILES, days_ago=1)
    await mirror.sync()
    (request,) = (path for path in (mirror.root / "acme").iterdir() if path.is_dir())
    other = mirror.folder / "elsewhere"
    other.mkdir()
    mounts.enter_context(mounted("--bind", other, request))
    second = add_extract(mirror, FILES)

    outcome = await mirror.sync_one()

    # The first snapshot is below the mount, so it is missing and downloaded again.
    assert [published.job for published in outcome.published] == [first, second]
    mirror.assert_identical(second)
    assert sorted(path.name for path in other.iterdir()) == ["2026", "latest"]


async def test_an_extract_that_cannot_be_published_waits_and_is_not_downloaded_again(
    mirror: Mirror, mounts: ExitStack
) -> None:
    """The account's disk is full. The mirror's own disk has the downloaded files until there is space."""
    account = mirror.root / "acme"
    mount_memory(mounts, account, "size=64k")
    job = add_extract(mirror, {"a.csv": b"id\n" * 100_000}, with_archive=True)

    outcome = await mirror.sync_one()

    assert outcome.error is None
    (failed,) = outcome.failed
    assert (failed.code, failed.state) == ("F-DISK", JobState.FAILED)
    assert "publishing acme/" in failed.message
    assert "are needed" in failed.message
    assert str(account) in failed.hint
    assert "that file system has 64.0 KiB free of 64.0 KiB" in failed.message
    assert failed.next_try_at is not None
    assert failed.next_try_at > mirror.clock.now()
    assert hidden(mirror) == []
    assert mirror.snapshots() == []
    calls = len(mirror.sandbox.calls)
    await mirror.sync_one()
    assert [call.server for call in mirror.sandbox.calls[calls:] if call.server == "storage"] == []

    remount(account, "size=64m")
    mirror.clock.advance(7 * 3600)
    fetched = mirror.fetched_bytes()
    outcome = await mirror.sync_one()

    assert [published.job for published in outcome.published] == [job]
    mirror.assert_identical(job)
    # The directory of the ZIP is read again, and nothing else.
    assert mirror.fetched_bytes() - fetched < 30_000


async def test_files_in_folders_are_not_downloaded_again_either(
    mirror: Mirror, mounts: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount_memory(mounts, mirror.root / "acme", "size=64k")
    files = {**tables(2), "schemas/a.json": os.urandom(200_000)}
    job = add_extract(mirror, files, with_archive=True)
    await mirror.sync_one()
    remount(mirror.root / "acme", "size=64m")
    mirror.clock.advance(7 * 3600)
    fetched = mirror.fetched_bytes()

    assert [published.job for published in (await mirror.sync_one()).published] == [job]
    assert mirror.fetched_bytes() - fetched < 100_000
    mirror.assert_identical(job)


async def test_a_folder_that_may_not_be_written_fails_its_job_and_no_other(mirror: Mirror, mounts: ExitStack) -> None:
    blocked = mirror.world.add_request("Blocked")
    other = mirror.world.add_request("Other")
    first = add_extract(mirror, FILES, request=blocked, days_ago=2)
    await mirror.sync()
    folder = mirror.snapshot_of(first).parents[3]
    mounts.enter_context(mounted("--bind", folder, folder))
    remount(folder, "bind,ro")
    second = add_extract(mirror, FILES, request=blocked, days_ago=1)
    third = add_extract(mirror, FILES, request=other)

    outcome = await mirror.sync_one()

    assert outcome.error is None
    assert [published.job for published in outcome.published] == [third]
    (failed,) = outcome.failed
    assert (failed.job, failed.code) == (second, "F-DISK")
    assert "Read-only file system" in failed.message


async def test_a_killed_copy_is_no_snapshot_and_the_next_run_publishes(mirror: Mirror, mounts: ExitStack) -> None:
    mount_memory(mounts, mirror.root / "acme")
    job = add_extract(mirror, FILES)
    await mirror.sync()
    snapshot = mirror.snapshot_of(job)
    # As a kill before the rename leaves it: complete, and under its hidden name.
    outer = snapshot.with_name(f".dcsync-{hashlib.sha256(job.encode()).hexdigest()[:16]}")
    outer.mkdir()
    snapshot.rename(outer / "new")
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()

    await mirror.sync()

    mirror.assert_identical(job)
    assert len(mirror.snapshots()) == 1


async def test_where_chmod_is_refused_snapshots_are_published_with_the_modes_of_the_file_system(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ZFS with `aclmode=restricted`, CIFS and many FUSE file systems do."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", refuse)
    first = add_extract(mirror, FILES, days_ago=1)
    second = add_extract(mirror, FILES)

    outcome = await mirror.sync_one()

    assert [published.job for published in outcome.published] == [first, second]
    mirror.assert_identical(second)


async def test_a_private_file_is_not_written_where_others_could_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, _mode: int) -> None:
        Path(f"/proc/self/fd/{descriptor}").chmod(0o644)
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", refuse)

    with pytest.raises(ManifestError, match=r"callback\.secret cannot be written: Operation not permitted"):
        write_text(tmp_path, "callback.secret", "secret")


async def test_the_copy_of_a_killed_run_is_removed_with_the_staging_that_nothing_needs(
    mirror: Mirror, mounts: ExitStack
) -> None:
    mount_memory(mounts, mirror.root / "acme", "size=64k")
    job = add_extract(mirror, {"a.csv": b"id\n" * 100_000})
    await mirror.sync()
    day = mirror.root.joinpath(next(iter(await folders_of(mirror)))).parent
    copy = day / f".dcsync-{hashlib.sha256(job.encode()).hexdigest()[:16]}"
    copy.mkdir(parents=True)
    (copy / "a.csv").write_bytes(b"half")
    await mirror.states()
    assert copy.exists()

    # Autodesk deletes the extract, and nothing needs its staging any more.
    mirror.clock.advance(31 * 86400)
    mirror.environ["TOKEN"] = mirror.sandbox.tokens.issue_access_token("tester", 86400)
    await mirror.sync()
    await mirror.states()

    assert not copy.exists()
    assert staged(mirror) == []


async def folders_of(mirror: Mirror) -> list[str]:
    async with mirror.opened() as context:
        return [known.folder for known in (await context.manifest.jobs(mirror.acme)).values() if known.folder]


@pytest.mark.parametrize("source", ["another snapshot", "Autodesk"])
async def test_a_damaged_file_is_repaired_across_file_systems(mirror: Mirror, mounts: ExitStack, source: str) -> None:
    mount_memory(mounts, mirror.root / "acme")
    job = add_extract(mirror, FILES, days_ago=1, with_archive=True)
    other = add_extract(mirror, FILES, with_archive=True) if source == "another snapshot" else job
    await mirror.sync()
    place = mirror.snapshot_of(job) / "admin_table_001.csv"
    if source == "another snapshot":
        place.unlink()
        place.write_bytes(b"damaged")
    else:
        place.chmod(0o644)
        place.write_bytes(b"damaged")

    async with mirror.opened(notices_missing=False) as context:
        report = await verify(context, account_settings(mirror.configuration()), repair=True)

    assert [(item.path.rpartition("/")[2], item.outcome) for item in report.damage] == [
        ("admin_table_001.csv", Outcome.REPAIRED)
    ]
    for each in (job, other):
        mirror.assert_identical(each)
        assert_proved_by_sums(mirror.snapshot_of(each))
    (kept,) = (mirror.root / ".dcsync/quarantine").rglob("admin_table_001.csv*")
    assert kept.read_bytes() == b"damaged"


async def test_no_pattern_of_duckdb_matches_a_snapshot_that_is_being_copied(
    mirror: Mirror, mounts: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount_memory(mounts, mirror.root / "acme")
    first = add_extract(mirror, FILES, days_ago=1)
    await mirror.sync()
    pattern = f"{mirror.snapshot_of(first).parents[3]}/*/*/*/*/*.csv"
    seen: list[Counter[str]] = []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        fsync(descriptor)
        with duckdb.connect() as connection:
            found = connection.execute("SELECT file FROM glob(?)", [pattern]).fetchall()
        seen.append(Counter(Path(path).parent.name for (path,) in found))

    second = add_extract(mirror, {**FILES, "new.csv": b"id\n"})
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", look)
        await mirror.sync()

    first_name, second_name = (mirror.snapshot_of(job).name for job in (first, second))
    assert {tuple(sorted(counts.items())) for counts in seen} == {
        ((first_name, 3),),
        tuple(sorted({first_name: 3, second_name: 4}.items())),
    }
    assert hidden(mirror) == []


async def test_what_a_kill_in_the_swap_of_latest_left_is_removed_by_the_next_start(
    mirror: Mirror, mounts: ExitStack
) -> None:
    """The patterns of DuckDB would match its files beside those of `latest`."""
    mount_memory(mounts, mirror.root / "acme")
    job = add_extract(mirror, FILES)
    await mirror.sync()
    (latest,) = mirror.root.glob("acme/*/latest")
    left = [latest.with_name(name) for name in (".dcsync-latest", ".dcsync-latest.old")]
    for path in left:
        path.symlink_to(latest.readlink())

    async with mirror.opened():
        pass

    assert [path for path in left if path.is_symlink()] == []
    assert sidecar(latest)["job"]["id"] == job


async def test_the_copy_of_a_killed_run_is_removed_although_its_account_left_the_configuration(
    mirror: Mirror, mounts: ExitStack
) -> None:
    mount_memory(mounts, mirror.root / "acme", "size=64k")
    job = add_extract(mirror, {"a.csv": b"id\n" * 100_000})
    await mirror.sync()
    copy = mirror.root.joinpath(next(iter(await folders_of(mirror)))).parent / f".dcsync-{hidden_digest(job)}"
    copy.mkdir(parents=True)
    (copy / "a.csv").write_bytes(b"half")
    mirror.config["account"] = [{"name": "other", "id": "11111111-2222-4333-8444-555555555555"}]

    async with mirror.opened():
        pass

    assert not copy.exists()
    assert staged(mirror) == []


async def test_the_copy_of_an_adopted_snapshot_is_removed_before_its_staging(
    mirror: Mirror, mounts: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill between the two, only the staging leads to the copy."""
    mount_memory(mounts, mirror.root / "acme")
    add_extract(mirror, FILES, days_ago=1)
    await mirror.sync()
    job = add_extract(mirror, {**FILES, "admin_table_002.csv": b"id\n1\n"})
    mirror.sandbox.faults.add(Fault(server="storage", kind="short", amount=1, match="table_002", times=3))
    await mirror.sync()
    before = (mirror.state / "manifest.sqlite").read_bytes()
    mirror.clock.advance(7 * 3600)
    await mirror.sync()
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()
    (mirror.state / "manifest.sqlite").write_bytes(before)
    copy = mirror.snapshot_of(job).with_name(f".dcsync-{hidden_digest(job)}")
    copy.mkdir()
    place = mirror.root / ".dcsync/staging" / job
    place.mkdir()
    exists_then: list[bool] = []
    rmdir = os.rmdir

    def note(path: str, *, dir_fd: int | None = None) -> None:
        if path == copy.name:
            exists_then.append(place.exists())
        rmdir(path, dir_fd=dir_fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rmdir", note)
        await mirror.sync()

    assert exists_then == [True]
    assert (hidden(mirror), staged(mirror)) == ([], [])


def hidden_digest(job: str) -> str:
    return hashlib.sha256(job.encode()).hexdigest()[:16]
