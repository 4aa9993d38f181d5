"""The root: whose it is, who holds it, and that it is still there."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dcsync.errors import (
    DcsyncError,
    DiskError,
    DiskFull,
    DiskReadOnly,
    InodesExhausted,
    MirrorError,
    MirrorForeign,
    MirrorNotMounted,
    MirrorTampered,
)
from dcsync.mirror.binding import claim, is_new
from dcsync.mirror.root import MirrorRoot, locked, open_root, split
from tests.rigs.stats import unread

#: As nobody: opens a root that only its owner may.
OPEN_AS_NOBODY = """
import os, sys
from pathlib import Path
from typing import Any
from dcsync.errors import DiskDenied
from dcsync.mirror.root import open_root
os.chdir(sys.argv[1])
os.setuid(65534)
try:
    with open_root(Path("private")):
        print("opened")
except DiskDenied as error:
    print(error)
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[MirrorRoot]:
    """An empty root."""
    (tmp_path / "mirror").mkdir()
    with open_root(tmp_path / "mirror") as opened:
        yield opened


def tree(path: Path) -> set[str]:
    return {str(found.relative_to(path)) for found in path.rglob("*")}


# --- opening ----------------------------------------------------------------------------------------------------------


def test_a_root_that_is_missing_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(MirrorError, match="does not exist") as caught, open_root(tmp_path / "mirror"):
        pass

    assert "mkdir -p" in caught.value.advice
    assert tree(tmp_path) == set()


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mirror").write_bytes(b"")

    with pytest.raises(MirrorError, match="is not a folder"), open_root(tmp_path / "mirror"):
        pass


def test_a_root_may_be_reached_by_a_symlink_of_the_operators(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "mirror").symlink_to("disk")

    with open_root(tmp_path / "mirror") as root:
        assert os.fstat(root.descriptor).st_ino == (tmp_path / "disk").stat().st_ino


@pytest.mark.needs_root
def test_a_root_that_may_not_be_opened_says_for_whom(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o700)

    opened = subprocess.run([sys.executable, "-c", OPEN_AS_NOBODY, tmp_path], check=True, capture_output=True)

    assert opened.stdout == b"opening the mirror's root private: Permission denied (as uid 65534, nobody)\n"


# --- marker -----------------------------------------------------------------------------------------------------------


def test_a_new_root_is_claimed_with_a_new_id(root: MirrorRoot) -> None:
    identifier, is_new_marker = claim(root, state_id=None, knows_snapshots=False)

    assert is_new_marker
    assert json.loads((root.path / ".dcsync/instance").read_bytes()) == {"id": identifier}
    assert stat.S_IMODE((root.path / ".dcsync/instance").stat().st_mode) == 0o644
    assert tree(root.path) == {".dcsync", ".dcsync/instance"}


def test_each_new_root_gets_an_id_of_its_own(tmp_path: Path) -> None:
    identifiers = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with open_root(tmp_path / name) as root:
            identifiers.add(claim(root, state_id=None, knows_snapshots=False)[0])

    assert len(identifiers) == 2


def test_a_new_root_is_claimed_with_the_id_that_the_state_has(root: MirrorRoot) -> None:
    claimed = claim(root, state_id="the-state's", knows_snapshots=False)

    assert claimed == ("the-state's", True)
    assert root.marker() == "the-state's"


@pytest.mark.parametrize("knows_snapshots", [True, False])
def test_a_root_that_is_ours_is_ours_again(root: MirrorRoot, knows_snapshots: bool) -> None:
    identifier, _ = claim(root, state_id=None, knows_snapshots=False)
    before = unread((root.path / ".dcsync/instance").stat())

    assert claim(root, state_id=identifier, knows_snapshots=knows_snapshots) == (identifier, False)
    assert unread((root.path / ".dcsync/instance").stat()) == before


@pytest.mark.parametrize("state_id", ["another", None])
def test_a_root_of_another_instance_is_refused_and_left_as_it_is(root: MirrorRoot, state_id: str | None) -> None:
    root.write_marker("theirs")

    with pytest.raises(MirrorForeign, match="theirs"):
        claim(root, state_id=state_id, knows_snapshots=False)

    assert root.marker() == "theirs"


def test_a_bare_mount_point_is_not_written_to(root: MirrorRoot) -> None:
    with pytest.raises(MirrorNotMounted) as caught:
        claim(root, state_id="ours", knows_snapshots=True)

    assert caught.value.safe == "nothing was written"
    assert tree(root.path) == set()


def test_asking_whether_a_root_is_new_writes_nothing(root: MirrorRoot) -> None:
    assert is_new(root, knows_snapshots=False)
    with pytest.raises(MirrorNotMounted):
        is_new(root, knows_snapshots=True)
    assert tree(root.path) == set()

    root.write_marker("ours")

    assert not is_new(root, knows_snapshots=True)


@pytest.mark.parametrize("body", [b"", b"\0" * 40, b"{}", b'{"id": ""}', b'{"id": 7}', b"[1]", b"\xff"])
def test_a_marker_that_cannot_be_read_is_neither_new_nor_ours(root: MirrorRoot, body: bytes) -> None:
    (root.path / ".dcsync").mkdir()
    (root.path / ".dcsync/instance").write_bytes(body)

    with pytest.raises(MirrorTampered, match="valid instance ID"):
        claim(root, state_id="ours", knows_snapshots=False)

    assert (root.path / ".dcsync/instance").read_bytes() == body


def test_a_marker_that_is_a_symlink_is_not_followed(root: MirrorRoot, tmp_path: Path) -> None:
    (tmp_path / "planted").write_text('{"id": "ours"}')
    (root.path / ".dcsync").mkdir()
    (root.path / ".dcsync/instance").symlink_to(tmp_path / "planted")

    with pytest.raises(MirrorTampered):
        root.marker()


def test_a_marker_that_a_killed_run_left_half_written_is_no_marker(root: MirrorRoot) -> None:
    (root.path / ".dcsync").mkdir()
    (root.path / ".dcsync/instance.new").write_bytes(b'{"id')

    identifier, is_new_marker = claim(root, state_id=None, knows_snapshots=False)

    assert is_new_marker
    assert root.marker() == identifier
    assert tree(root.path) == {".dcsync", ".dcsync/instance"}


@pytest.mark.needs_root
def test_a_staging_on_another_file_system_is_refused_before_any_work(root: MirrorRoot) -> None:
    own = root.path / ".dcsync"
    own.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", own], check=True)
    try:
        with pytest.raises(DiskError, match="different file system"), locked(root, role="sync"):
            pass
        assert tree(own) == set()
    finally:
        subprocess.run(["umount", "-l", own], check=True)


# --- still there ------------------------------------------------------------------------------------------------------


def test_a_root_that_stayed_is_still_there(root: MirrorRoot) -> None:
    (root.path / "acme").mkdir()

    root.check_still_there()


def test_a_root_that_was_moved_away_is_not_there_any_more(root: MirrorRoot, tmp_path: Path) -> None:
    root.path.rename(tmp_path / "moved")

    with pytest.raises(DcsyncError, match="mirror"):
        root.check_still_there()

    assert tree(tmp_path) == {"moved"}


def test_a_root_in_whose_place_another_stands_is_not_there_any_more(root: MirrorRoot, tmp_path: Path) -> None:
    root.path.rename(tmp_path / "moved")
    root.path.mkdir()

    with pytest.raises(MirrorError, match="no longer the folder"):
        root.check_still_there()


@pytest.mark.needs_root
def test_a_disk_that_is_mounted_over_the_root_is_noticed(root: MirrorRoot) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", root.path], check=True)
    try:
        with pytest.raises(MirrorError, match="no longer the folder"):
            root.check_still_there()
    finally:
        subprocess.run(["umount", "-l", root.path], check=True)

    root.check_still_there()


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relative", ["..", "acme/..", "../acme", "acme/../../etc", ".", "acme/./a", "", "/", "//"])
def test_a_path_that_leads_out_or_nowhere_is_refused(root: MirrorRoot, relative: str) -> None:
    with pytest.raises(MirrorTampered, match="not a path within the mirror"):
        split(relative)
    with pytest.raises(MirrorTampered), root.folder(relative, create=True):
        pass

    assert tree(root.path) == set()


def test_a_path_is_its_components() -> None:
    assert list(split("acme/2026/11/120000Z-0a")) == ["acme", "2026", "11", "120000Z-0a"]
    assert list(split("/acme//...")) == ["acme", "..."]


def test_a_folder_is_there_or_not_and_a_symlink_is_neither(root: MirrorRoot, tmp_path: Path) -> None:
    (root.path / "acme/2026").mkdir(parents=True)
    (root.path / "acme/link").symlink_to(tmp_path)

    assert root.has_folder("acme/2026")
    assert not root.has_folder("acme/2025/01")
    with pytest.raises(MirrorTampered):
        root.has_folder("acme/link/mirror")


def test_a_small_file_is_read_and_a_symlink_in_its_place_is_not(root: MirrorRoot, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (root.path / "acme").mkdir()
    (root.path / "acme/a").write_bytes(b"a")
    (root.path / "acme/b").symlink_to(tmp_path / "secret")

    assert root.read_file("acme", "a") == b"a"
    with pytest.raises(FileNotFoundError):
        root.read_file("acme", "c")
    with pytest.raises(MirrorTampered):
        root.read_file("acme", "b")


def test_an_error_of_what_is_done_within_a_folder_is_not_taken_for_the_opening_of_it(root: MirrorRoot) -> None:
    before = set(Path("/proc/self/fd").iterdir())

    with pytest.raises(OSError, match="inner") as caught, root.folder("acme", create=True):
        raise OSError(errno.EIO, "inner")

    assert caught.value.errno == errno.EIO
    assert set(Path("/proc/self/fd").iterdir()) == before


@pytest.mark.needs_root
def test_what_a_file_system_shows_that_turned_read_only_is_not_settled(tmp_path: Path) -> None:
    """After an error it shows what never reached the disk, and syncfs(2) succeeds."""
    (tmp_path / "mirror").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "mirror"], check=True)
    try:
        with open_root(tmp_path / "mirror") as root:
            (root.path / "acme/day/snapshot").mkdir(parents=True)
            root.settle("acme/day/snapshot")
            with pytest.raises(DiskError):
                root.settle("acme/day/another")
            subprocess.run(["mount", "-o", "remount,ro", tmp_path / "mirror"], check=True)

            for folder in (None, "acme/day/snapshot"):
                with pytest.raises(DiskReadOnly):
                    root.settle(folder)
    finally:
        subprocess.run(["umount", "-l", tmp_path / "mirror"], check=True)


@pytest.mark.needs_root
def test_the_room_asked_for_is_that_of_the_mirrors_own_disk(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=150", "none", tmp_path / "mirror"], check=True)
    try:
        with open_root(tmp_path / "mirror") as root:
            (root.path / "a.csv").write_bytes(b"x" * (1 << 19))

            assert root.free_bytes() == 1 << 19
            root.check_room(size=1 << 18, entries=10, reserve=1 << 17)
            with pytest.raises(DiskFull):
                root.check_room(size=1 << 19, entries=10, reserve=0)
            with pytest.raises(InodesExhausted):
                root.check_room(size=1 << 18, entries=60, reserve=0)
    finally:
        subprocess.run(["umount", "-l", tmp_path / "mirror"], check=True)


# --- files of ours in the root ----------------------------------------------------------------------------------------


def test_a_file_in_the_root_is_replaced_in_one_step(root: MirrorRoot) -> None:
    root.replace_file("index.html", b"old")
    with (root.path / "index.html").open("rb") as reader:
        root.replace_file("index.html", b"newer")
        assert reader.read() == b"old"

    assert (root.path / "index.html").read_bytes() == b"newer"
    assert stat.S_IMODE((root.path / "index.html").stat().st_mode) == 0o644
    assert {path.name for path in root.path.iterdir()} == {".dcsync", "index.html"}
    assert list((root.path / ".dcsync").iterdir()) == []


def test_a_file_in_the_root_that_two_write_at_once_is_that_of_one(root: MirrorRoot) -> None:
    bodies = [bytes([letter]) * 300_000 for letter in b"abcdefgh"]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda body: root.replace_file("index.html", body), bodies * 5))

    assert (root.path / "index.html").read_bytes() in bodies


def test_a_folder_in_the_place_of_a_file_in_the_root_is_said_and_stays(root: MirrorRoot) -> None:
    (root.path / "index.html").mkdir()

    with pytest.raises(MirrorTampered) as caught:
        root.replace_file("index.html", b"new")

    # It names the path only once.
    assert caught.value.message == f"writing {root.path / 'index.html'}: it is a folder, not a regular file"
    assert (root.path / "index.html").is_dir()
