"""What the keep policy does not keep goes: wholly, durably, and never what somebody still looks at."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcsync.app.from_config import account_settings
from dcsync.core.alerts import Alert
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.core.retention import KeepPolicy
from dcsync.errors import DiskFault, DiskFull, MassChange
from dcsync.manifest import SnapshotRows
from dcsync.mirror import trash
from dcsync.mirror.root import MirrorRoot, open_root
from dcsync.ops.context import SyncContext
from dcsync.ops.integrity.prune import PruneReport, prune
from tests.rigs.mirror import (
    Mirror,
    add_extract,
    assert_proved_by_sums,
    sidecar,
    status_of,
    tables,
    walk_folders,
)

ACME = AccountName("acme")


async def fill(mirror: Mirror, days: int = 5, **options: Any) -> list[str]:
    """Mirror so many daily snapshots of one request, oldest first."""
    jobs = [
        add_extract(mirror, {**tables(2), "new.csv": b"x" * (day + 1)}, days_ago=days - day, **options)
        for day in range(days)
    ]
    await mirror.sync()
    return jobs


async def pruned(mirror: Mirror, policy: KeepPolicy, **options: Any) -> PruneReport:
    async with mirror.opened() as context:
        return await prune(context, account_settings(mirror.configuration()), policy, **options)


async def states(mirror: Mirror) -> dict[str, JobState]:
    async with mirror.opened() as context:
        return {str(job): known.state for job, known in (await context.manifest.jobs(ACME)).items()}


def jobs_of(mirror: Mirror) -> set[str]:
    return {sidecar(path)["job"]["id"] for path in mirror.snapshots()}


def in_trash(mirror: Mirror) -> list[Path]:
    return list(mirror.root.glob(".dcsync/trash/*"))


async def test_what_no_rule_keeps_is_removed_and_the_rest_is_whole(mirror: Mirror) -> None:
    jobs = await fill(mirror)

    report = await pruned(mirror, KeepPolicy(last=3))

    assert jobs_of(mirror) == set(jobs[2:])
    assert (report.removed, report.kept) == (2, 3)
    # Of each pruned one only its own file is freed; the rest is shared with those that stay.
    sizes = [
        (path / "SHA256SUMS").stat().st_size + (path / "_dcsync.json").stat().st_size for path in mirror.snapshots()
    ]
    assert 2 * min(sizes) - 1000 < report.freed_bytes < 2 * max(sizes) + 1000
    for snapshot in mirror.snapshots():
        assert_proved_by_sums(snapshot)
    assert in_trash(mirror) == []
    assert await states(mirror) == {
        job: JobState.PRUNED if number < 2 else JobState.PUBLISHED for number, job in enumerate(jobs)
    }


async def test_pruning_again_removes_nothing(mirror: Mirror) -> None:
    await fill(mirror)
    await pruned(mirror, KeepPolicy(last=3))

    assert (await pruned(mirror, KeepPolicy(last=3))).removed == 0


async def test_folders_of_days_that_are_empty_go_and_those_of_requests_stay(mirror: Mirror) -> None:
    await fill(mirror, days=3)

    await pruned(mirror, KeepPolicy(last=2))

    folders = {str(path.relative_to(mirror.root)) for path in walk_folders(mirror.root)}
    assert not any(folder.endswith("/2026/11/19") for folder in folders)
    assert sum(folder.count("/") == 4 for folder in folders) == 2


async def test_a_dry_run_removes_nothing_and_gives_the_same_verdicts(mirror: Mirror) -> None:
    jobs = await fill(mirror)

    planned = await pruned(mirror, KeepPolicy(last=1), dry_run=True)

    assert jobs_of(mirror) == set(jobs)
    assert planned.removed == 4
    assert planned.requests[0].is_too_much
    done = await pruned(mirror, KeepPolicy(last=1), force=True)
    assert done.requests == planned.requests


async def test_more_than_two_fifths_at_once_is_refused_and_nothing_is_removed(mirror: Mirror) -> None:
    jobs = await fill(mirror)
    other = mirror.world.add_request("Other")
    jobs += [add_extract(mirror, tables(1, seed=day), request=other, days_ago=9 - day) for day in range(4)]
    await mirror.sync()

    with pytest.raises(MassChange, match="3 of 5 snapshots of 'My Company Data Extract'"):
        await pruned(mirror, KeepPolicy(last=2))

    assert jobs_of(mirror) == set(jobs)
    assert set((await states(mirror)).values()) == {JobState.PUBLISHED}


async def test_one_alone_may_always_go_so_that_last_1_works_every_night(mirror: Mirror) -> None:
    for day in range(3):
        job = add_extract(mirror, tables(1, seed=day), days_ago=3 - day)
        await mirror.sync()
        await pruned(mirror, KeepPolicy(last=1))

        assert jobs_of(mirror) == {job}


async def test_without_a_policy_everything_stays(mirror: Mirror) -> None:
    jobs = await fill(mirror)

    assert (await pruned(mirror, KeepPolicy())).removed == 0
    assert jobs_of(mirror) == set(jobs)


async def test_deltas_are_never_pruned(mirror: Mirror) -> None:
    delta = mirror.world.add_request("Changes", service_groups=("cdcadmin",), date_range="YESTERDAY")
    jobs = await fill(mirror, request=delta)

    report = await pruned(mirror, KeepPolicy(last=1), force=True)

    assert jobs_of(mirror) == set(jobs)
    assert report.requests[0].is_delta


@pytest.mark.parametrize("kind", ["symlink", "hardlinks"])
async def test_what_latest_shows_stays_even_when_it_was_left_behind(mirror: Mirror, kind: str) -> None:
    mirror.config["mirror"] = {"latest": kind}
    jobs = await fill(mirror, days=2)
    (latest,) = mirror.root.glob("acme/*/latest")
    older = mirror.snapshot_of(jobs[0])
    async with mirror.opened() as context:
        # After the start has put it right: as a kill in this run would leave it.
        if kind == "symlink":
            latest.unlink()
            latest.symlink_to(older.relative_to(latest.parent))
        else:
            shutil.rmtree(latest)
            shutil.copytree(older, latest, copy_function=os.link)

        report = await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=1), force=True)

    assert report.removed == 0
    assert report.requests[0].verdicts[1].reasons == ("latest",)
    assert jobs_of(mirror) >= set(jobs)


async def test_days_are_those_of_the_configured_zone(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"timezone": "Pacific/Kiritimati"}
    # 22:00 and 02:00 UTC are noon and 16:00 of one day there, at UTC+14; in UTC they are two days.
    for hours in (38, 34, 14, 10):
        add_extract(mirror, {"a.csv": b"%d" % hours}, days_ago=hours / 24)
    await mirror.sync()

    report = await pruned(mirror, KeepPolicy(daily=9), dry_run=True)

    assert report.removed == 2


async def test_a_pruned_job_is_not_fetched_again(mirror: Mirror) -> None:
    await fill(mirror)
    await pruned(mirror, KeepPolicy(last=3))

    assert (await mirror.sync_one()).published == []


async def test_no_snapshot_is_ever_half_there_for_a_reader(mirror: Mirror) -> None:
    """A reader looks between any two steps of the event loop, and in other threads all the time."""
    jobs = await fill(mirror, days=8)
    paths = {job: mirror.snapshot_of(job) for job in jobs}
    whole = {job: sorted(path.name for path in folder.iterdir()) for job, folder in paths.items()}
    odd: list[str] = []
    done = asyncio.Event()

    def look() -> None:
        for job, folder in paths.items():
            try:
                # One look at a path: what a reader who opens the folder anew finds.
                names = sorted(path.name for path in folder.iterdir())
            except FileNotFoundError:
                continue
            if names != whole[job] and folder.exists():
                odd.append(f"{job}: {names}")

    async def watch() -> None:
        while not done.is_set():
            await asyncio.to_thread(look)

    async with mirror.opened() as context, asyncio.TaskGroup() as group:
        group.create_task(watch())
        await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=2), force=True)
        done.set()

    assert odd == []
    assert len(mirror.snapshots()) == 2


async def test_a_cancelled_run_leaves_each_snapshot_whole_or_gone(mirror: Mirror) -> None:
    await fill(mirror, days=6)
    before = mirror.snapshots()
    async with mirror.opened() as context, asyncio.TaskGroup() as group:
        task = group.create_task(
            prune(context, account_settings(mirror.configuration()), KeepPolicy(last=1), force=True)
        )
        while all(path.exists() for path in before):  # noqa: ASYNC110 - nothing tells of it but the disk
            await asyncio.sleep(0)  # noqa: TID251
        task.cancel()

    left = mirror.snapshots()
    assert 1 <= len(left) < 6
    known = await states(mirror)
    assert {job for job, state in known.items() if state is JobState.PUBLISHED} == jobs_of(mirror)
    assert in_trash(mirror) == []


# --- cut short --------------------------------------------------------------------------------------------------------


async def note(context: SyncContext, job: str) -> str:
    record = await SnapshotRows(context.manifest).record(ACME, JobId(job))
    assert record is not None
    folder = (await context.manifest.published_folders(ACME))[JobId(job)]
    trash.note_pruned(context.root, trash.Pruned(account=ACME, record=record))
    return folder


async def test_a_crash_after_the_line_leaves_the_snapshot_as_it_was(mirror: Mirror) -> None:
    jobs = await fill(mirror, days=3)
    async with mirror.opened() as context:
        await note(context, jobs[0])

    assert await states(mirror) == dict.fromkeys(jobs, JobState.PUBLISHED)
    assert jobs_of(mirror) == set(jobs)


async def test_a_crash_between_the_rename_and_the_row_is_finished_at_the_next_start(mirror: Mirror) -> None:
    jobs = await fill(mirror, days=3)
    async with mirror.opened() as context:
        folder = await note(context, jobs[0])
        trash.discard(context.root, folder, trash.trash_leaf(ACME, JobId(jobs[0])), depth=2)

    assert (await states(mirror))[jobs[0]] is JobState.PRUNED
    assert in_trash(mirror) == []
    assert (await mirror.sync_one()).published == []


async def test_a_crash_while_a_snapshot_is_put_back_without_renameat2_is_finished_at_the_next_start(
    mirror: Mirror,
) -> None:
    """The pruned line could not be written. An empty folder had claimed the name when the process was killed."""
    jobs = await fill(mirror, days=3)
    async with mirror.opened() as context:
        record = await SnapshotRows(context.manifest).record(ACME, JobId(jobs[0]))
        assert record is not None
        trash.discard(context.root, record.folder, trash.trash_leaf(ACME, JobId(jobs[0])), depth=2)
    (mirror.root / record.folder).mkdir(parents=True)

    assert (await states(mirror))[jobs[0]] is JobState.PRUNED
    assert in_trash(mirror) == []
    assert jobs_of(mirror) == set(jobs[1:])
    assert not (mirror.root / record.folder).exists()


async def test_a_crash_in_the_middle_of_removing_is_finished_at_the_next_start(mirror: Mirror) -> None:
    jobs = await fill(mirror, days=3)
    async with mirror.opened() as context:
        folder = await note(context, jobs[0])
        leaf = trash.trash_leaf(ACME, JobId(jobs[0]))
        trash.discard(context.root, folder, leaf, depth=2)
        await context.manifest.move(ACME, JobId(jobs[0]), JobState.PRUNED, at=mirror.clock.now())
        (mirror.root / ".dcsync/trash" / leaf / "_dcsync.json").unlink()

    assert (await states(mirror))[jobs[0]] is JobState.PRUNED
    assert in_trash(mirror) == []


async def test_a_manifest_from_before_the_pruning_is_told_of_it(mirror: Mirror, tmp_path: Path) -> None:
    """faults.md M4: pruned snapshots are never reported as missing and never fetched again, however many."""
    jobs = await fill(mirror, days=8)
    shutil.copy(mirror.state / "manifest.sqlite", tmp_path / "before.sqlite")
    await pruned(mirror, KeepPolicy(last=2), force=True)
    assert jobs_of(mirror) == set(jobs[6:])
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()
    shutil.copy(tmp_path / "before.sqlite", mirror.state / "manifest.sqlite")
    fetched = mirror.sandbox.count("storage")

    outcome = await mirror.sync_one()

    assert (outcome.published, outcome.failed) == ([], [])
    assert await states(mirror) == {
        job: JobState.PRUNED if number < 6 else JobState.PUBLISHED for number, job in enumerate(jobs)
    }
    assert mirror.sandbox.count("storage") == fetched


async def test_a_snapshot_that_somebody_removed_is_not_called_pruned(mirror: Mirror) -> None:
    jobs = await fill(mirror, days=3)
    async with mirror.opened() as context:
        shutil.rmtree(mirror.snapshot_of(jobs[0]))
        await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=2))

        assert (await context.manifest.jobs(ACME))[JobId(jobs[0])].state is JobState.PUBLISHED


async def test_what_a_nas_and_desktops_left_goes_with_the_snapshot_and_its_day(mirror: Mirror) -> None:
    await fill(mirror, 2)
    folder = mirror.snapshots()[0]
    for place in (folder, folder.parent):
        (place / "@eaDir" / "SHA256SUMS").mkdir(parents=True)
        (place / "@eaDir" / "SHA256SUMS" / "SYNOINDEX").write_bytes(b"x")
        (place / ".DS_Store").write_bytes(b"x")

    report = await pruned(mirror, KeepPolicy(last=1))

    assert report.removed == 1
    assert not folder.parent.exists()
    assert in_trash(mirror) == []


async def test_a_day_with_a_file_of_somebody_stays(mirror: Mirror) -> None:
    await fill(mirror, 2)
    day = mirror.snapshots()[0].parent
    (day / "notes.txt").write_bytes(b"of somebody")
    (day / ".DS_Store").write_bytes(b"x")

    await pruned(mirror, KeepPolicy(last=1))

    assert sorted(path.name for path in day.iterdir()) == [".DS_Store", "notes.txt"]


async def fetch_again(mirror: Mirror, job: str) -> None:
    """Let a pruned job be downloaded again."""
    async with mirror.opened() as context:
        await context.manifest.move(ACME, JobId(job), JobState.SEEN, at=mirror.clock.now())
    await mirror.sync()


async def test_the_remains_of_a_killed_prune_do_not_call_a_later_loss_pruned(mirror: Mirror) -> None:
    """The job was downloaded again since, and its folder was lost while the trash could not be emptied."""
    jobs = await fill(mirror, days=3)
    await pruned(mirror, KeepPolicy(last=2))
    mirror.clock.advance(60)
    await fetch_again(mirror, jobs[0])
    remains = mirror.root / ".dcsync/trash" / trash.trash_leaf(ACME, JobId(jobs[0]))
    remains.mkdir(parents=True)
    (remains / "new.csv").write_bytes(b"x")
    shutil.rmtree(mirror.snapshot_of(jobs[0]))

    assert (await mirror.states())[jobs[0]] is JobState.SEEN
    assert in_trash(mirror) == []


async def test_a_snapshot_that_was_pruned_and_downloaded_again_is_missed_when_it_is_lost(mirror: Mirror) -> None:
    jobs = await fill(mirror, days=3)
    await pruned(mirror, KeepPolicy(last=2))
    mirror.clock.advance(60)
    await fetch_again(mirror, jobs[0])
    shutil.rmtree(mirror.snapshot_of(jobs[0]))
    mirror.clock.advance(40 * 86400)

    known = (await mirror.states())[jobs[0]]

    assert known is JobState.EXPIRED


async def test_a_line_that_cannot_be_written_leaves_the_snapshot_in_its_place(mirror: Mirror) -> None:
    """A pruned snapshot without its line would be fetched again after a rebuild."""
    jobs = await fill(mirror, days=3)
    async with mirror.opened() as context:
        (mirror.root / ".dcsync/pruned.jsonl").symlink_to("nowhere")
        report = await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=2))

    assert set(report.failed) == {jobs[0]}
    assert jobs_of(mirror) == set(jobs)
    assert set((await mirror.states()).values()) == {JobState.PUBLISHED}


async def test_a_crash_before_the_line_is_known_to_a_rebuild(mirror: Mirror) -> None:
    jobs = await fill(mirror, days=3)
    async with mirror.opened() as context:
        folder = (await context.manifest.published_folders(ACME))[JobId(jobs[0])]
        trash.discard(context.root, folder, trash.trash_leaf(ACME, JobId(jobs[0])), depth=2)
    assert (await states(mirror))[jobs[0]] is JobState.PRUNED
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()

    assert (await states(mirror))[jobs[0]] is JobState.PRUNED


def change_attributes(path: Path, change: str) -> None:
    subprocess.run(["chattr", change, path], check=True)


@pytest.mark.needs_root
@pytest.mark.needs_tool("chattr")
async def test_a_file_that_nobody_may_remove_stays_in_the_trash_and_stops_nothing(mirror: Mirror) -> None:
    await fill(mirror, 3)
    refused = []
    for folder in mirror.snapshots()[:2]:
        (folder / "@eaDir").mkdir()
        (folder / "@eaDir/index").write_bytes(b"of the NAS")
        change_attributes(folder / "@eaDir/index", "+i")
    try:
        report = await pruned(mirror, KeepPolicy(last=1), force=True)
        assert report.removed == 2
        # The next start meets them again, and goes on.
        assert (await mirror.sync_one()).failed == []
        refused = [path for path in mirror.root.glob(".dcsync/trash/**/*") if path.is_file()]
        assert [path.name for path in refused] == ["index"] * 2
        assert len(mirror.snapshots()) == 1
    finally:
        for path in refused or mirror.root.rglob("index"):
            change_attributes(path, "-i")
    assert (await mirror.sync_one()).failed == []
    assert in_trash(mirror) == []


# --- what cannot be pruned ------------------------------------------------------------------------------------------


async def alerts(mirror: Mirror) -> list[tuple[str, str]]:
    """Return code and subject of each alert about the mirror."""
    return [(found.code.value, found.subject) for found in await mirror_alerts(mirror)]


async def mirror_alerts(mirror: Mirror) -> list[Alert]:
    (account,) = (await status_of(mirror)).accounts
    return [item.alert for item in account.alerts if item.alert.code.startswith("M-")]


def refuse_renames(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Let the disk refuse to move a folder."""
    rename = os.rename

    def refuse(source: Any, *others: Any, **options: Any) -> None:
        if source == name:
            raise OSError(number, os.strerror(number))
        rename(source, *others, **options)

    monkeypatch.setattr(os, "rename", refuse)


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EPERM, errno.EIO, errno.EXDEV, errno.ESTALE])
async def test_a_snapshot_that_cannot_be_moved_is_an_alert_and_the_others_are_pruned(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    jobs = await fill(mirror)
    folder = mirror.snapshot_of(jobs[0])
    with monkeypatch.context() as patch:
        refuse_renames(patch, folder.name, number)
        report = await pruned(mirror, KeepPolicy(last=3))

    assert set(report.failed) == {jobs[0]}
    assert jobs_of(mirror) == {jobs[0], *jobs[2:]}
    (found,) = await mirror_alerts(mirror)
    assert (found.code, found.subject) == ("M-PRUNE", jobs[0])
    assert str(folder.relative_to(mirror.root)) in found.message
    assert "dcsync tries again" in found.hint
    assert (await status_of(mirror)).check == 0

    await pruned(mirror, KeepPolicy(last=3))

    assert await alerts(mirror) == []
    assert jobs_of(mirror) == set(jobs[2:])


async def test_a_snapshot_that_was_removed_by_hand_before_its_pruning_says_what_happens_next(mirror: Mirror) -> None:
    jobs = await fill(mirror)
    async with mirror.opened() as context:
        shutil.rmtree(mirror.snapshot_of(jobs[0]))
        report = await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=3))

    assert report.failed[JobId(jobs[0])].advice == (
        "put the folder back if you have it. Otherwise the next start of dcsync downloads it again or records the loss"
    )


async def test_the_alert_ends_when_the_policy_keeps_the_snapshot_again(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await fill(mirror)
    refuse_renames(monkeypatch, mirror.snapshot_of(jobs[0]).name, errno.EBUSY)
    await pruned(mirror, KeepPolicy(last=3))
    assert await alerts(mirror) == [("M-PRUNE", jobs[0])]

    await pruned(mirror, KeepPolicy(last=5))

    assert await alerts(mirror) == []


async def test_a_missing_folder_is_an_alert_and_the_others_are_pruned(mirror: Mirror) -> None:
    jobs = await fill(mirror)
    async with mirror.opened() as context:
        shutil.rmtree(mirror.snapshot_of(jobs[0]))

        report = await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=3))

    assert set(report.failed) == {jobs[0]}
    assert await alerts(mirror) == [("M-PRUNE", jobs[0])]
    assert jobs_of(mirror) == set(jobs[2:])


async def test_a_dry_run_names_a_folder_that_cannot_be_read(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = await fill(mirror)
    name, scandir = mirror.snapshot_of(jobs[0]).name, os.scandir

    def fail(folder: Any) -> Any:
        if isinstance(folder, int) and str(Path(f"/proc/self/fd/{folder}").resolve()).endswith(name):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scandir(folder)

    async with mirror.opened() as context:
        monkeypatch.setattr(os, "scandir", fail)
        accounts = account_settings(mirror.configuration())
        report = await prune(context, accounts, KeepPolicy(last=3), dry_run=True)

    assert set(report.failed) == {jobs[0]}
    assert report.freed.keys() == {jobs[1]}
    assert await alerts(mirror) == []


@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_latest_that_cannot_be_read_keeps_its_data_request_and_no_other(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    jobs = await fill(mirror, days=2)
    other = mirror.world.add_request("Other")
    others = [add_extract(mirror, tables(1, seed=day), request=other, days_ago=2 - day) for day in range(2)]
    await mirror.sync()
    readlink, (first,) = os.readlink, {path.parents[3].name for path in map(mirror.snapshot_of, jobs)}

    def fail(path: Any, *, dir_fd: int | None = None) -> Any:
        if path == "latest" and dir_fd is not None and str(Path(f"/proc/self/fd/{dir_fd}").resolve()).endswith(first):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return readlink(path, dir_fd=dir_fd)

    async with mirror.opened() as context:
        monkeypatch.setattr(os, "readlink", fail)
        accounts = account_settings(mirror.configuration())
        report = await prune(context, accounts, KeepPolicy(last=1), dry_run=dry_run)
    monkeypatch.undo()

    assert report.removed == 1
    assert jobs_of(mirror) == {*jobs, *(others if dry_run else others[1:])}
    assert await alerts(mirror) == ([] if dry_run else [("M-PRUNE", next(iter(mirror.world.requests)))])


async def test_a_full_disk_is_pruned_and_the_line_is_written_when_there_is_room(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await fill(mirror)
    note, calls = trash.note_pruned, 0

    def full_once(root: MirrorRoot, line: trash.Pruned) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise DiskFull("full")
        note(root, line)

    monkeypatch.setattr(trash, "note_pruned", full_once)

    report = await pruned(mirror, KeepPolicy(last=3))

    assert (report.removed, report.failed) == (2, {})
    with open_root(mirror.root) as root:
        assert {line.record.job.id for line in trash.all_pruned(root)} == set(jobs[:2])


# --- a line without a pruning -----------------------------------------------------------------------------------------


async def noted_in_vain(mirror: Mirror, job: str) -> Path:
    """Write the line of a pruning that does not happen: the fsync after it failed, for example."""
    async with mirror.opened() as context:
        record = await SnapshotRows(context.manifest).record(ACME, JobId(job))
        assert record is not None
        line = trash.Pruned(account=ACME, record=replace(record, pruned_at=mirror.clock.now()))
        trash.note_pruned(context.root, line)
    return mirror.root / record.folder


async def test_a_line_without_a_pruning_does_not_call_a_later_loss_pruned(mirror: Mirror) -> None:
    jobs = await fill(mirror, days=3)
    folder = await noted_in_vain(mirror, jobs[0])
    assert set((await states(mirror)).values()) == {JobState.PUBLISHED}

    shutil.rmtree(folder)

    assert (await states(mirror))[jobs[0]] is JobState.SEEN


@pytest.mark.parametrize("torn", [False, True])
async def test_a_line_without_a_pruning_does_not_call_a_loss_pruned_after_a_rebuild(mirror: Mirror, torn: bool) -> None:
    jobs = await fill(mirror, days=3)
    folder = await noted_in_vain(mirror, jobs[0])
    if torn:
        with (mirror.root / ".dcsync/pruned.jsonl").open("a") as file:
            file.write('{"account": "acme", "fold')
    await states(mirror)
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()
    assert set((await states(mirror)).values()) == {JobState.PUBLISHED}

    shutil.rmtree(folder)

    assert (await states(mirror))[jobs[0]] is JobState.SEEN


async def test_a_line_whose_fsync_failed_does_not_call_a_later_loss_pruned(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await fill(mirror, days=3)
    note = trash.note_pruned

    def note_and_fail(root: MirrorRoot, line: trash.Pruned) -> None:
        note(root, line)
        raise DiskFault("fsync")

    monkeypatch.setattr(trash, "note_pruned", note_and_fail)
    assert set((await pruned(mirror, KeepPolicy(last=2))).failed) == {jobs[0]}
    monkeypatch.undo()
    assert set((await states(mirror)).values()) == {JobState.PUBLISHED}

    shutil.rmtree(mirror.snapshot_of(jobs[0]))

    assert (await states(mirror))[jobs[0]] is JobState.SEEN


async def test_a_pruning_after_a_withdrawn_line_is_known_to_a_rebuild(mirror: Mirror) -> None:
    jobs = await fill(mirror, days=3)
    await noted_in_vain(mirror, jobs[0])
    await states(mirror)
    await pruned(mirror, KeepPolicy(last=2))
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()

    assert (await states(mirror))[jobs[0]] is JobState.PRUNED
