"""Snapshots that are removed together: each stays whole, or is recorded as pruned, wherever the work stops."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Collection
from datetime import datetime
from typing import Any

import pytest

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.core.retention import Dated
from dcsync.errors import DiskFault, DiskReadOnly, ManifestError
from dcsync.manifest import SnapshotRows
from dcsync.mirror import trash
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.context import SyncContext
from dcsync.ops.integrity.remove import Removal, remove_snapshots
from tests.rigs.mirror import Mirror, assert_proved_by_sums
from tests.rigs.prunings import ACME, fill, in_trash, jobs_of, states


async def removed(context: SyncContext, jobs: Collection[str]) -> Removal:
    folders = await context.manifest.published_folders(ACME)
    snapshots = [Dated(job=JobId(job), folder=folders[JobId(job)], completed_at=None, held=()) for job in jobs]
    return await remove_snapshots(context, ACME, snapshots)


async def test_snapshots_that_go_together_share_the_lines_and_the_commit(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await fill(mirror, 5)
    written: list[tuple[int, int]] = []
    note = trash.note_pruned

    def look(root: MirrorRoot, *lines: trash.Pruned) -> None:
        # No line names a snapshot that is still in its place.
        written.append((len(lines), len(jobs_of(mirror))))
        note(root, *lines)

    monkeypatch.setattr(trash, "note_pruned", look)
    async with mirror.opened() as context:
        removal = await removed(context, jobs[:3])

        assert set(removal.freed) == set(jobs[:3])
        assert not removal.failed
        assert len(await context.manifest.published_folders(ACME)) == 2
    assert written == [(3, 2)]
    assert in_trash(mirror) == []


async def fsyncs_of(mirror: Mirror, monkeypatch: pytest.MonkeyPatch, jobs: Collection[str]) -> int:
    """Return how many fsyncs the removal of these snapshots needs."""
    count, fsync = 0, os.fsync

    def counted(descriptor: int) -> None:
        nonlocal count
        count += 1
        fsync(descriptor)

    async with mirror.opened() as context:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", counted)
            await removed(context, jobs)
    return count


async def test_a_further_snapshot_costs_one_fsync(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = await fill(mirror, 6)
    await fsyncs_of(mirror, monkeypatch, jobs[:1])

    one = await fsyncs_of(mirror, monkeypatch, jobs[1:2])

    # That of the folder that has lost it.
    assert await fsyncs_of(mirror, monkeypatch, jobs[2:5]) == one + 2


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EIO])
async def test_a_snapshot_that_cannot_be_moved_stays_and_the_others_go(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    jobs = await fill(mirror, 4)
    refuse(monkeypatch, mirror.snapshot_of(jobs[1]).name, number)
    async with mirror.opened() as context:
        removal = await removed(context, jobs[:3])

    assert [snapshot.job for snapshot, _ in removal.failed] == [jobs[1]]
    assert jobs_of(mirror) == {jobs[1], jobs[3]}
    assert {job for job, state in (await states(mirror)).items() if state is JobState.PUBLISHED} == jobs_of(mirror)


async def test_nothing_follows_a_snapshot_on_a_read_only_disk(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = await fill(mirror, 4)
    refuse(monkeypatch, mirror.snapshot_of(jobs[1]).name, errno.EROFS)
    async with mirror.opened() as context:
        removal = await removed(context, jobs[:3])

    assert removal.freed.keys() == {jobs[0]}
    assert [(snapshot.job, type(error)) for snapshot, error in removal.failed] == [
        (jobs[1], DiskReadOnly),
        (jobs[2], DiskReadOnly),
    ]
    assert jobs_of(mirror) == set(jobs[1:])
    assert (await states(mirror))[jobs[0]] is JobState.PRUNED


async def test_snapshots_whose_lines_cannot_be_written_are_put_back(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await fill(mirror, 4)

    def fail(_: MirrorRoot, *__: trash.Pruned) -> None:
        raise DiskFault("writing")

    async with mirror.opened() as context:
        monkeypatch.setattr(trash, "note_pruned", fail)
        removal = await removed(context, jobs[:3])
        monkeypatch.undo()

    assert len(removal.failed) == 3
    assert jobs_of(mirror) == set(jobs)
    assert in_trash(mirror) == []
    for snapshot in mirror.snapshots():
        assert_proved_by_sums(snapshot)


async def test_a_crash_before_the_commit_is_finished_for_all_of_them(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await fill(mirror, 4)

    async def fail(_: Any, __: AccountName, ___: Collection[JobId], *, at: datetime) -> None:
        raise ManifestError(str(at))

    async with mirror.opened() as context:
        monkeypatch.setattr(SnapshotRows, "record_pruned", fail)
        with pytest.raises(ManifestError):
            await removed(context, jobs[:3])
        monkeypatch.undo()
        assert set((await context.manifest.published_folders(ACME)).keys()) == set(jobs)
    assert len(in_trash(mirror)) == 3

    known = await states(mirror)

    assert [known[job] for job in jobs] == [JobState.PRUNED] * 3 + [JobState.PUBLISHED]
    assert in_trash(mirror) == []
    assert (await mirror.sync_one()).published == []


async def test_a_removal_cancelled_while_files_are_deleted_is_recorded_and_the_next_start_deletes_the_rest(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await fill(mirror, 4)
    task: list[asyncio.Task[Removal]] = []
    empty = trash.empty

    async with mirror.opened() as context, asyncio.TaskGroup() as group:
        loop = asyncio.get_running_loop()

        def cancel(root: MirrorRoot, leaf: str) -> int:
            loop.call_soon_threadsafe(task[0].cancel)
            return empty(root, leaf)

        monkeypatch.setattr(trash, "empty", cancel)
        task.append(group.create_task(removed(context, jobs[:3])))
    monkeypatch.undo()
    assert task[0].cancelled()
    assert len(in_trash(mirror)) == 2

    known = await states(mirror)

    assert [known[job] for job in jobs] == [JobState.PRUNED] * 3 + [JobState.PUBLISHED]
    assert in_trash(mirror) == []


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Let the disk refuse to move a folder."""
    rename = os.rename

    def refused(source: Any, *others: Any, **options: Any) -> None:
        if source == name:
            raise OSError(number, os.strerror(number))
        rename(source, *others, **options)

    monkeypatch.setattr(os, "rename", refused)
