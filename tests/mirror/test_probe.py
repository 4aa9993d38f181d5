"""What a file system is and can do."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcsync.errors import DiskFault, DiskFull, MirrorTampered
from dcsync.mirror import disk, probe
from dcsync.mirror.root import MirrorRoot, open_root

#: As the kernel writes it: an optional field or none before the hyphen, octal for a blank in a path.
MOUNTINFO = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
31 22 0:27 / /mnt/with\\040a\\040-\\040blank rw shared:2 master:3 - nfs4 server:/export rw,vers=4.2
131 22 0:40 / /mnt/plain rw,relatime - fuse.sshfs user@host: rw
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[MirrorRoot]:
    with open_root(tmp_path) as opened:
        yield opened


def refuse(number: int) -> Any:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("own", [False, True])
def test_it_leaves_nothing_behind(tmp_path: Path, root: MirrorRoot, own: bool) -> None:
    if own:
        (tmp_path / ".dcsync").mkdir()

    able = probe.try_out(root)

    # Every file system that the tests run on has these.
    assert (able.hardlinks, able.symlinks, able.keeps_names, able.exchanges) == (True, True, True, True)
    assert [path.name for path in tmp_path.rglob("*")] == ([".dcsync"] if own else [])


def test_with_a_folder_of_its_own_the_root_is_left_alone(tmp_path: Path, root: MirrorRoot) -> None:
    (tmp_path / ".dcsync").mkdir()
    before = tmp_path.stat().st_mtime_ns

    probe.try_out(root)

    assert tmp_path.stat().st_mtime_ns == before


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_links_that_are_refused_are_not_there(
    root: MirrorRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "link", refuse(number))
    monkeypatch.setattr(os, "symlink", refuse(number))

    able = probe.try_out(root)

    assert (able.hardlinks, able.symlinks) == (False, False)
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_is_a_copy_is_none(root: MirrorRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int, follow_symlinks: bool) -> None:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, dir_fd=dst_dir_fd))

    monkeypatch.setattr(os, "link", copy)

    assert not probe.try_out(root).hardlinks


@pytest.mark.needs_root
def test_a_full_disk_is_said_and_left_as_it_was(tmp_path: Path) -> None:
    # Room for the folder and one of the two files.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=3", "none", tmp_path], check=True)
    try:
        with open_root(tmp_path) as root, pytest.raises(DiskFull, match="trying to write to"):
            probe.try_out(root)

        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_disk_that_reports_its_error_only_at_the_fsync_is_faulty(
    tmp_path: Path, root: MirrorRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))

    with pytest.raises(DiskFault, match="trying to write to"):
        probe.try_out(root)

    assert list(tmp_path.iterdir()) == []


def test_a_symlink_in_its_own_folder_s_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/.dcsync").symlink_to(tmp_path / "elsewhere")

    with open_root(tmp_path / "mirror") as root, pytest.raises(MirrorTampered):
        probe.try_out(root)

    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_rename_that_refuses_leaves_both_and_one_that_does_not_is_told(tmp_path: Path, root: MirrorRoot) -> None:
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)

    assert disk.refuses_to_replace("first", "second", root.descriptor)
    assert (tmp_path / "second").read_text() == "second"
    assert not disk.refuses_to_replace("first", "not there", root.descriptor)


@pytest.mark.needs_root
def test_the_type_of_a_file_system_is_that_of_its_mount(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    try:
        with open_root(tmp_path) as root:
            assert probe.file_system(root.descriptor) == "tmpfs"
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_descriptor_that_is_none_has_no_type() -> None:
    assert probe.file_system(1 << 20) is None


def test_the_table_of_mounts_is_read_past_its_optional_fields() -> None:
    assert [probe.type_in(MOUNTINFO, mount) for mount in (22, 31, 131, 1)] == ["ext4", "nfs4", "fuse.sshfs", None]


def test_what_other_machines_write_to_is_a_network_file_system() -> None:
    assert [probe.is_network(kind) for kind in ("nfs4", "cifs", "9p", "fuse.sshfs", "ext4", "tmpfs", None)] == [
        *[True] * 4,
        *[False] * 3,
    ]


@pytest.mark.parametrize("call", [refuse(errno.EPERM), lambda *_: None], ids=["refused", "ignored"])
def test_a_file_system_that_keeps_its_own_modes_is_told(
    root: MirrorRoot, monkeypatch: pytest.MonkeyPatch, call: Any
) -> None:
    assert probe.try_out(root).sets_modes

    monkeypatch.setattr(os, "fchmod", call)

    assert not probe.try_out(root).sets_modes
