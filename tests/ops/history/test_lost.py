"""Files of row histories that are the only copy of rows, and that are lost, damaged or older."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import open_mirror_unlocked
from dcsync.core.retention import KeepPolicy
from dcsync.ops.history.catch_up import verify
from dcsync.ops.history.windows import window_tables
from dcsync.ops.integrity import verify as mirror_verify
from dcsync.ops.integrity.report import Damage
from tests.rigs.histories import ALL, add_day, alerts, build, folder_of, state_of
from tests.rigs.mirror import Mirror
from tests.rigs.reductions import WINDOWS, fill, pruned, window

NAME = WINDOWS[0].removesuffix(".csv")


@pytest.fixture
async def only_copy(mirror: Mirror) -> None:
    """Make the files of a row history the only copy of rows."""
    await fill(mirror, 3)
    await build(mirror)
    await prune(mirror)


def file_of(mirror: Mirror) -> Path:
    return folder_of(mirror) / f"{NAME}.parquet"


async def prune(mirror: Mirror) -> None:
    await pruned(mirror, KeepPolicy(last=1), windows=window_tables(ALL))


async def next_day(mirror: Mirror) -> None:
    """Mirror one more day, and build."""
    await add_day(mirror, {name: window(name, 9) for name in WINDOWS})
    await build(mirror)


async def damaged(mirror: Mirror) -> list[Damage]:
    async with open_mirror_unlocked(mirror.configuration(), mirror.stores(), clock=mirror.clock) as context:
        return (await mirror_verify.verify(context, account_settings(mirror.configuration()))).damage


async def unproved(mirror: Mirror) -> list[str]:
    async with mirror.opened() as context:
        (found,) = await verify(context, account_settings(mirror.configuration()), ALL)
    return [each.table for each in found.unproved]


def flip(path: Path) -> None:
    """Damage a file as a faulty disk does: in the middle, without a trace in its attributes."""
    facts = path.stat()
    body = bytearray(path.read_bytes())
    body[len(body) // 3] ^= 0xFF
    path.write_bytes(body)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def of_other_table(path: Path) -> None:
    shutil.copyfile(path.with_name(f"{WINDOWS[1][:-4]}.parquet"), path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "flipped": flip,
    "of another table": of_other_table,
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_the_only_copy_is_never_begun_again(mirror: Mirror, only_copy: None, damage: str) -> None:
    path = file_of(mirror)
    whole = path.read_bytes()
    DAMAGES[damage](path)
    left = path.read_bytes() if path.exists() else None
    (found,) = await damaged(mirror)
    assert found.path.endswith(f"history/{NAME}.parquet")
    assert "restore it from a backup" in found.detail
    assert set(await unproved(mirror)) == {NAME}
    await next_day(mirror)
    await build(mirror, retries=True)
    await build(mirror, rebuilds=True)

    (alert,) = await alerts(mirror)
    assert f"history/{NAME}.parquet" in alert.message
    assert "no snapshot has the rows of 2 steps (2026-11-" in alert.message
    assert f"restore acme/{path.parent.parent.name}/history/{NAME}.parquet from a backup" in alert.hint
    assert (path.read_bytes() if path.exists() else None) == left
    # The other table goes on.
    assert len(state_of(mirror).tables[WINDOWS[1][:-4]].steps) == 4

    # Whatever is still in snapshots stays there.
    await prune(mirror)
    assert len(list(mirror.root.glob(f"acme/*/2026/*/*/*/{WINDOWS[0]}"))) == 2

    # The backup is older than the last day.
    path.write_bytes(whole)
    await build(mirror)
    assert await alerts(mirror) == []
    assert len(state_of(mirror).tables[NAME].steps) == 4
    assert await unproved(mirror) == []
    await prune(mirror)
    assert len(list(mirror.root.glob(f"acme/*/2026/*/*/*/{WINDOWS[0]}"))) == 1


async def test_a_lost_file_is_an_alert_without_a_new_snapshot(mirror: Mirror, only_copy: None) -> None:
    assert await damaged(mirror) == []
    file_of(mirror).unlink()
    await build(mirror)

    assert [alert.subject.rpartition("/")[2] for alert in await alerts(mirror)] == [NAME]


async def test_a_lost_record_begins_nothing_again(mirror: Mirror, only_copy: None) -> None:
    path = file_of(mirror)
    wanted, body = state_of(mirror), path.read_bytes()
    (path.parent / "history.json").unlink()
    report = await build(mirror)

    assert await alerts(mirror) == []
    assert state_of(mirror) == wanted
    assert (report.requests[0].outcome.written, path.read_bytes()) == (0, body)


@pytest.mark.parametrize("damage", ["missing", "empty", "flipped", "of another table"])
async def test_a_lost_record_and_a_damaged_file_are_an_alert(mirror: Mirror, only_copy: None, damage: str) -> None:
    path = file_of(mirror)
    whole = path.read_bytes()
    (path.parent / "history.json").unlink()
    DAMAGES[damage](path)
    for _ in range(2):
        await next_day(mirror)
        assert [alert.subject.rpartition("/")[2] for alert in await alerts(mirror)] == [NAME]

    path.write_bytes(whole)
    await build(mirror)
    assert await alerts(mirror) == []
    assert len(state_of(mirror).tables[NAME].steps) == 5


async def test_a_history_that_was_deleted_is_an_alert_as_long_as_its_rows_are_gone(
    mirror: Mirror, only_copy: None
) -> None:
    path = file_of(mirror)
    backup = mirror.root.parent / "backup"
    shutil.copytree(path.parent, backup)
    shutil.rmtree(path.parent)
    for _ in range(2):
        # The new extracts do not have the tables.
        await add_day(mirror, {"admin_x.csv": b"id\n1\n"})
        await build(mirror)
        found = await alerts(mirror)
        assert [alert.subject.rpartition("/")[2] for alert in found] == [name[:-4] for name in WINDOWS]
        assert f"{WINDOWS[0]} and 1 more tables" in found[0].message

    for kept in backup.glob("*.parquet"):
        shutil.copy2(kept, path.parent)
    await build(mirror)
    assert await alerts(mirror) == []
    assert len(state_of(mirror).tables[NAME].steps) == 3


async def test_an_older_file_without_rows_that_no_snapshot_has_is_an_alert(mirror: Mirror) -> None:
    await fill(mirror, 2)
    await build(mirror)
    path = folder_of(mirror) / f"{NAME}.parquet"
    old = path.read_bytes()
    await next_day(mirror)
    await add_day(mirror, {name: window(name, 10) for name in WINDOWS}, days_ago=-1)
    await build(mirror)
    await prune(mirror)
    new = path.read_bytes()
    path.write_bytes(old)
    await build(mirror)

    (alert,) = await alerts(mirror)
    assert "its file is an older one, without 1 step (2026-" in alert.message
    assert path.read_bytes() == old
    path.write_bytes(new)
    await build(mirror)
    assert await alerts(mirror) == []


@pytest.mark.parametrize("damage", ["missing", "flipped"])
async def test_a_loss_can_be_accepted(mirror: Mirror, only_copy: None, damage: str) -> None:
    path = file_of(mirror)
    DAMAGES[damage](path)
    await build(mirror, rebuilds=True)
    assert len(await alerts(mirror)) == 1
    report = await build(mirror, rebuilds=True, accepts_loss=True)

    assert report.is_complete
    assert await alerts(mirror) == []
    assert len(state_of(mirror).tables[NAME].steps) == 1
    await next_day(mirror)
    assert len(state_of(mirror).tables[NAME].steps) == 2


async def test_a_loss_of_a_table_that_no_snapshot_has_can_be_accepted(mirror: Mirror) -> None:
    await fill(mirror, 2)
    await add_day(mirror, {"admin_x.csv": b"id\n1\n"})
    await build(mirror)
    await prune(mirror)
    path = folder_of(mirror) / f"{NAME}.parquet"
    path.write_bytes(b"x")
    await build(mirror)
    assert [alert.subject.rpartition("/")[2] for alert in await alerts(mirror)] == [NAME]
    assert NAME in await unproved(mirror)

    await build(mirror, rebuilds=True, accepts_loss=True)
    assert await alerts(mirror) == []
    assert (NAME in state_of(mirror).tables, path.exists()) == (False, False)
    # The history of the other table is whole, and no snapshot has its rows: there is nothing to build it from.
    assert len(state_of(mirror).tables[WINDOWS[1][:-4]].steps) == 2


async def test_a_damaged_file_whose_rows_are_all_in_snapshots_is_built_again_before_a_step_uses_it(
    mirror: Mirror,
) -> None:
    await fill(mirror, 2)
    await build(mirror)
    flip(folder_of(mirror) / f"{NAME}.parquet")
    await next_day(mirror)

    assert await alerts(mirror) == []
    assert len(state_of(mirror).tables[NAME].steps) == 3
    assert await unproved(mirror) == []
    assert await damaged(mirror) == []
