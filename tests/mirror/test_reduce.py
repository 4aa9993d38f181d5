"""The exchange of a snapshot for a smaller one: complete under its name at every moment, or put back."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dcsync.core.model import AccountName, JobId, StoredFile
from dcsync.core.names import SIDECAR_NAME, SUMS_NAME
from dcsync.errors import MirrorTampered
from dcsync.mirror import disk, reduce, trash
from dcsync.mirror.reduce import Reduction
from dcsync.mirror.root import MirrorRoot, open_root
from tests.fakes import make_stored

FOLDER = "acme/request/2026/11/22/120000Z-9bd7c8a0"
ONE = Reduction(account=AccountName("acme"), job=JobId("j"), folder=FOLDER)
BODIES = {"activities_a.csv": b"rows", "schemas/a.html": b"page", "admin_users.csv": b"many rows"}
KEPT = [make_stored(name, BODIES[name]) for name in ("activities_a.csv", "schemas/a.html")]
OLD = {SIDECAR_NAME: b'{"old": 1}', SUMS_NAME: b"old"}
NEW = {SIDECAR_NAME: b'{"reduced": {"at": "2026-11-22T12:00:00Z"}}', SUMS_NAME: b"new"}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[MirrorRoot]:
    """A root with one snapshot."""
    folder = tmp_path / "mirror" / FOLDER
    (folder / "schemas").mkdir(parents=True)
    for name, body in {**BODIES, **OLD}.items():
        (folder / name).write_bytes(body)
    with open_root(tmp_path / "mirror") as opened:
        yield opened


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


WHOLE = {**BODIES, **OLD}
REDUCED = {"activities_a.csv": b"rows", "schemas/a.html": b"page", **NEW}


def work(root: MirrorRoot) -> None:
    """Reduce the snapshot, without its row."""
    reduce.build(root, ONE, KEPT, own=NEW)
    reduce.swap(root, ONE)
    for name in reduce.discard_old(root, ONE):
        trash.empty(root, name)


def recover(root: MirrorRoot) -> None:
    """Do what the next start does."""
    for one in reduce.all_reductions(root):
        reduce.put_back(root, one)
        if (root.path / FOLDER / SIDECAR_NAME).exists():
            reduce.discard_old(root, one)
    for leaf in reduce.leaves(root):
        reduce.drop_unbegun(root, leaf)
    for leaf in trash.leaves(root):
        trash.empty(root, leaf)


def test_the_kept_files_are_the_same_inodes_and_the_others_are_free(root: MirrorRoot) -> None:
    kept = (root.path / FOLDER / "activities_a.csv").stat()

    made = reduce.build(root, ONE, KEPT, own=NEW)
    reduce.swap(root, ONE)

    assert content(root.path / FOLDER) == REDUCED
    assert (root.path / FOLDER / "activities_a.csv").stat().st_ino == kept.st_ino
    assert (made[0].inode, made[0].mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
    assert content(root.path / ".dcsync/reducing" / ONE.leaf) == WHOLE
    reduce.discard_old(root, ONE)
    assert trash.empty(root, ONE.leaf) == len(BODIES["admin_users.csv"]) + sum(map(len, OLD.values()))
    assert list(reduce.all_reductions(root)) == [ONE]
    assert reduce.leaves(root) == set()


class Killed(Exception):
    """Ends the work where a kill would."""


class Countdown:
    """Ends the work before its N-th call that changes a name."""

    def __init__(self, left: int) -> None:
        self.left = left

    def before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return call(*arguments, **options)

        return counted


def is_killed(root: MirrorRoot, step: Callable[[MirrorRoot], None], *, before: int) -> bool:
    """Do a step, and say whether it was killed before its N-th call."""
    countdown = Countdown(before)
    calls: dict[Any, tuple[str, ...]] = {
        os: ("rename", "link", "unlink", "rmdir", "mkdir"),
        disk: ("exchange", "rename_noreplace", "write_all"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for place, names in calls.items():
            for name in names:
                patch.setattr(place, name, countdown.before(getattr(place, name)))
        try:
            step(root)
        except Killed:
            return True
    return False


def refuse_flags(*_: object) -> None:
    """Refuse as NFS and exFAT do."""
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


@pytest.mark.parametrize("way", ["exchange", "two renames", "mkdir and two renames"])
@pytest.mark.parametrize("more_kills", [0, 3, 6])
def test_a_kill_before_any_change_of_a_name_leaves_a_snapshot_that_is_complete(
    tmp_path: Path, root: MirrorRoot, monkeypatch: pytest.MonkeyPatch, way: str, more_kills: int
) -> None:
    exchanges = way == "exchange"
    if way == "two renames":
        monkeypatch.setattr(disk, "exchange", lambda *_: False)
    elif not exchanges:
        monkeypatch.setattr(disk, "_renameat2", refuse_flags)
    shutil.copytree(root.path, tmp_path / "template")
    seen: list[dict[str, bytes]] = []

    while is_killed(root, work, before=len(seen)):
        for number in range(more_kills):
            assert_complete(root, in_its_place=exchanges)
            is_killed(root, recover, before=number)
        assert_complete(root, in_its_place=exchanges)
        recover(root)
        assert reduce.leaves(root) == trash.leaves(root) == set()
        seen.append(content(root.path / FOLDER))
        for name in ("acme", ".dcsync"):
            shutil.rmtree(root.path / name, ignore_errors=True)
        shutil.copytree(tmp_path / "template", root.path, dirs_exist_ok=True)

    assert len(seen) > 15
    turn = seen.index(REDUCED)
    assert seen == [WHOLE] * turn + [REDUCED] * (len(seen) - turn)


def assert_complete(root: MirrorRoot, *, in_its_place: bool) -> None:
    found = [content(path) for path in (root.path / FOLDER, *root.path.glob(".dcsync/reducing/*"))]
    assert any(one in (WHOLE, REDUCED) for one in found[: 1 if in_its_place else None])


def test_a_missing_file_and_a_changed_size_change_nothing(root: MirrorRoot) -> None:
    (root.path / FOLDER / "activities_a.csv").write_bytes(b"other")
    with pytest.raises(MirrorTampered, match=r"activities_a\.csv is not the file that was published"):
        reduce.build(root, ONE, KEPT, own=NEW)
    (root.path / FOLDER / "activities_a.csv").unlink()
    with pytest.raises(FileNotFoundError):
        reduce.build(root, ONE, KEPT, own=NEW)

    assert list(reduce.all_reductions(root)) == []
    recover(root)
    assert reduce.leaves(root) == set()


def test_a_copy_with_other_content_is_refused(root: MirrorRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refused)
    (root.path / FOLDER / "activities_a.csv").write_bytes(b"swor")

    with pytest.raises(MirrorTampered, match="does not have the content"):
        reduce.build(root, ONE, KEPT, own=NEW)


def test_names_that_dcsync_does_not_give_are_not_the_rest_of_a_reduction(root: MirrorRoot) -> None:
    place = root.path / ".dcsync/reducing"
    (place / "@eaDir").mkdir(parents=True)
    (place / ".DS_Store").write_bytes(b"")
    for name in (ONE.leaf, "a" * 32 + ".aside", "b" * 33):
        (place / name).mkdir()

    assert reduce.leaves(root) == {ONE.leaf, "a" * 32}


def test_what_is_left_of_a_reduction_has_names_of_its_own_in_the_trash(root: MirrorRoot) -> None:
    place = root.path / ".dcsync/reducing"
    for name in (ONE.leaf, f"{ONE.leaf}.aside"):
        (place / name).mkdir(parents=True)

    moved = reduce.discard_old(root, ONE)

    assert set(moved) == trash.leaves(root) == {ONE.leaf, f"{ONE.leaf}.aside"}


def test_a_folder_that_no_line_names_stays_if_it_may_be_a_snapshot(root: MirrorRoot) -> None:
    place = root.path / ".dcsync/reducing"
    place.mkdir(parents=True)
    leaf, other = "1" * 32, "2" * 32 + ".aside"
    (root.path / FOLDER).rename(place / leaf)
    (place / other).mkdir()

    recover(root)

    assert sorted(path.name for path in place.iterdir()) == [leaf, other]
    assert content(place / leaf) == WHOLE


def test_nothing_is_put_back_where_nothing_is_missing_or_left(root: MirrorRoot) -> None:
    assert not reduce.put_back(root, ONE)
    shutil.rmtree(root.path / FOLDER)
    (root.path / ".dcsync/reducing" / ONE.leaf).mkdir(parents=True)
    assert not reduce.put_back(root, ONE)
    assert not (root.path / FOLDER).exists()


def test_a_file_is_freed_by_the_removal_of_its_last_link(root: MirrorRoot) -> None:
    other = root.path / "acme/other"
    other.mkdir()
    (other / "b.csv").hardlink_to(root.path / FOLDER / "admin_users.csv")
    (root.path / "elsewhere").hardlink_to(root.path / FOLDER / "activities_a.csv")
    own = frozenset({SIDECAR_NAME, SUMS_NAME, "schemas/a.html"})

    assert reduce.freed_bytes(root, [(FOLDER, own), ("acme/other", frozenset()), ("acme/gone", frozenset())]) == [
        0,
        len(BODIES["admin_users.csv"]),
        0,
    ]
    assert reduce.freed_bytes(root, [("acme/other", frozenset({"b.csv"}))]) == [0]


def zipped(root: MirrorRoot, *, padding: int = 0) -> StoredFile:
    name = "autodesk_data_extract.zip"
    with zipfile.ZipFile(root.path / FOLDER / name, "w") as archive:
        for member, body in BODIES.items():
            archive.writestr(member, body)
        for number in range(padding):
            archive.writestr(f"{number:0200}.csv", b"")
    return make_stored(name)


@pytest.mark.parametrize(
    ("files", "padding", "repeats"),
    [
        ([make_stored(name, body) for name, body in BODIES.items()], 0, True),
        (KEPT, 0, False),
        ([make_stored(name, body) for name, body in BODIES.items()], 9000, False),
        (
            [
                *(make_stored(name, body) for name, body in BODIES.items()),
                *(make_stored(f"{number:0200}.csv", b"") for number in range(9000)),
            ],
            9000,
            True,
        ),
    ],
    ids=["all", "one missing", "many missing", "many"],
)
def test_a_zip_repeats_the_files_if_each_of_its_entries_is_one(
    root: MirrorRoot, files: list[StoredFile], padding: int, repeats: bool
) -> None:
    archive = zipped(root, padding=padding)

    assert reduce.archive_repeats(root, FOLDER, archive, files) is repeats


def test_a_zip_that_cannot_be_read_may_have_more(root: MirrorRoot) -> None:
    archive = make_stored("autodesk_data_extract.zip")

    assert not reduce.archive_repeats(root, FOLDER, archive, [])
    (root.path / FOLDER / archive.name).write_bytes(b"PK" * 100)
    assert not reduce.archive_repeats(root, FOLDER, archive, [])
    assert not reduce.archive_repeats(root, "acme/nowhere", archive, [])
