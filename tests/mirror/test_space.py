"""The space of a disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dcsync.errors import DiskError, DiskFull, InodesExhausted
from dcsync.mirror import disk, space
from tests.rigs.folders import MIB, opened, small_disk


def test_reserving_takes_room_and_leaves_the_length(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        space.preallocate(file.fileno(), 4 * MIB)
        facts = os.fstat(file.fileno())
        space.preallocate(file.fileno(), 0)

    assert facts.st_size == 0
    assert facts.st_blocks * 512 >= 4 * MIB


@pytest.mark.needs_root
def test_reserving_on_a_full_disk_is_disk_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as path, (path / "file").open("wb") as file:
        space.preallocate(file.fileno(), MIB // 2)

        with pytest.raises(DiskFull), disk.disk_errors("reserving"):
            space.preallocate(file.fileno(), 2 * MIB)


@pytest.mark.needs_root
def test_room_is_asked_for_with_a_twentieth_and_the_reserve_on_top(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as path, opened(path) as below:
        facts = os.fstatvfs(below)
        free = facts.f_bavail * facts.f_frsize
        size = 100 * 4096

        space.check_room(below, size=size, entries=1, reserve=free - size - size // 20)
        with pytest.raises(DiskFull, match=r" free of .*, and .* are needed \(.* of them for mirror\.min_free\)"):
            space.check_room(below, size=size, entries=1, reserve=free - size - size // 20 + 1)


@pytest.mark.needs_root
def test_too_few_inodes_are_told_from_too_little_space(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=4m,nr_inodes=200") as path, opened(path) as below:
        free = os.fstatvfs(below).f_favail

        space.check_room(below, size=0, entries=free - 100, reserve=0)
        with pytest.raises(InodesExhausted, match=f"{free:,} inodes free of 200, and {free + 1:,} are needed"):
            space.check_room(below, size=0, entries=free - 99, reserve=0)


def test_a_disk_that_does_not_answer_has_no_room(tmp_path: Path) -> None:
    closed = os.open(tmp_path, os.O_RDONLY)
    os.close(closed)

    with pytest.raises(DiskError), disk.disk_errors("asking"):
        space.check_room(closed, size=0, entries=0, reserve=0)


def test_a_clone_shares_the_content_or_says_that_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 8192)
    with (tmp_path / "source").open("rb") as source, (tmp_path / "target").open("wb") as target:
        cloned = space.clone(source.fileno(), target.fileno())

    assert (tmp_path / "target").read_bytes() == (b"x" * 8192 if cloned else b"")
