"""A pruning that was cut short is finished or withdrawn at the next start."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dcsync.app.from_config import account_settings
from dcsync.core.lifecycle import JobState
from dcsync.core.model import JobId
from dcsync.core.retention import KeepPolicy
from dcsync.errors import DiskFault
from dcsync.manifest import SnapshotRows
from dcsync.mirror import trash
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.integrity.prune import prune
from tests.rigs.mirror import (
    Mirror,
)
from tests.rigs.prunings import ACME, fill, in_trash, jobs_of, note, pruned, states

# --- cut short --------------------------------------------------------------------------------------------------------


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


async def noted_in_vain(mirror: Mirror, job: str) -> Path:
    """Write the line of a pruning that does not happen: the fsync after it failed, for example."""
    async with mirror.opened() as context:
        record = await SnapshotRows(context.manifest).record(ACME, JobId(job))
        assert record is not None
        line = trash.Pruned(account=ACME, record=replace(record, pruned_at=mirror.clock.now()))
        trash.note_pruned(context.root, line)
    return mirror.root / record.folder


# --- a line without a pruning -----------------------------------------------------------------------------------------


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

    def note_and_fail(root: MirrorRoot, *lines: trash.Pruned) -> None:
        note(root, *lines)
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
