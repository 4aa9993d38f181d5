"""A snapshot that no rule keeps loses its full tables, and none of the rows that exist nowhere else."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import Any

from dcsync.app.rebuild import rebuild_manifest
from dcsync.core.lifecycle import JobState
from dcsync.core.retention import KeepPolicy
from dcsync.ops.integrity.prune import PruneReport
from tests.rigs.mirror import Mirror, add_extract, assert_proved_by_sums, sidecar, tables
from tests.rigs.reductions import (
    DAYS,
    FULL,
    LARGE,
    ROWS,
    WINDOWS,
    activity_rows,
    damage,
    fill,
    full_tables,
    pruned,
    rows_of,
    window,
)
from tests.rigs.sqlite import change_content


def used_bytes(mirror: Mirror) -> int:
    """Return the size of all files in the mirror, each inode once."""
    files = {(facts.st_dev, facts.st_ino): facts.st_size for facts in map(os.lstat, mirror.root.rglob("*"))}
    return sum(files.values())


async def test_after_a_prune_every_row_that_ever_was_is_still_there_and_the_space_of_the_full_tables_is_free(
    mirror: Mirror,
) -> None:
    jobs = await fill(mirror)
    before, rows = used_bytes(mirror), activity_rows(mirror)
    assert len(rows) == DAYS * ROWS

    report = await pruned(mirror)

    assert (report.removed, report.reduced, report.kept) == (0, 7, 3)
    assert activity_rows(mirror) == rows
    assert len(full_tables(mirror)) == 3 * len(FULL)
    freed = 7 * (2 * LARGE + 1)
    assert freed <= report.freed_bytes < freed + 7 * 10_000
    # Each sidecar remembers what was removed.
    assert before - used_bytes(mirror) > freed - 7 * 10_000
    assert len(mirror.snapshots()) == DAYS
    for snapshot in mirror.snapshots():
        assert_proved_by_sums(snapshot)
    assert await damage(mirror) == []
    expected = {job: JobState.REDUCED if number < 7 else JobState.PUBLISHED for number, job in enumerate(jobs)}
    assert await mirror.states() == expected
    assert list((mirror.root / ".dcsync/reducing").iterdir()) == []
    assert list((mirror.root / ".dcsync/trash").iterdir()) == []


async def test_a_second_prune_and_a_run_change_nothing(mirror: Mirror) -> None:
    await fill(mirror)
    await pruned(mirror)
    before, fetched = rows_of(mirror), mirror.sandbox.count("storage")

    again = await pruned(mirror)
    outcome = await mirror.sync_one()

    assert (again.removed, again.reduced, again.freed_bytes) == (0, 0, 0)
    assert outcome.published == []
    assert mirror.sandbox.count("storage") == fetched
    assert rows_of(mirror) == before


async def test_a_rebuilt_manifest_has_the_same_states(mirror: Mirror) -> None:
    await fill(mirror)
    await pruned(mirror)
    before = rows_of(mirror)

    report = await rebuild_manifest(mirror.configuration(), mirror.stores(), clock=mirror.clock)

    assert report.is_whole
    assert rows_of(mirror) == before


async def test_the_sidecar_says_what_was_removed_and_keeps_the_rest_of_it(mirror: Mirror) -> None:
    jobs = await fill(mirror, 2)
    folder = mirror.snapshot_of(jobs[0])
    was, inode = sidecar(folder), (folder / WINDOWS[0]).stat().st_ino

    await pruned(mirror, KeepPolicy(last=1))

    now = sidecar(folder)
    assert {entry["name"] for entry in now["files"]} == {"README.html", *WINDOWS}
    assert {path.name for path in folder.iterdir()} == {"README.html", *WINDOWS, "_dcsync.json", "SHA256SUMS"}
    assert now["reduced"]["files"] == [entry for entry in was["files"] if entry["name"] in FULL]
    assert now["record"]["reduced_at"] == "2026-11-22T12:00:00.000000Z"
    assert {key: now[key] for key in ("request", "job", "changes", "strategy")} == {
        key: was[key] for key in ("request", "job", "changes", "strategy")
    }
    assert (folder / WINDOWS[0]).stat().st_ino == inode
    assert oct((folder / "_dcsync.json").stat().st_mode & 0o777) == oct(0o444)
    assert oct(folder.stat().st_mode & 0o777) == oct(0o755)


async def test_a_dry_run_says_it_and_changes_nothing(mirror: Mirror) -> None:
    await fill(mirror)
    before = rows_of(mirror)

    planned = await pruned(mirror, dry_run=True)

    assert rows_of(mirror) == before
    assert len(full_tables(mirror)) == DAYS * len(FULL)
    assert (planned.removed, planned.reduced, planned.kept) == (0, 7, 3)
    document: Any = planned.json()
    entry = document["requests"][0]["snapshots"][-1]
    assert (entry["action"], entry["keep"], entry["kept_rows"]) == ("reduce", False, ROWS)
    assert entry["kept_tables"] == list(WINDOWS)
    done = await pruned(mirror)
    assert planned.freed.keys() == done.freed.keys()
    assert planned.freed_bytes == done.freed_bytes


async def test_unchanged_full_tables_are_counted_once_for_the_last_snapshot_that_has_them(mirror: Mirror) -> None:
    mirror.world.add_request("Everything", service_groups=("all",))
    for day in range(4):
        files = {**tables(2, size=LARGE, seed=day // 2), WINDOWS[0]: window(WINDOWS[0], day)}
        add_extract(mirror, files, days_ago=4 - day)
    await mirror.sync()

    planned = await pruned(mirror, KeepPolicy(last=1), dry_run=True)
    done = await pruned(mirror, KeepPolicy(last=1))

    assert planned.freed == done.freed
    assert 2 * LARGE < done.freed_bytes < 2 * LARGE + 20_000


async def test_a_request_of_full_tables_is_pruned_wholly(mirror: Mirror) -> None:
    mirror.world.add_request("Narrow", service_groups=("admin",))
    for day in range(3):
        add_extract(mirror, tables(2, seed=day), days_ago=3 - day)
    await mirror.sync()

    report = await pruned(mirror, KeepPolicy(last=1))

    assert (report.removed, report.reduced) == (2, 0)
    assert len(mirror.snapshots()) == 1


async def test_a_full_table_that_no_newer_whole_snapshot_has_is_never_removed(mirror: Mirror) -> None:
    """As after a service group was removed from the data request, or `include` was narrowed."""
    mirror.world.add_request("Everything", service_groups=("all",))
    issues = "issues_issues.csv"
    jobs = []
    for day in range(6):
        more = {issues: b"id,title\n%d,a\n" % day} if day < 3 else {}
        jobs.append(add_extract(mirror, {"README.html": b"<html>", **tables(2, seed=day), **more}, days_ago=6 - day))
    await mirror.sync()

    planned = await pruned(mirror, KeepPolicy(last=1), dry_run=True)
    done = await pruned(mirror, KeepPolicy(last=1))

    assert (done.removed, done.reduced, done.kept) == (planned.removed, planned.reduced, planned.kept) == (2, 3, 1)
    for number, job in enumerate(jobs[:3]):
        folder = mirror.snapshot_of(job)
        assert (folder / issues).read_bytes() == b"id,title\n%d,a\n" % number
        assert not (folder / FULL[0]).exists()
        assert_proved_by_sums(folder)


async def test_a_snapshot_with_the_newest_copy_of_all_its_tables_stays_whole_and_replaces_the_older_ones(
    mirror: Mirror,
) -> None:
    mirror.world.add_request("Everything", service_groups=("all",))
    jobs = []
    for day in range(4):
        name = "issues_issues.csv" if day < 3 else "admin_users.csv"
        jobs.append(add_extract(mirror, {name: b"id\n%d\n" % day}, days_ago=4 - day))
    await mirror.sync()

    report = await pruned(mirror, KeepPolicy(last=1))

    assert (report.removed, report.reduced, report.kept) == (2, 0, 2)
    assert report.requests[0].verdicts[1].reasons == ("no newer snapshot has its full tables",)
    assert {job for job, state in (await mirror.states()).items() if state is JobState.PUBLISHED} == set(jobs[2:])


async def test_a_request_of_windows_alone_is_kept_whole(mirror: Mirror) -> None:
    mirror.world.add_request("Activities", service_groups=("activities",))
    for day in range(3):
        add_extract(mirror, {WINDOWS[0]: window(WINDOWS[0], day)}, days_ago=3 - day)
    await mirror.sync()

    report = await pruned(mirror, KeepPolicy(last=1), force=False)

    assert (report.removed, report.reduced, report.kept) == (0, 0, 3)
    assert report.requests[0].verdicts[1].reasons == ("no full table: no other snapshot has its rows",)


async def test_snapshots_without_kinds_are_judged_by_the_request_and_stay_in_doubt(mirror: Mirror) -> None:
    """As an older version left them. With dates, a table that supports them may be a window."""
    await fill(mirror, 3)
    change_content(mirror.state / "manifest.sqlite", "kind = NULL")

    assert (await pruned(mirror, KeepPolicy(last=1), dry_run=True)).reduced == 2

    with closing(sqlite3.connect(mirror.state / "manifest.sqlite")) as connection, connection:
        connection.execute("UPDATE request SET document = NULL, digest = NULL")
    assert (await pruned(mirror, KeepPolicy(last=1), dry_run=True)).kept == 3


async def test_a_zip_that_repeats_the_other_files_goes_and_any_other_stays(mirror: Mirror) -> None:
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id}]
    mirror.config["mirror"] = {"keep_archive": True}
    jobs = await fill(mirror, 2, with_archive=True)
    archive = mirror.snapshot_of(jobs[0]) / "autodesk_data_extract.zip"
    assert archive.exists()

    planned = await pruned(mirror, KeepPolicy(last=1), dry_run=True)
    change_content(mirror.state / "manifest.sqlite", "crc32 = 1", f"name = '{FULL[0]}'")
    doubtful = await pruned(mirror, KeepPolicy(last=1), dry_run=True)

    def kept(report: PruneReport) -> list[str]:
        verdict = report.requests[0].verdicts[1]
        assert verdict.division is not None
        return [stored.name for stored in verdict.division.tables]

    assert kept(planned) == list(WINDOWS)
    assert kept(doubtful) == [*WINDOWS, "autodesk_data_extract.zip"]
