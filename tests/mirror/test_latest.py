"""`latest`: always there, always whole, and nothing else in the tree is touched by it."""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcsync.errors import MirrorTampered
from dcsync.mirror.latest import LatestKind, point_latest
from dcsync.mirror.root import MirrorRoot, open_root
from tests.rigs.stats import unread

REQUEST = "acme/request"
OLD = f"{REQUEST}/2026/11/21/120000Z-0a000000"
NEW = f"{REQUEST}/2026/11/22/120000Z-9bd7c8a0"
SHOWING = [LatestKind.SYMLINK, LatestKind.HARDLINKS]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[MirrorRoot]:
    """A root with two snapshots."""
    for folder in (OLD, NEW):
        path = tmp_path / "mirror" / folder
        (path / "schemas").mkdir(parents=True)
        (path / "_dcsync.json").write_text(folder)
        (path / "a.csv").write_text(f"a of {folder}")
        (path / "schemas/b.csv").write_text(f"b of {folder}")
    with open_root(tmp_path / "mirror") as opened:
        yield opened


def point(root: MirrorRoot, snapshot: str, kind: LatestKind) -> Path:
    point_latest(root, request_folder=REQUEST, name="latest", snapshot=snapshot, kind=kind)
    return root.path / REQUEST / "latest"


def inodes(path: Path) -> dict[str, int]:
    return {str(found.relative_to(path)): found.stat().st_ino for found in path.rglob("*") if found.is_file()}


def aside(root: MirrorRoot) -> list[Path]:
    return list((root.path / ".dcsync/staging").iterdir())


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

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(50):
        point(root, NEW, kind)
        point(root, OLD, kind)
    stop.set()
    reader.join()

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
def test_a_latest_that_somebody_bent_is_put_right(root: MirrorRoot, tmp_path: Path, kind: LatestKind) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.csv").write_text("theirs")
    (root.path / REQUEST / "latest").symlink_to(tmp_path / "elsewhere")

    latest = point(root, NEW, kind)

    assert inodes(latest) == inodes(root.path / NEW)
    assert (tmp_path / "elsewhere/a.csv").read_text() == "theirs"


def test_a_symlink_in_the_place_of_the_requests_folder_is_not_followed(root: MirrorRoot, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (root.path / "acme").rename(tmp_path / "acme")
    (root.path / "acme").mkdir()
    (root.path / REQUEST).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(MirrorTampered):
        point(root, NEW, LatestKind.SYMLINK)

    assert list((tmp_path / "elsewhere").iterdir()) == []
