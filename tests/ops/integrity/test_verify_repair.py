"""`verify --repair` replaces what it can from the mirror and the API, and reports what is lost."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dcsync.app.from_config import account_settings
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.errors import ExitStatus
from dcsync.ops.integrity.report import Outcome, VerifyReport
from dcsync.ops.integrity.verify import verify
from dcsync.sandbox import Fault
from tests.rigs.mirror import Mirror, add_extract, assert_proved_by_sums, sidecar, tables
from tests.rigs.verified import ACME, spoil, verified


def outcome_of(report: VerifyReport) -> set[str]:
    return {item.outcome.value for item in report.damage}


async def test_what_the_server_still_has_is_fetched_and_replaced_in_every_snapshot(mirror: Mirror) -> None:
    jobs = [
        add_extract(mirror, {"a.csv": b"shared content", "b.csv": b"%d" % day}, days_ago=3 - day) for day in range(3)
    ]
    await mirror.sync()
    spoil(mirror.snapshot_of(jobs[0]) / "a.csv", b"SHARED CONTENT")
    before = mirror.sandbox.count("storage")

    report = await verified(mirror, repair=True)

    assert outcome_of(report) == {"repaired"}
    assert report.exit_status is ExitStatus.DONE
    assert mirror.sandbox.count("storage") == before + 1
    for job in jobs:
        mirror.assert_identical(job)
        assert_proved_by_sums(mirror.snapshot_of(job))
    # One inode for all of them, as before, and recorded.
    assert len({(mirror.snapshot_of(job) / "a.csv").stat().st_ino for job in jobs}) == 1
    assert (await verified(mirror)).damage == []
    # The damaged file is kept.
    kept = {mirror.root / str(item.kept) for item in report.damage}
    assert all(path.read_bytes() == b"SHARED CONTENT" for path in kept)
    assert all(".dcsync/quarantine/" in str(path) for path in kept)


async def test_an_account_is_held_only_while_it_is_repaired(mirror: Mirror) -> None:
    """The daemon mirrors while the rest is read. What was pruned before the repair began is not repaired."""
    job = add_extract(mirror, tables(2))
    await mirror.sync()
    path = mirror.snapshot_of(job) / "admin_table_001.csv"
    held: list[str] = []
    is_pruned = False
    async with mirror.opened() as context:

        @asynccontextmanager
        async def repairing(account: AccountName) -> AsyncIterator[None]:
            held.append(f"{account} is held")
            if is_pruned:
                await context.manifest.move(account, JobId(job), JobState.PRUNED, at=mirror.clock.now())
            yield
            held.append(f"{account} is free")

        accounts = account_settings(mirror.configuration())
        for is_damaged, is_pruned in ((False, False), (True, False), (True, True)):
            if is_damaged:
                spoil(path, b"x")
            held.clear()
            report = await verify(context, accounts, repair=True, repairing=repairing)

            assert held == (["acme is held", "acme is free"] if is_damaged else [])
            assert outcome_of(report) == ({"repaired"} if is_damaged and not is_pruned else set())


async def test_what_was_repaired_is_linked_to_tomorrow(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(3), days_ago=1, with_archive=True)
    await mirror.sync()
    spoil(mirror.snapshot_of(job) / "admin_table_001.csv", b"x")
    await verified(mirror, repair=True)
    add_extract(mirror, tables(3), with_archive=True)

    (published,) = (await mirror.sync_one()).published

    assert published.transfer.fetched_bytes == 0


async def test_another_copy_in_the_mirror_is_taken_before_the_server_is_asked(mirror: Mirror) -> None:
    jobs = [add_extract(mirror, {"a.csv": b"same", "b.csv": b"%d" % day}, days_ago=2 - day) for day in range(2)]
    await mirror.sync()
    # A file system without hard links has two copies.
    path = mirror.snapshot_of(jobs[1]) / "a.csv"
    path.unlink()
    path.write_bytes(b"same")
    spoil(path, b"SAME")
    before = len(mirror.sandbox.calls)

    report = await verified(mirror, repair=True)

    assert outcome_of(report) == {"repaired"}
    assert len(mirror.sandbox.calls) == before
    assert path.read_bytes() == b"same"


@pytest.mark.parametrize("damage", ["missing", "truncated", "symlink"])
async def test_missing_truncated_and_replaced_files_are_mended_too(mirror: Mirror, damage: str, tmp_path: Path) -> None:
    job = add_extract(mirror, tables(3))
    await mirror.sync()
    path = mirror.snapshot_of(job) / "admin_table_001.csv"
    if damage == "truncated":
        spoil(path, b"")
    else:
        path.unlink()
    if damage == "symlink":
        path.symlink_to(tmp_path)

    report = await verified(mirror, repair=True)

    assert outcome_of(report) == {"repaired"}
    mirror.assert_identical(job)
    assert path.stat().st_mode & 0o777 == 0o444


async def test_what_only_the_archive_has_is_fetched_from_it(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(3), with_archive=True)
    await mirror.sync()
    (schema, *_) = sorted(mirror.snapshot_of(job).glob("schemas/*"))
    body = schema.read_bytes()
    spoil(schema, b"?" * len(body))

    report = await verified(mirror, repair=True)

    assert outcome_of(report) == {"repaired"}
    assert schema.read_bytes() == body


async def test_after_30_days_what_nobody_has_is_lost_and_left_as_it_is(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(2))
    await mirror.sync()
    path = mirror.snapshot_of(job) / "admin_table_001.csv"
    spoil(path, b"x")
    mirror.clock.advance(31 * 86400)
    before = len(mirror.sandbox.calls)

    report = await verified(mirror, repair=True)

    (item,) = report.damage
    assert item.outcome is Outcome.LOST
    assert "Autodesk has deleted" in item.detail
    assert report.exit_status is ExitStatus.UNSAFE
    assert path.read_bytes() == b"x"
    assert len(mirror.sandbox.calls) == before


async def test_a_newer_extract_that_has_the_same_content_serves_an_older_snapshot(mirror: Mirror) -> None:
    old = add_extract(mirror, {"a.csv": b"same", "b.csv": b"1"})
    await mirror.sync()
    mirror.clock.advance(29 * 86400)
    mirror.environ["TOKEN"] = mirror.sandbox.tokens.issue_access_token("tester", 10 * 86400)
    add_extract(mirror, {"a.csv": b"same", "b.csv": b"2"})
    await mirror.sync()
    mirror.clock.advance(2 * 86400)
    spoil(mirror.snapshot_of(old) / "a.csv", b"SAME")

    report = await verified(mirror, repair=True)

    assert outcome_of(report) == {"repaired"}
    assert (mirror.snapshot_of(old) / "a.csv").read_bytes() == b"same"


@pytest.mark.parametrize("body", [b"other content!", b"longer than it was"])
async def test_other_bytes_of_the_server_are_not_taken_for_the_file(mirror: Mirror, body: bytes) -> None:
    job = add_extract(mirror, {"a.csv": b"first  content"})
    await mirror.sync()
    mirror.world.replace_file(job, "a.csv", body)
    path = mirror.snapshot_of(job) / "a.csv"
    spoil(path, b"x")

    report = await verified(mirror, repair=True)

    (item,) = report.damage
    assert item.outcome is Outcome.LOST
    assert "different content" in item.detail
    assert path.read_bytes() == b"x"


async def test_a_server_that_cannot_be_reached_is_no_loss(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(2))
    await mirror.sync()
    spoil(mirror.snapshot_of(job) / "admin_table_001.csv", b"x")
    mirror.sandbox.faults.add(Fault(server="storage", kind="status", status=500, times=99))

    report = await verified(mirror, repair=True)

    (item,) = report.damage
    assert item.outcome is Outcome.FOUND
    assert "not repaired" in item.detail
    assert report.exit_status is ExitStatus.INCOMPLETE


async def test_sums_are_made_anew_and_a_sidecar_is_lost(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(2))
    await mirror.sync()
    folder = mirror.snapshot_of(job)
    body = (folder / "SHA256SUMS").read_bytes()
    spoil(folder / "SHA256SUMS", b"")
    spoil(folder / "_dcsync.json", b"{}")

    report = await verified(mirror, repair=True)

    outcomes = {item.path.rpartition("/")[2]: item.outcome for item in report.damage}
    assert outcomes == {"SHA256SUMS": Outcome.REPAIRED, "_dcsync.json": Outcome.LOST}
    assert (folder / "SHA256SUMS").read_bytes() == body
    assert "data files" in next(f.detail for f in report.damage if f.outcome is Outcome.LOST)


async def test_a_missing_folder_is_fetched_by_the_next_sync(mirror: Mirror) -> None:
    add_extract(mirror, tables(1), days_ago=1)
    job = add_extract(mirror, tables(1, seed=1))
    await mirror.sync()
    shutil.rmtree(mirror.snapshot_of(job))

    report = await verified(mirror, repair=True)

    assert outcome_of(report) == {"refetch"}
    assert report.exit_status is ExitStatus.INCOMPLETE
    await mirror.sync()
    mirror.assert_identical(job)


async def test_a_missing_folder_that_the_server_has_deleted_is_lost(mirror: Mirror) -> None:
    add_extract(mirror, tables(1), days_ago=1)
    job = add_extract(mirror, tables(1, seed=1))
    await mirror.sync()
    shutil.rmtree(mirror.snapshot_of(job))
    mirror.clock.advance(31 * 86400)

    report = await verified(mirror, repair=True)

    assert outcome_of(report) == {"lost"}
    async with mirror.opened() as context:
        assert (await context.manifest.jobs(ACME))[JobId(job)].state is JobState.EXPIRED


async def test_so_many_missing_folders_are_left_to_a_person(mirror: Mirror) -> None:
    for day in range(8):
        add_extract(mirror, {"a.csv": b"%d" % day}, days_ago=8 - day)
    await mirror.sync()
    for snapshot in mirror.snapshots()[:5]:
        shutil.rmtree(snapshot)

    report = await verified(mirror, repair=True)

    assert outcome_of(report) == {"found"}
    assert "5 of 8 snapshots" in report.damage[0].detail


async def test_extra_files_are_never_touched(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    await mirror.sync()
    stray = mirror.snapshot_of(job) / "stray.csv"
    stray.write_bytes(b"the operator's")

    report = await verified(mirror, repair=True)

    assert outcome_of(report) == {"found"}
    assert stray.read_bytes() == b"the operator's"


async def test_a_latest_of_hard_links_gets_the_new_file_too(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"latest": "hardlinks"}
    job = add_extract(mirror, tables(2))
    await mirror.sync()
    path = mirror.snapshot_of(job) / "admin_table_001.csv"
    body = path.read_bytes()
    spoil(path, b"x")
    (shown,) = mirror.root.glob("acme/*/latest/admin_table_001.csv")
    assert shown.read_bytes() == b"x"

    await verified(mirror, repair=True)

    assert shown.read_bytes() == body


async def test_nothing_is_written_without_repair(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(2))
    await mirror.sync()
    spoil(mirror.snapshot_of(job) / "admin_table_001.csv", b"x")
    before = {path: path.lstat().st_mtime_ns for path in mirror.root.rglob("*")}

    await verified(mirror)

    assert {path: path.lstat().st_mtime_ns for path in mirror.root.rglob("*")} == before
    assert sidecar(mirror.snapshot_of(job))["job"]["id"] == job


async def test_it_can_be_verified_while_somebody_else_holds_the_mirror(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    await mirror.sync()

    async with mirror.opened():
        report = await verified(mirror)

    assert report.damage == []
    assert report.snapshots == 1
