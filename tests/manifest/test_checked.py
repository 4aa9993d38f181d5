"""When a start compares every row with its digest: once a day, after a crash, and when something changed the file."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dcsync.errors import ManifestCorrupt
from dcsync.manifest import checked, checksums, open_manifest
from tests.rigs.sqlite import ACME, fill, raw

DAY = 86400
DAMAGED = ManifestCorrupt("the manifest is damaged")


class Checks:
    """Counts the thorough checks."""

    def __init__(self) -> None:
        self.number = 0
        self._real = checksums.broken_row

    def __call__(self, connection: Any) -> str | None:
        self.number += 1
        return self._real(connection)

    async def at_start_of(self, path: Path) -> int:
        """Open a manifest and return how many thorough checks that made."""
        before = self.number
        async with open_manifest(path):
            pass
        return self.number - before


@pytest.fixture
async def closed(path: Path) -> Path:
    """A manifest that was checked and closed."""
    await fill(path, jobs=2)
    async with open_manifest(path):
        pass
    return path


@pytest.fixture
def checks(closed: Path, monkeypatch: pytest.MonkeyPatch) -> Checks:
    counting = Checks()
    monkeypatch.setattr(checksums, "broken_row", counting)
    return counting


def mark_of(path: Path) -> Path:
    return path.with_name(path.name + checked.SUFFIX)


def rewrite(path: Path, **changes: object) -> None:
    mark = mark_of(path)
    mark.write_text(json.dumps({**json.loads(mark.read_text()), **changes}))


def flip(path: Path) -> None:
    """Change a byte within a value, and give the file its times back, as a restored backup or a bad disk would."""
    before, body = path.stat(), bytearray(path.read_bytes())
    at = body.index(b"admin_users.csv")
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"b")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def test_a_start_after_a_proper_end_does_not_check_every_row_again(closed: Path, checks: Checks) -> None:
    assert await checks.at_start_of(closed) == 0
    async with open_manifest(closed) as manifest:
        await manifest.set_instance("another")
    assert await checks.at_start_of(closed) == 0


def a_day_ago(path: Path) -> None:
    rewrite(path, checked_at=json.loads(mark_of(path).read_text())["checked_at"] - DAY)


def clock_was_wrong(path: Path) -> None:
    rewrite(path, checked_at=json.loads(mark_of(path).read_text())["checked_at"] + DAY)


def another_boot(path: Path) -> None:
    left = json.loads(mark_of(path).read_text())["left"]
    rewrite(path, left=["another boot", *left[1:]])


def no_mark(path: Path) -> None:
    mark_of(path).unlink()


def torn_mark(path: Path) -> None:
    mark_of(path).write_text('{"checked_at"')


def another_mark(path: Path) -> None:
    mark_of(path).write_text("[]")


def touched(path: Path) -> None:
    os.utime(path)


def copied(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.rename(path)


def other_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO meta VALUES ('x', 'y')")


def crashed(path: Path) -> None:
    path.with_name(f"{path.name}-wal").write_bytes(b"x")


@pytest.mark.parametrize(
    "cause",
    [
        a_day_ago,
        clock_was_wrong,
        another_boot,
        no_mark,
        torn_mark,
        another_mark,
        touched,
        copied,
        other_program,
        crashed,
    ],
)
async def test_every_row_is_checked_when_anything_may_have_happened(
    closed: Path, checks: Checks, cause: Callable[[Path], None]
) -> None:
    cause(closed)

    assert await checks.at_start_of(closed) == 1
    assert await checks.at_start_of(closed) == 0


async def test_a_changed_byte_is_damage_at_the_next_start_even_with_the_old_times(closed: Path) -> None:
    flip(closed)

    for _ in range(2):
        with pytest.raises(ManifestCorrupt):
            async with open_manifest(closed):
                pass


async def test_damage_that_is_met_at_work_is_looked_for_at_the_next_start(closed: Path, checks: Checks) -> None:
    async def work() -> None:
        async with open_manifest(closed):
            raise DAMAGED

    with pytest.raises(ManifestCorrupt):
        await work()

    assert await checks.at_start_of(closed) == 1


async def test_while_another_process_writes_no_mark_is_left(closed: Path, checks: Checks) -> None:
    async with open_manifest(closed) as manifest:
        await manifest.set_instance("another")
        assert await checks.at_start_of(closed) == 1
        assert not mark_of(closed).exists()

    assert await checks.at_start_of(closed) == 0


async def test_a_reader_leaves_the_mark_alone(closed: Path, checks: Checks) -> None:
    before = mark_of(closed).read_bytes()

    async with open_manifest(closed, read_only=True) as manifest:
        assert len(await manifest.jobs(ACME)) == 2

    assert mark_of(closed).read_bytes() == before
    assert await checks.at_start_of(closed) == 0


async def test_an_open_manifest_can_be_checked_while_it_is_read_and_written(closed: Path, checks: Checks) -> None:
    async with open_manifest(closed) as manifest, manifest.writing() as connection:
        await connection.execute(sa.text("UPDATE meta SET value = 'half' WHERE key = 'instance'"))

        # It reads what is committed.
        await manifest.check_rows()

        assert checks.number == 1
        assert len(await manifest.jobs(ACME)) == 2
        await connection.rollback()


async def test_a_check_does_not_hold_up_the_event_loop(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()

    def wait(_: object) -> None:
        assert goes_on.wait(60)

    async with open_manifest(closed) as manifest, asyncio.TaskGroup() as group:
        monkeypatch.setattr(checksums, "broken_row", wait)
        check = group.create_task(manifest.check_rows())
        # Other work goes on meanwhile.
        await manifest.set_instance("another")
        assert len(await manifest.jobs(ACME)) == 2
        assert not check.done()
        goes_on.set()


async def test_a_check_at_work_counts_for_the_next_start(closed: Path, checks: Checks) -> None:
    rewrite(closed, checked_at=json.loads(mark_of(closed).read_text())["checked_at"] - DAY + 1000)
    async with open_manifest(closed) as manifest:
        await manifest.check_rows()

    assert checks.number == 1
    assert json.loads(mark_of(closed).read_text())["checked_at"] > time.time() - DAY + 2000
    assert await checks.at_start_of(closed) == 0


async def test_damage_that_a_check_finds_is_looked_for_at_the_next_start(closed: Path, checks: Checks) -> None:
    async with open_manifest(closed) as manifest:
        with raw(closed) as connection:
            connection.execute("UPDATE content SET sha256 = 'changed' WHERE id = 1")

        with pytest.raises(ManifestCorrupt, match="a row of content"):
            await manifest.check_rows()

    assert not mark_of(closed).exists()
    with pytest.raises(ManifestCorrupt):
        await checks.at_start_of(closed)
