"""What cannot be removed from the trash: it stays, it is an alert, and nothing else waits for it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from dcsync.app.from_config import account_settings
from dcsync.core.alerts import Alert
from dcsync.core.retention import KeepPolicy
from dcsync.ops.integrity.missing import finish_pruning
from dcsync.ops.integrity.prune import prune
from tests.rigs.mirror import Mirror, add_extract, status_of, tables

#: A file of a NAS, an open file on NFS, a folder that is a mount point, a bad sector.
REFUSALS = [errno.EPERM, errno.EACCES, errno.EBUSY, errno.EIO, errno.ENOTEMPTY, errno.ESTALE]


async def fill(mirror: Mirror, days: int) -> list[str]:
    jobs = [add_extract(mirror, tables(2, seed=day), days_ago=days - day) for day in range(days)]
    await mirror.sync()
    return jobs


async def prune_to(mirror: Mirror, last: int) -> None:
    async with mirror.opened() as context:
        await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=last), force=True)


async def alerts(mirror: Mirror) -> list[Alert]:
    (account,) = (await status_of(mirror)).accounts
    return [item.alert for item in account.alerts]


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Let the disk refuse to remove the files with a name."""
    unlink = os.unlink

    def refused(path: Any, *, dir_fd: int | None = None) -> None:
        if path == name:
            raise OSError(number, os.strerror(number), name)
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refused)


def in_trash(mirror: Mirror) -> list[Path]:
    return [path for path in mirror.root.glob(".dcsync/trash/**/*") if path.is_file()]


@pytest.mark.parametrize("number", REFUSALS)
async def test_a_file_that_cannot_be_removed_is_an_alert_until_it_is_gone(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    await fill(mirror, 4)
    held = "admin_table_001.csv"
    with monkeypatch.context() as patch:
        refuse(patch, held, number)
        await prune_to(mirror, 2)

        assert len(mirror.snapshots()) == 2
        # Everything else in the trash is removed.
        assert [path.name for path in in_trash(mirror)] == [held] * 2
        (found,) = await alerts(mirror)
        assert found.code == "M-TRASH"
        assert ".dcsync/trash/" in found.message
        assert held in found.message
        assert (await status_of(mirror)).check == 0
        # The next start meets them again, and mirrors.
        job = add_extract(mirror, tables(2, seed=9))
        assert [published.job for published in (await mirror.sync_one()).published] == [job]
        (found,) = await alerts(mirror)
        assert found.message.endswith(", and 1 more")

    async with mirror.opened() as context:
        await finish_pruning(context)

    assert await alerts(mirror) == []
    assert in_trash(mirror) == []


async def test_a_job_whose_remains_cannot_be_removed_is_pruned_again(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job was pruned and downloaded again, and the rest of the first snapshot has its name in the trash."""
    jobs = await fill(mirror, 3)
    folder = mirror.snapshot_of(jobs[0])
    copy = {path.name: path.read_bytes() for path in folder.iterdir()}
    refuse(monkeypatch, "admin_table_001.csv", errno.EPERM)
    await prune_to(mirror, 2)
    folder.mkdir(parents=True)
    for name, body in copy.items():
        (folder / name).write_bytes(body)
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()

    await prune_to(mirror, 2)

    assert len(mirror.snapshots()) == 2
    assert [path.name for path in in_trash(mirror)] == ["admin_table_001.csv"] * 2


@pytest.mark.parametrize("place", ["trash", "pruned.jsonl"])
async def test_a_trash_that_cannot_be_used_does_not_stop_a_start(mirror: Mirror, place: str) -> None:
    await fill(mirror, 2)
    (mirror.root / ".dcsync" / place).symlink_to("nowhere")
    job = add_extract(mirror, tables(2, seed=9))

    assert [published.job for published in (await mirror.sync_one()).published] == [job]


async def test_staging_that_cannot_be_removed_does_not_stop_a_start(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(mirror, 1)
    left = mirror.root / ".dcsync/staging/old"
    left.mkdir(parents=True)
    (left / "index").write_bytes(b"of the NAS")
    with monkeypatch.context() as patch:
        refuse(patch, "index", errno.EPERM)

        assert (await mirror.sync_one()).failed == []
        assert not left.exists()
        assert (await mirror.sync_one()).failed == []
        assert [found.code for found in await alerts(mirror)] == ["M-TRASH"]

    await mirror.sync_one()
    assert await alerts(mirror) == []
    assert in_trash(mirror) == []
