"""`latest`: always there, always whole, and nothing else in the tree is touched by it."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from dcsync.errors import DiskError, MirrorTampered
from dcsync.mirror import disk
from dcsync.mirror.latest import LatestKind, point_latest
from dcsync.mirror.root import MirrorRoot
from tests.rigs.ended import join
from tests.rigs.latest import NEW, OLD, REQUEST, SHOWING, aside, point, write_sidecars
from tests.rigs.stats import unread


@pytest.fixture
def root(two_snapshots: MirrorRoot) -> MirrorRoot:
    return two_snapshots


def inodes(path: Path) -> dict[str, int]:
    return {str(found.relative_to(path)): found.stat().st_ino for found in path.rglob("*") if found.is_file()}


def test_a_symlink_is_relative_so_that_the_tree_can_be_moved(root: MirrorRoot, tmp_path: Path) -> None:
    latest = point(root, NEW, LatestKind.SYMLINK)

    assert latest.readlink() == Path("2026/11/22/120000Z-9bd7c8a0")
    root.path.rename(tmp_path / "moved")
    assert (tmp_path / "moved" / REQUEST / "latest/a.csv").read_text() == f"a of {NEW}"


def test_a_folder_of_hard_links_has_nothing_of_a_nas_or_a_desktop(root: MirrorRoot) -> None:
    snapshot = root.path / NEW
    (snapshot / "schemas/@eaDir").mkdir()
    (snapshot / "schemas/@eaDir/index").write_text("of the NAS")
    (snapshot / ".DS_Store").write_text("of a Mac")

    latest = point(root, NEW, LatestKind.HARDLINKS)

    assert inodes(latest).keys() == {"_dcsync.json", "a.csv", "schemas/b.csv"}


def test_a_symlink_finds_a_snapshot_that_is_not_below_its_folder(root: MirrorRoot) -> None:
    (root.path / "acme/other").mkdir()

    point_latest(root, request_folder="acme/other", name="newest", snapshot=NEW, kind=LatestKind.SYMLINK)

    assert (root.path / "acme/other/newest").resolve() == (root.path / NEW).resolve()


def test_hard_links_are_a_real_folder_with_the_same_files(root: MirrorRoot) -> None:
    latest = point(root, NEW, LatestKind.HARDLINKS)

    assert latest.is_dir()
    assert not latest.is_symlink()
    assert inodes(latest) == inodes(root.path / NEW)
    assert set(inodes(latest)) == {"_dcsync.json", "a.csv", "schemas/b.csv"}


@pytest.mark.parametrize("before", SHOWING)
@pytest.mark.parametrize("after", SHOWING)
def test_it_goes_from_the_old_snapshot_to_the_new_one_and_both_stay(
    root: MirrorRoot, before: LatestKind, after: LatestKind
) -> None:
    point(root, OLD, before)
    kept = {folder: inodes(root.path / folder) for folder in (OLD, NEW)}

    latest = point(root, NEW, after)

    assert inodes(latest) == kept[NEW]
    assert latest.is_symlink() == (after is LatestKind.SYMLINK)
    assert {folder: inodes(root.path / folder) for folder in (OLD, NEW)} == kept
    assert aside(root) == []


@pytest.mark.parametrize("kind", SHOWING)
def test_calling_it_again_changes_nothing(root: MirrorRoot, kind: LatestKind) -> None:
    latest = point(root, NEW, kind)
    before = (unread(latest.lstat()), unread(latest.parent.stat()))

    point(root, NEW, kind)

    assert (unread(latest.lstat()), unread(latest.parent.stat())) == before
    assert aside(root) == []


def test_none_does_nothing(root: MirrorRoot) -> None:
    point_latest(root, request_folder=REQUEST, name="latest", snapshot=NEW, kind=LatestKind.NONE)

    assert not (root.path / REQUEST / "latest").exists()
    assert not (root.path / ".dcsync").exists()


def test_none_leaves_what_is_there(root: MirrorRoot) -> None:
    latest = point(root, OLD, LatestKind.SYMLINK)

    point_latest(root, request_folder=REQUEST, name="latest", snapshot=NEW, kind=LatestKind.NONE)

    assert latest.resolve() == (root.path / OLD).resolve()


@pytest.mark.parametrize("kind", SHOWING)
def test_it_is_there_at_every_moment(root: MirrorRoot, kind: LatestKind) -> None:
    latest = point(root, OLD, kind)
    seen: set[str] = set()
    stop = threading.Event()

    def look() -> None:
        while True:
            try:
                seen.add("a folder" if stat.S_ISDIR(latest.stat().st_mode) else "something else")
            except OSError as error:
                seen.add(repr(error))
            if stop.is_set():
                return

    reader = threading.Thread(target=look, daemon=True)
    reader.start()
    try:
        for _ in range(50):
            point(root, NEW, kind)
            point(root, OLD, kind)
    finally:
        stop.set()
        join(reader)

    assert seen == {"a folder"}


@pytest.mark.parametrize("left", ["file", "folder", "symlink"])
@pytest.mark.parametrize("kind", SHOWING)
def test_what_a_killed_run_left_aside_is_in_nobodys_way(root: MirrorRoot, kind: LatestKind, left: str) -> None:
    leftover = root.path / ".dcsync/staging/latest.acme%2Frequest"
    leftover.parent.mkdir(parents=True)
    match left:
        case "file":
            leftover.touch()
        case "folder":
            leftover.mkdir()
            (leftover / "a.csv").write_text("half")
        case _:
            leftover.symlink_to(root.path / OLD)

    latest = point(root, NEW, kind)

    assert inodes(latest) == inodes(root.path / NEW)
    assert inodes(root.path / OLD)
    assert aside(root) == []


@pytest.mark.parametrize("kind", SHOWING)
@pytest.mark.parametrize("target", ["absolute", "../../../elsewhere"])
def test_a_symlink_that_leads_out_of_the_mirror_is_not_replaced_until_it_is_moved(
    root: MirrorRoot, tmp_path: Path, kind: LatestKind, target: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.csv").write_text("theirs")
    target = str(tmp_path / "elsewhere") if target == "absolute" else target
    link = root.path / REQUEST / "latest"
    link.symlink_to(target)

    with pytest.raises(MirrorTampered, match=r"acme/request/latest is a symlink to .*elsewhere") as caught:
        point(root, NEW, kind)

    assert str(link.readlink()) == target
    assert "rename or remove acme/request/latest" in caught.value.advice
    link.rename(link.with_name("theirs"))
    latest = point(root, NEW, kind)
    assert inodes(latest) == inodes(root.path / NEW)
    assert (tmp_path / "elsewhere/a.csv").read_text() == "theirs"


@pytest.mark.parametrize("kind", SHOWING)
@pytest.mark.parametrize("target", ["2020/01/01/gone", "../other", "."])
def test_a_latest_that_somebody_bent_within_the_mirror_is_put_right(
    root: MirrorRoot, kind: LatestKind, target: str
) -> None:
    (root.path / REQUEST / "latest").symlink_to(target)

    latest = point(root, NEW, kind)

    assert inodes(latest) == inodes(root.path / NEW)


def test_a_symlink_in_the_place_of_the_requests_folder_is_not_followed(root: MirrorRoot, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (root.path / "acme").rename(tmp_path / "acme")
    (root.path / "acme").mkdir()
    (root.path / REQUEST).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(MirrorTampered):
        point(root, NEW, LatestKind.SYMLINK)

    assert list((tmp_path / "elsewhere").iterdir()) == []


# --- what is somebody's -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHOWING)
@pytest.mark.parametrize("is_ours", [False, True])
def test_a_folder_with_somebodys_file_is_never_replaced(root: MirrorRoot, kind: LatestKind, *, is_ours: bool) -> None:
    latest = root.path / REQUEST / "latest"
    if is_ours:
        point(root, OLD, LatestKind.HARDLINKS)
    (latest / "mine").mkdir(parents=True)
    (latest / "mine/notes.txt").write_text("theirs")
    before = inodes(latest)

    with pytest.raises(MirrorTampered, match=r"acme/request/latest has mine/notes\.txt, which") as caught:
        point(root, NEW, kind)

    assert "acme/request/latest" in caught.value.advice
    assert inodes(latest) == before
    assert aside(root) == []


@pytest.mark.parametrize("kind", SHOWING)
def test_a_file_of_somebody_in_its_place_is_never_replaced(root: MirrorRoot, kind: LatestKind) -> None:
    latest = root.path / REQUEST / "latest"
    latest.write_text("theirs")

    with pytest.raises(MirrorTampered, match="not a folder or symlink that dcsync made"):
        point(root, NEW, kind)

    assert latest.read_text() == "theirs"


@pytest.mark.parametrize("kind", SHOWING)
def test_what_a_nas_and_desktops_left_in_it_is_in_nobodys_way(root: MirrorRoot, kind: LatestKind) -> None:
    latest = point(root, OLD, LatestKind.HARDLINKS)
    (latest / "@eaDir").mkdir()
    (latest / "@eaDir/index").write_text("of the NAS")
    (latest / "Thumbs.db").write_text("of a desktop")

    point(root, NEW, kind)

    assert inodes(latest) == inodes(root.path / NEW)
    assert aside(root) == []


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("kind", SHOWING)
def test_an_old_one_that_cannot_be_removed_waits_in_the_trash(
    root: MirrorRoot, monkeypatch: pytest.MonkeyPatch, kind: LatestKind, *, exchanges: bool
) -> None:
    latest, unlink = point(root, OLD, LatestKind.HARDLINKS), os.unlink
    (latest / "@eaDir").mkdir()
    (latest / "@eaDir/index").write_text("of the NAS")

    def refuse(path: Any, *, dir_fd: int | None = None) -> None:
        if path == "index":
            raise PermissionError(errno.EPERM, "immutable", path)
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    if not exchanges:
        monkeypatch.setattr(disk, "exchange", lambda *_: False)

    for snapshot in (NEW, OLD, NEW):
        point(root, snapshot, kind)

    assert inodes(latest) == inodes(root.path / NEW)
    assert aside(root) == []
    assert [path.name for path in (root.path / ".dcsync/trash").rglob("index")] == ["index"]


# --- what the file system cannot do -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP])
@pytest.mark.parametrize("refused", [["a.csv"], ["_dcsync.json", "a.csv", "b.csv"]])
def test_a_file_that_cannot_be_linked_is_copied(
    root: MirrorRoot, monkeypatch: pytest.MonkeyPatch, refused: list[str], number: int
) -> None:
    link = os.link

    def refuse(source: Any, *others: Any, **options: Any) -> None:
        if source in refused:
            raise OSError(number, os.strerror(number))
        link(source, *others, **options)

    monkeypatch.setattr(os, "link", refuse)
    write_sidecars(root)

    latest = point(root, OLD, LatestKind.HARDLINKS)
    assert (latest / "a.csv").read_text() == f"a of {OLD}"
    made = inodes(latest)
    assert inodes(point(root, OLD, LatestKind.HARDLINKS)) == made
    point(root, NEW, LatestKind.HARDLINKS)

    assert (latest / "a.csv").read_text() == f"a of {NEW}"
    assert (latest / "schemas/b.csv").read_text() == f"b of {NEW}"
    assert inodes(latest)["a.csv"] != inodes(root.path / NEW)["a.csv"]
    assert aside(root) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_leaves_the_old_one(root: MirrorRoot, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    latest = point(root, OLD, LatestKind.HARDLINKS)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(DiskError, match="making acme/request/latest"):
        point(root, NEW, LatestKind.HARDLINKS)

    assert inodes(latest) == inodes(root.path / OLD)


def test_a_file_system_without_symlinks_is_named(root: MirrorRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(DiskError, match=r"acme/request/latest cannot be made: .* no symlinks") as caught:
        point(root, NEW, LatestKind.SYMLINK)

    assert caught.value.advice == 'set mirror.latest to "hardlinks" or "none"'


@pytest.mark.timeout(120)
def test_a_fifo_in_a_snapshot_is_left_out(root: MirrorRoot) -> None:
    os.mkfifo(root.path / NEW / "fifo")

    latest = point(root, NEW, LatestKind.HARDLINKS)

    assert sorted(path.name for path in latest.iterdir()) == ["_dcsync.json", "a.csv", "schemas"]
