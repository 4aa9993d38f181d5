"""A snapshot that cannot be pruned is an alert, and the others are pruned."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dcsync.app.from_config import account_settings
from dcsync.core.alerts import Alert
from dcsync.core.model import JobId
from dcsync.core.retention import KeepPolicy
from dcsync.errors import DiskFull
from dcsync.mirror import trash
from dcsync.mirror.root import MirrorRoot, open_root
from dcsync.ops.integrity.prune import prune
from tests.rigs.mirror import (
    Mirror,
    add_extract,
    status_of,
    tables,
)
from tests.rigs.prunings import fill, jobs_of, pruned


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

    def full_once(root: MirrorRoot, *lines: trash.Pruned) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise DiskFull("full")
        note(root, *lines)

    monkeypatch.setattr(trash, "note_pruned", full_once)

    report = await pruned(mirror, KeepPolicy(last=3))

    assert (report.removed, report.failed) == (2, {})
    with open_root(mirror.root) as root:
        assert {line.record.job.id for line in trash.all_pruned(root)} == set(jobs[:2])
