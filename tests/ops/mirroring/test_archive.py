"""A snapshot from the ZIP: its folders, its links, and the progress that it reports."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.ops.context import NullObserver
from dcsync.sandbox import Fault
from tests.rigs.archive import MIB, hows
from tests.rigs.mirror import ARCHIVE, Mirror, add_extract, assert_proved_by_sums, tables


async def test_members_that_the_listing_lacks_stand_below_their_own_path(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(4), with_archive=True)

    await mirror.sync()

    snapshot = mirror.snapshot_of(job)
    assert (snapshot / "schemas/admin.json").is_file()
    assert (snapshot / "schemas/admin.json").stat().st_mode & 0o777 == 0o444
    assert (snapshot / "schemas").stat().st_mode & 0o777 == 0o755
    assert_proved_by_sums(snapshot)
    assert list((mirror.root / ".dcsync/staging").iterdir()) == []


async def test_latest_as_hard_links_has_the_folders_too(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"latest": "hardlinks"}
    add_extract(mirror, tables(4), with_archive=True)

    await mirror.sync()

    (latest,) = mirror.root.glob("acme/*/latest")
    assert (latest / "schemas/admin.json").is_file()


async def test_a_kept_archive_is_fetched_once_and_read_where_it_lies(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"keep_archive": True}
    job = add_extract(mirror, tables(20, size=3000), with_archive=True)

    await mirror.sync()

    snapshot = mirror.snapshot_of(job)
    mirror.assert_identical(job)
    archive = mirror.world.extract(job)[ARCHIVE]
    assert (snapshot / ARCHIVE).read_bytes() == archive.read(0, archive.size)
    assert mirror.fetched_bytes() == archive.size
    assert mirror.sandbox.count("api", path_contains="/data/") == 1
    assert_proved_by_sums(snapshot)


async def test_what_the_archive_links_may_be_of_a_snapshot_that_came_file_by_file(mirror: Mirror) -> None:
    add_extract(mirror, tables(6), days_ago=1)
    await mirror.sync()
    job = add_extract(mirror, tables(6), with_archive=True)

    await mirror.sync()

    how = hows(mirror.snapshot_of(job))
    assert {how[name] for name in tables(6)} == {"linked"}
    mirror.assert_identical(job)


async def test_the_archive_s_word_is_not_taken_when_it_is_not_to_be_trusted(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"trust_crc": False}
    add_extract(mirror, tables(6), days_ago=1, with_archive=True)
    await mirror.sync()
    job = add_extract(mirror, tables(6), with_archive=True)

    await mirror.sync()

    assert set(hows(mirror.snapshot_of(job)).values()) == {"fetched"}
    mirror.assert_identical(job)


async def test_what_was_extracted_and_turned_out_unchanged_takes_no_room(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"trust_crc": False}
    old = {**tables(6), "empty.csv": b""}
    yesterday = add_extract(mirror, old, days_ago=1, with_archive=True)
    await mirror.sync()
    job = add_extract(mirror, {**old, "admin_table_002.csv": b"changed"}, with_archive=True)

    await mirror.sync()

    before, after = mirror.snapshot_of(yesterday), mirror.snapshot_of(job)
    shared = {name for name in hows(after) if (before / name).samefile(after / name)}
    assert shared == hows(after).keys() - {"admin_table_002.csv", "empty.csv"}
    mirror.assert_identical(job)
    assert_proved_by_sums(after)
    # Its record is that of the shared file: the next day links to it without hashing.
    mirror.config["mirror"] = {"trust_crc": True}
    tomorrow = add_extract(mirror, {**old, "admin_table_002.csv": b"changed"}, with_archive=True, days_ago=-0.1)
    await mirror.sync()
    assert (after / "admin_table_001.csv").samefile(mirror.snapshot_of(tomorrow) / "admin_table_001.csv")


async def test_a_file_before_that_was_edited_or_removed_is_not_linked(mirror: Mirror) -> None:
    yesterday = add_extract(mirror, tables(6), days_ago=1, with_archive=True)
    await mirror.sync()
    edited, removed = (mirror.snapshot_of(yesterday) / f"admin_table_00{n}.csv" for n in (1, 2))
    edited.chmod(0o644)
    edited.write_bytes(b"x" * edited.stat().st_size)
    removed.unlink()
    job = add_extract(mirror, tables(6), with_archive=True)

    await mirror.sync()

    mirror.assert_identical(job)
    how = hows(mirror.snapshot_of(job))
    assert {name for name, value in how.items() if value == "fetched"} == {edited.name, removed.name}


def spoil(path: Path) -> None:
    """Change a file in this snapshot and in no other: an editor that writes aside and renames does so."""
    body = b"x" * path.stat().st_size
    path.unlink()
    path.write_bytes(body)


async def test_a_file_that_is_damaged_in_the_snapshot_before_is_linked_from_an_older_one(mirror: Mirror) -> None:
    days = []
    for day in (3, 2, 1):
        days.append(add_extract(mirror, tables(6), days_ago=day, with_archive=True))
        await mirror.sync()
    oldest, middle, before = (mirror.snapshot_of(job) for job in days)
    once, twice, gone = (f"admin_table_00{n}.csv" for n in (1, 2, 3))
    for path in (before / once, before / twice, middle / twice):
        spoil(path)
    (before / gone).unlink()
    size = mirror.fetched_bytes()
    job = add_extract(mirror, tables(6), with_archive=True)

    await mirror.sync()

    mirror.assert_identical(job)
    snapshot = mirror.snapshot_of(job)
    assert set(hows(snapshot).values()) == {"linked"}
    for name, source in ((once, middle), (twice, oldest), (gone, oldest)):
        assert (snapshot / name).samefile(source / name)
    # The directory, and nothing of what it says.
    assert mirror.fetched_bytes() - size <= mirror.world.extract(job)[ARCHIVE].size


async def test_a_file_that_no_snapshot_has_any_more_is_fetched(mirror: Mirror) -> None:
    for day in range(10):
        add_extract(mirror, tables(6), days_ago=20 - day, with_archive=True)
    await mirror.sync()
    for snapshot in mirror.snapshots()[1:]:
        spoil(snapshot / "admin_table_001.csv")
    (mirror.snapshots()[0] / "admin_table_001.csv").unlink()
    job = add_extract(mirror, tables(6), with_archive=True)

    await mirror.sync()

    mirror.assert_identical(job)
    assert hows(mirror.snapshot_of(job))["admin_table_001.csv"] == "fetched"


async def test_the_bars_are_told_true_totals(mirror: Mirror) -> None:
    files = {f"{n}.csv": random.Random(n).randbytes(MIB) for n in range(6)}
    job = add_extract(mirror, files, with_archive=True)
    mirror.sandbox.faults.add(Fault(server="storage", kind="cut", amount=MIB + 5000, match="zip", skip=1))

    class Counting(NullObserver):
        total = 0
        received = 0

        def job_started(self, account: object, job: JobId, label: str, *, files: int, size: int) -> None:
            self.total += size

        def file_advanced(self, job: JobId, name: str, size: int) -> None:
            self.received += size

    seen = Counting()
    await mirror.sync(observer=seen)

    mirror.assert_identical(job)
    assert seen.received == seen.total


async def test_adoption_proves_files_in_folders_too(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(4), with_archive=True)
    await mirror.sync()
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()
    snapshot = mirror.snapshot_of(job)

    await mirror.sync()

    async with mirror.opened() as context:
        known = await context.manifest.jobs(AccountName("acme"))
    assert known[JobId(job)].state is JobState.PUBLISHED
    shutil.rmtree(snapshot / "schemas")
