"""A snapshot that no rule keeps loses its full tables, and none of the rows that exist nowhere else."""

from __future__ import annotations

import asyncio
import csv
import errno
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import open_mirror_unlocked, read_mirror
from dcsync.app.rebuild import rebuild_manifest
from dcsync.app.status import read_status
from dcsync.core.diff import Fate
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.core.retention import KeepPolicy
from dcsync.errors import DiskDenied, DiskFull
from dcsync.manifest import SnapshotRows
from dcsync.mirror import disk, reduce, trash
from dcsync.mirror.lines import append_line
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.diff import compare
from dcsync.ops.integrity.content_reader import Unwatched
from dcsync.ops.integrity.prune import PruneReport, prune
from dcsync.ops.integrity.verify import verify
from tests.rigs.mirror import Mirror, add_extract, assert_proved_by_sums, sidecar, status_of, tables

DAYS = 10
#: Rows a day, and in all days.
ROWS = 120
WINDOWS = ("activities_docs.csv", "activities_issues.csv")
FULL = ("admin_table_000.csv", "admin_table_001.csv")
LARGE = 40_000


def window(name: str, day: int) -> bytes:
    """Return the rows of one day, which no other day has."""
    return b"id,table,day\n" + b"".join(b"%d,%s,%d\n" % (row, name.encode(), day) for row in range(ROWS // 2))


async def fill(mirror: Mirror, days: int = DAYS, **options: Any) -> list[str]:
    """Mirror daily extracts of all service groups, oldest first: the full tables differ every day."""
    if not mirror.world.requests:
        mirror.world.add_request("Everything", service_groups=("all",))
    jobs = []
    for day in range(days):
        files = {
            "README.html": b"<html>",
            **tables(2, size=LARGE, seed=day),
            **{name: window(name, day) for name in WINDOWS},
        }
        jobs.append(add_extract(mirror, files, days_ago=days - day, **options))
    await mirror.sync()
    return jobs


async def pruned(mirror: Mirror, policy: KeepPolicy | None = None, **options: Any) -> PruneReport:
    async with mirror.opened() as context:
        accounts = account_settings(mirror.configuration())
        return await prune(context, accounts, policy or KeepPolicy(daily=3), **{"force": True, **options})


def activity_rows(mirror: Mirror) -> set[tuple[str, ...]]:
    """Return the distinct rows of all activities tables that a reader finds in the mirror."""
    return {
        tuple(row)
        for path in mirror.root.glob("acme/*/2026/*/*/*/activities_*.csv")
        for row in list(csv.reader(path.read_text().splitlines()))[1:]
    }


def full_tables(mirror: Mirror) -> list[Path]:
    return sorted(mirror.root.glob("acme/*/2026/*/*/*/admin_*.csv"))


def used_bytes(mirror: Mirror) -> int:
    """Return the size of all files in the mirror, each inode once."""
    files = {(facts.st_dev, facts.st_ino): facts.st_size for facts in map(os.lstat, mirror.root.rglob("*"))}
    return sum(files.values())


async def damage(mirror: Mirror) -> list[str]:
    async with open_mirror_unlocked(mirror.configuration(), mirror.stores(), clock=mirror.clock) as context:
        report = await verify(context, account_settings(mirror.configuration()))
    return [f"{item.kind} {item.path}: {item.detail}" for item in report.damage]


def rows_of(mirror: Mirror) -> dict[str, list[dict[str, Any]]]:
    with closing(sqlite3.connect(mirror.state / "manifest.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        return {
            table: [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3")]  # noqa: S608
            for table in ("job", "file")
        }


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
    with closing(sqlite3.connect(mirror.state / "manifest.sqlite")) as connection, connection:
        connection.execute("UPDATE file SET kind = NULL")
        connection.execute("UPDATE job SET digest = NULL")

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
    with closing(sqlite3.connect(mirror.state / "manifest.sqlite")) as connection, connection:
        connection.execute("UPDATE job SET digest = NULL")
        connection.execute("UPDATE file SET crc32 = 1 WHERE name = ?", (FULL[0],))
    doubtful = await pruned(mirror, KeepPolicy(last=1), dry_run=True)

    def kept(report: PruneReport) -> list[str]:
        verdict = report.requests[0].verdicts[1]
        assert verdict.division is not None
        return [stored.name for stored in verdict.division.tables]

    assert kept(planned) == list(WINDOWS)
    assert kept(doubtful) == [*WINDOWS, "autodesk_data_extract.zip"]


# --- what follows -----------------------------------------------------------------------------------------------------


async def test_a_later_snapshot_links_to_the_newest_whole_one(mirror: Mirror) -> None:
    jobs = await fill(mirror, 3)
    await pruned(mirror, KeepPolicy(last=1))
    new = add_extract(mirror, {**tables(2, size=LARGE, seed=2), WINDOWS[0]: window(WINDOWS[0], 9)})

    outcome = await mirror.sync_one()

    assert [published.job for published in outcome.published] == [new]
    whole = mirror.snapshot_of(jobs[2])
    assert (whole / FULL[0]).samefile(mirror.snapshot_of(new) / FULL[0])
    assert sidecar(mirror.snapshot_of(new))["changes"]["against"] == jobs[2]
    (latest,) = mirror.root.glob("acme/*/latest")
    assert latest.resolve() == mirror.snapshot_of(new)


async def test_the_days_of_a_reduced_snapshot_are_still_covered(mirror: Mirror) -> None:
    await fill(mirror)

    report = await pruned(mirror, KeepPolicy(weekly=2))

    assert report.kept == 2
    assert "L-GAP" not in (await read_status(mirror.configuration(), mirror.stores(), clock=mirror.clock)).codes


async def test_a_lost_folder_of_a_reduced_snapshot_is_missed(mirror: Mirror) -> None:
    jobs = await fill(mirror, 3)
    await pruned(mirror, KeepPolicy(last=1))
    shutil.rmtree(mirror.snapshot_of(jobs[0]))

    assert (await mirror.states())[jobs[0]] is JobState.SEEN
    await mirror.sync()
    mirror.assert_identical(jobs[0])
    assert (await pruned(mirror, KeepPolicy(last=1))).reduced == 1


async def test_damage_of_a_reduced_snapshot_is_found_and_repaired(mirror: Mirror) -> None:
    jobs = await fill(mirror, 2)
    await pruned(mirror, KeepPolicy(last=1))
    damaged = mirror.snapshot_of(jobs[0]) / WINDOWS[0]
    damaged.chmod(0o644)
    damaged.write_bytes(b"x" * damaged.stat().st_size)

    assert len(await damage(mirror)) == 1
    async with mirror.opened() as context:
        report = await verify(context, account_settings(mirror.configuration()), repair=True)

    assert [item.outcome.value for item in report.damage] == ["repaired"]
    assert damaged.read_bytes() == window(WINDOWS[0], 0)
    assert await damage(mirror) == []


async def test_a_damaged_snapshot_stays_whole_and_the_others_are_reduced(mirror: Mirror) -> None:
    jobs = await fill(mirror, 4)
    (mirror.snapshot_of(jobs[1]) / WINDOWS[0]).unlink()
    (mirror.snapshot_of(jobs[2]) / "_dcsync.json").chmod(0o644)
    (mirror.snapshot_of(jobs[2]) / "_dcsync.json").write_text("{}")

    report = await pruned(mirror, KeepPolicy(last=1))

    assert report.reduced == 1
    assert report.exit_status == 3
    assert set(report.failed) == {jobs[1], jobs[2]}
    assert [job for job, state in (await mirror.states()).items() if state is JobState.REDUCED] == [jobs[0]]
    assert len(full_tables(mirror)) == 3 * len(FULL)


async def test_a_verify_that_runs_at_the_same_time_reports_no_damage(mirror: Mirror) -> None:
    await fill(mirror, 2)

    class PrunesMeanwhile(Unwatched):
        """Prunes in another thread as soon as the first bytes of the older snapshot are read."""

        older = False
        reduced = 0

        def snapshot(self, folder: str, number: int, of: int) -> None:
            self.older = number == of

        def read(self, size: int) -> None:
            if self.older and not self.reduced:
                other = Thread(target=lambda: setattr(self, "reduced", asyncio.run(prune_once()).reduced))
                other.start()
                other.join()

    async def prune_once() -> PruneReport:
        return await pruned(mirror, KeepPolicy(last=1))

    meanwhile = PrunesMeanwhile()
    async with open_mirror_unlocked(mirror.configuration(), mirror.stores(), clock=mirror.clock) as context:
        report = await verify(context, account_settings(mirror.configuration()), observer=meanwhile)

    assert meanwhile.reduced == 1
    assert report.damage == []


@pytest.mark.parametrize("sidecar_is_lost", [False, True])
async def test_a_reduced_snapshot_is_compared_in_the_tables_that_it_still_has(
    mirror: Mirror, sidecar_is_lost: bool
) -> None:
    jobs = await fill(mirror, 3)
    await pruned(mirror, KeepPolicy(last=1))
    if sidecar_is_lost:
        (mirror.snapshot_of(jobs[0]) / "_dcsync.json").unlink()

    async with read_mirror(mirror.configuration(), mirror.stores()) as context:
        found = await compare(context, [AccountName("acme")], jobs[0], "latest")

    assert found.before.is_reduced
    assert found.not_compared == FULL
    assert [(entry.name, entry.fate) for entry in found.diff.tables] == [(name, Fate.CHANGED) for name in WINDOWS]
    assert (found.files_before, found.files_after) == (3, 3)


# --- cut short --------------------------------------------------------------------------------------------------------


@pytest.fixture
def refuse_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system refuse to exchange two names, as NFS and exFAT do."""
    monkeypatch.setattr(disk, "exchange", lambda *_: False)


@pytest.mark.usefixtures("refuse_exchange")
async def test_a_file_system_without_exchange_and_links_ends_the_same(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(mirror, 3)
    rows = activity_rows(mirror)

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)

    report = await pruned(mirror, KeepPolicy(last=1))

    assert report.reduced == 2
    assert activity_rows(mirror) == rows
    assert await damage(mirror) == []
    for snapshot in mirror.snapshots():
        assert_proved_by_sums(snapshot)


class Cut(Exception):
    """Ends the work where a kill would."""


#: The call before which a reduction ends, and the state of the job after the next start.
CUTS = {
    "before its line": ("append_line", JobState.PUBLISHED),
    "before the exchange": ("exchange", JobState.PUBLISHED),
    "between two renames": ("rename_noreplace", JobState.PUBLISHED),
    "before its row": ("restore", JobState.REDUCED),
    "before the old one goes": ("discard_old", JobState.REDUCED),
    "before the trash is empty": ("empty", JobState.REDUCED),
}


@pytest.mark.parametrize(
    ("cut", "manifest"),
    [
        *((cut, "current") for cut in CUTS),
        ("between two renames", "older"),
        ("between two renames", "lost"),
        ("before its row", "older"),
        ("before its row", "lost"),
        ("before the old one goes", "older"),
    ],
)
async def test_a_reduction_that_was_cut_short_is_finished_or_undone_at_the_next_start(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cut: str, manifest: str
) -> None:
    jobs = await fill(mirror, 2)
    rows, (call, expected) = activity_rows(mirror), CUTS[cut]
    shutil.copy(mirror.state / "manifest.sqlite", tmp_path / "older.sqlite")

    def fail(*_: object, **__: object) -> None:
        raise Cut

    async with mirror.opened() as context:
        with monkeypatch.context() as patch:
            if call == "rename_noreplace":
                patch.setattr(disk, "exchange", lambda *_: False)
            places = {"append_line": reduce, "discard_old": reduce, "empty": trash, "restore": SnapshotRows}
            patch.setattr(places.get(call, disk), call, fail)
            with pytest.raises(Cut):
                await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=1))
    if manifest != "current":
        for path in mirror.state.glob("manifest.sqlite*"):
            path.unlink()
    if manifest == "older":
        shutil.copy(tmp_path / "older.sqlite", mirror.state / "manifest.sqlite")

    states = await mirror.states()

    assert states == {jobs[0]: expected, jobs[1]: JobState.PUBLISHED}
    assert activity_rows(mirror) == rows
    assert await damage(mirror) == []
    assert list(mirror.root.glob(".dcsync/reducing/*")) == []
    assert list(mirror.root.glob(".dcsync/trash/*")) == []
    await pruned(mirror, KeepPolicy(last=1))
    assert (await mirror.states())[jobs[0]] is JobState.REDUCED
    assert activity_rows(mirror) == rows
    assert len(full_tables(mirror)) == len(FULL)


@pytest.mark.parametrize("again", [None, "mkdir", "rename"])
@pytest.mark.parametrize("cut", ["mkdir", "rename"])
async def test_a_snapshot_survives_any_kill_where_a_rename_has_to_claim_its_name_first(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, cut: str, again: str | None
) -> None:
    """On NFS and exFAT. The claim is an empty folder in the place of the snapshot."""
    jobs = await fill(mirror, 2)
    rows, whole = activity_rows(mirror), full_tables(mirror)
    rename = disk.rename_noreplace

    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def fail(*_: object, **__: object) -> None:
        raise Cut

    def cut_before(patch: pytest.MonkeyPatch, call: str) -> None:
        def cut_short(*arguments: Any) -> None:
            with monkeypatch.context() as inside:
                inside.setattr(os, call, fail)
                rename(*arguments)

        patch.setattr(disk, "rename_noreplace", cut_short)

    monkeypatch.setattr(disk, "_renameat2", refuse)
    async with mirror.opened() as context:
        with monkeypatch.context() as patch:
            cut_before(patch, cut)
            with pytest.raises(Cut):
                await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=1))
    if again is not None:
        with monkeypatch.context() as patch:
            cut_before(patch, again)
            with pytest.raises(Cut):
                await mirror.states()

    assert set((await mirror.states()).values()) == {JobState.PUBLISHED}
    assert (activity_rows(mirror), full_tables(mirror)) == (rows, whole)
    assert await damage(mirror) == []
    assert list(mirror.root.glob(".dcsync/reducing/*")) == []
    assert list(mirror.root.glob(".dcsync/trash/*")) == []
    assert (await pruned(mirror, KeepPolicy(last=1))).reduced == 1
    assert (await mirror.states())[jobs[0]] is JobState.REDUCED
    assert activity_rows(mirror) == rows


async def test_the_rest_of_a_reduction_stays_while_no_complete_snapshot_is_in_its_place(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await fill(mirror, 2)
    monkeypatch.setattr(reduce, "discard_old", lambda *_: [])
    await pruned(mirror, KeepPolicy(last=1))
    monkeypatch.undo()
    (left,) = mirror.root.glob(".dcsync/reducing/*")
    (mirror.snapshot_of(jobs[0]) / "_dcsync.json").unlink()

    await mirror.states()

    assert {path.name for path in left.iterdir()} > set(FULL)


async def test_files_of_the_system_and_leftovers_that_may_not_be_removed_stop_neither_a_start_nor_a_prune(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(mirror, 3)
    place = mirror.root / ".dcsync/reducing"
    (place / "@eaDir").mkdir(parents=True)
    (place / ".DS_Store").write_bytes(b"")
    for leaf in ("a" * 32, "b" * 32):
        (place / leaf).mkdir()
    (place / ("c" * 32)).write_bytes(b"")
    remove = disk.remove_tree

    def denied(name: str, parent: int) -> None:
        if name == "a" * 32:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        remove(name, parent)

    monkeypatch.setattr(disk, "remove_tree", denied)

    assert (await pruned(mirror, KeepPolicy(last=1))).reduced == 2
    await mirror.states()
    assert {path.name for path in place.iterdir()} == {"@eaDir", ".DS_Store", "c" * 32}
    # What could not be removed in its place was moved to the trash.
    assert list(mirror.root.glob(".dcsync/trash/*")) == []


async def test_a_snapshot_that_the_disk_refuses_is_named_and_the_others_are_reduced(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await fill(mirror, 5)
    (mirror.snapshot_of(jobs[1]) / "_dcsync.json").unlink()
    denied, swap = mirror.snapshot_of(jobs[2]).name, reduce.swap

    def refuse(root: MirrorRoot, one: reduce.Reduction) -> None:
        if one.folder.endswith(denied):
            # Between the two renames, for example.
            (root.path / one.folder).rename(root.path / ".dcsync/reducing" / f"{one.leaf}.aside")
            raise DiskDenied("refused")
        swap(root, one)

    monkeypatch.setattr(reduce, "swap", refuse)
    async with mirror.opened() as context:
        # While the daemon runs, somebody removes a folder.
        shutil.rmtree(mirror.snapshot_of(jobs[3]))
        report = await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=1), force=True)
        assert (mirror.snapshot_of(jobs[2]) / FULL[0]).exists()

    assert (report.reduced, report.exit_status) == (1, 3)
    assert set(report.failed) == {jobs[1], jobs[2], jobs[3]}
    assert "lacks a file that has to stay: _dcsync.json" in report.failed[JobId(jobs[1])].message


async def test_snapshots_that_a_full_disk_cannot_reduce_stay_and_the_others_are_reduced(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await fill(mirror, 3)
    build, full = reduce.build, mirror.snapshot_of(jobs[1]).name

    def run_full(root: MirrorRoot, one: reduce.Reduction, *args: Any, **options: Any) -> Any:
        if one.folder.endswith(full):
            raise DiskFull("full")
        return build(root, one, *args, **options)

    monkeypatch.setattr(reduce, "build", run_full)

    report = await pruned(mirror, KeepPolicy(last=1))

    assert (set(report.failed), report.reduced) == ({jobs[1]}, 1)


async def test_a_line_of_a_reduction_that_never_happened_hides_no_loss(mirror: Mirror) -> None:
    jobs = await fill(mirror, 3)
    async with mirror.opened() as context:
        folder = (await context.manifest.published_folders(AccountName("acme")))[JobId(jobs[0])]
        line = {"account": "acme", "job": jobs[0], "folder": folder}
        append_line(context.root, "reduced.jsonl", line)
    assert (await mirror.states())[jobs[0]] is JobState.PUBLISHED

    shutil.rmtree(mirror.root / folder)

    assert (await mirror.states())[jobs[0]] is JobState.SEEN


async def test_a_snapshot_that_cannot_be_put_back_is_no_loss_and_the_start_goes_on(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await fill(mirror, 3)
    async with mirror.opened() as context:
        folder = (await context.manifest.published_folders(AccountName("acme")))[JobId(jobs[0])]
        one = reduce.Reduction(account=AccountName("acme"), job=JobId(jobs[0]), folder=folder)
        append_line(context.root, "reduced.jsonl", {"account": "acme", "job": jobs[0], "folder": folder})
    # As a crash between two renames leaves it, on a file system that cannot exchange two names.
    (mirror.root / ".dcsync/reducing").mkdir()
    (mirror.root / folder).rename(mirror.root / f".dcsync/reducing/{one.leaf}.aside")
    rename = disk.rename_noreplace

    def refuse(source: str, *others: Any) -> None:
        if source == f"{one.leaf}.aside":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        rename(source, *others)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "rename_noreplace", refuse)
        assert (await mirror.states())[jobs[0]] is JobState.PUBLISHED
        (alert,) = [item.alert for item in (await status_of(mirror)).accounts[0].alerts]

    assert (alert.code, alert.subject) == ("M-PRUNE", jobs[0])
    assert folder in alert.message
    assert (await mirror.states())[jobs[0]] is JobState.PUBLISHED
    assert (mirror.root / folder / "_dcsync.json").exists()
    await pruned(mirror, KeepPolicy(last=1))
    assert (await status_of(mirror)).codes == []


async def test_a_manifest_from_before_the_reduction_is_told_of_it(mirror: Mirror, tmp_path: Path) -> None:
    jobs = await fill(mirror, 4)
    shutil.copy(mirror.state / "manifest.sqlite", tmp_path / "before.sqlite")
    await pruned(mirror, KeepPolicy(last=1))
    after = rows_of(mirror)
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()
    shutil.copy(tmp_path / "before.sqlite", mirror.state / "manifest.sqlite")

    states = await mirror.states()

    assert [states[job] for job in jobs] == [JobState.REDUCED] * 3 + [JobState.PUBLISHED]
    assert rows_of(mirror) == after
    assert await damage(mirror) == []
