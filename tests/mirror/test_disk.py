"""The system calls under the mirror: folders, durability and writing."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dcsync.errors import (
    DiskFull,
    DiskReadOnly,
    MirrorTampered,
)
from dcsync.mirror import disk
from tests.rigs.folders import MIB, opened, small_disk

#: As nobody: looks for a name below a folder that only root may search.
LOOK_AS_NOBODY = """
import os, sys
from dcsync.mirror import disk
below = os.open(sys.argv[1], os.O_RDONLY)
os.setuid(65534)
try:
    print(disk.is_there("private/file", below=below))
except PermissionError:
    print("refused")
"""


# --- folders ----------------------------------------------------------------------------------------------------------


def test_missing_folders_are_made_for_readers_whatever_the_umask(tmp_path: Path, folder: int) -> None:
    before = os.umask(0o077)
    try:
        made = disk.open_folders(folder, ["2026", "11", "22"], create=True)
    finally:
        os.umask(before)
    os.mkdir("here", dir_fd=made)
    os.close(made)

    assert (tmp_path / "2026/11/22/here").is_dir()
    for path in ("2026", "2026/11", "2026/11/22"):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o755


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path, folder: int) -> None:
    (tmp_path / "2026").mkdir(mode=0o750)

    os.close(disk.open_folders(folder, ["2026", "11"], create=True))

    assert stat.S_IMODE((tmp_path / "2026").stat().st_mode) == 0o750


def test_without_create_a_missing_folder_is_said_and_not_made(tmp_path: Path, folder: int) -> None:
    (tmp_path / "2026").mkdir()

    with pytest.raises(FileNotFoundError):
        disk.open_folders(folder, ["2026", "11"], create=False)

    assert list((tmp_path / "2026").iterdir()) == []


@pytest.mark.parametrize("components", [["link"], ["link", "below"], ["real", "link"]])
@pytest.mark.parametrize("create", [True, False])
def test_a_symlink_on_the_way_is_not_followed(tmp_path: Path, folder: int, components: list[str], create: bool) -> None:
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "real").mkdir()
    elsewhere.mkdir()
    (tmp_path / "link").symlink_to(elsewhere)
    (tmp_path / "real/link").symlink_to(elsewhere)

    with pytest.raises(MirrorTampered), disk.disk_errors("opening"):
        disk.open_folders(folder, components, create=create)

    assert list(elsewhere.iterdir()) == []


def test_walking_leaves_no_descriptor_open(tmp_path: Path, folder: int) -> None:
    (tmp_path / "a").mkdir()
    before = set(Path("/proc/self/fd").iterdir())

    os.close(disk.open_folders(folder, ["a", "b", "c"], create=True))
    with pytest.raises(FileNotFoundError):
        disk.open_folders(folder, ["a", "b", "x", "y"], create=False)

    assert set(Path("/proc/self/fd").iterdir()) <= before


def noted_fsyncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let each fsync be noted with the path that it is about."""
    paths: list[str] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        paths.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    return paths


def test_settling_makes_every_name_on_the_way_durable(
    tmp_path: Path, folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    before, fsynced = set(Path("/proc/self/fd").iterdir()), noted_fsyncs(monkeypatch)

    disk.fsync_path(folder, ["a", "b", "c"])
    assert fsynced == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a/b")]
    disk.fsync_path(folder, ["a"], last=True)
    assert fsynced[3:] == [str(tmp_path), str(tmp_path / "a")]
    with pytest.raises(FileNotFoundError):
        disk.fsync_path(folder, ["a", "x", "y"])

    assert set(Path("/proc/self/fd").iterdir()) <= before


def test_a_file_system_that_cannot_be_synced_says_so(tmp_path: Path, folder: int) -> None:
    (tmp_path / "file").write_bytes(b"x")
    disk.sync_file_system(folder)

    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        disk.sync_file_system(-1)


def test_where_one_file_system_cannot_be_synced_all_are(folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(disk, "_libc", object())
    monkeypatch.setattr(os, "sync", lambda: synced.append("all"))

    disk.sync_file_system(folder)

    assert synced == ["all"]


def test_a_name_is_there_also_when_it_is_a_symlink_to_nothing(tmp_path: Path, folder: int) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")

    assert disk.is_there("dangling", below=folder)
    assert not disk.is_there("nowhere", below=folder)


def test_a_name_below_a_file_is_an_error_and_not_a_no(tmp_path: Path, folder: int) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(NotADirectoryError):
        disk.is_there("file/below", below=folder)


@pytest.mark.needs_root
def test_a_name_that_may_not_be_looked_at_is_an_error_and_not_a_no(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "private" / "file").touch()

    looked = subprocess.run([sys.executable, "-c", LOOK_AS_NOBODY, tmp_path], check=True, capture_output=True)

    assert looked.stdout == b"refused\n"


# --- writing and room -------------------------------------------------------------------------------------------------


@pytest.mark.needs_root
def test_a_short_write_before_a_full_disk_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as path, (path / "file").open("wb") as file:
        with pytest.raises(DiskFull), disk.disk_errors("writing"):
            disk.write_all(file.fileno(), b"x" * (MIB + 1))

        assert os.fstat(file.fileno()).st_size == MIB


@pytest.mark.needs_root
def test_a_disk_that_turned_read_only_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as path, opened(path) as below:
        subprocess.run(["mount", "-o", "remount,ro", path], check=True)

        with pytest.raises(DiskReadOnly), disk.disk_errors("making a folder"):
            disk.open_folders(below, ["acme"], create=True)


def test_only_a_regular_file_is_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")

    plain = {path.name for path in tmp_path.iterdir() if disk.is_plain_file(path.lstat())}

    assert plain == {"file"}
