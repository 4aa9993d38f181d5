"""Renames replace nothing, and a removal follows no symlink."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dcsync.mirror import disk
from tests.rigs.folders import opened, small_disk
from tests.rigs.stats import unread

# --- renaming ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_renamed_whole(tmp_path: Path, folder: int) -> None:
    (tmp_path / "staged").mkdir()
    (tmp_path / "staged/a.csv").write_bytes(b"a")
    inode = (tmp_path / "staged").stat().st_ino

    disk.rename_noreplace("staged", folder, "published", folder)

    assert (tmp_path / "published").stat().st_ino == inode
    assert not (tmp_path / "staged").exists()


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "symlink"])
def test_a_rename_replaces_nothing(tmp_path: Path, folder: int, kind: str) -> None:
    (tmp_path / "staged").mkdir()
    target = tmp_path / "published"
    match kind:
        case "file":
            target.write_bytes(b"old")
        case "symlink":
            target.symlink_to("nowhere")
        case _:
            target.mkdir()
            if kind == "folder":
                (target / "a.csv").write_bytes(b"old")
    before = unread(target.lstat())

    with pytest.raises(FileExistsError):
        disk.rename_noreplace("staged", folder, "published", folder)

    assert unread(target.lstat()) == before
    assert (tmp_path / "staged").is_dir()


@pytest.mark.parametrize("kind", ["folder", "file", "symlink", "empty folder"])
def test_where_a_rename_cannot_refuse_it_replaces_nothing_but_an_empty_claim(
    tmp_path: Path, folder: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS: an empty folder is the name that a host claimed before it was killed."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "as NFS answers")

    monkeypatch.setattr(disk, "_renameat2", refuse)
    (tmp_path / "staged").mkdir()
    (tmp_path / "staged/b.csv").write_bytes(b"new")
    target = tmp_path / "published"
    match kind:
        case "file":
            target.write_bytes(b"old")
        case "symlink":
            target.symlink_to("staged")
        case _:
            target.mkdir()
            if kind == "folder":
                (target / "a.csv").write_bytes(b"old")
    before = unread(target.lstat())

    if kind == "empty folder":
        disk.rename_noreplace("staged", folder, "published", folder)
        assert [path.name for path in target.iterdir()] == ["b.csv"]
    else:
        with pytest.raises(FileExistsError):
            disk.rename_noreplace("staged", folder, "published", folder)
        assert unread(target.lstat()) == before
        assert (tmp_path / "staged/b.csv").is_file()


@pytest.mark.needs_root
def test_a_rename_to_another_file_system_is_refused_and_leaves_no_claim(tmp_path: Path, folder: int) -> None:
    (tmp_path / "staged").mkdir()
    with small_disk(tmp_path / "other") as other, opened(other) as there:
        with pytest.raises(OSError, match="cross-device") as caught:
            disk.rename_noreplace("staged", folder, "published", there)

        assert caught.value.errno == errno.EXDEV
        assert list(other.iterdir()) == []


def test_an_exchange_swaps_a_folder_and_a_symlink(tmp_path: Path, folder: int) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").symlink_to("somewhere")

    swapped = disk.exchange("first", folder, "second", folder)

    assert swapped
    assert (tmp_path / "second").is_dir()
    assert (tmp_path / "first").readlink() == Path("somewhere")


def test_an_exchange_with_nothing_is_an_error(tmp_path: Path, folder: int) -> None:
    (tmp_path / "first").mkdir()

    with pytest.raises(FileNotFoundError):
        disk.exchange("first", folder, "second", folder)


# --- removing ---------------------------------------------------------------------------------------------------------


def test_a_tree_is_removed_and_what_its_symlinks_lead_to_stays(tmp_path: Path, folder: int) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "a.csv").write_bytes(b"a")
    (tmp_path / "tree/deep/deeper").mkdir(parents=True)
    (tmp_path / "tree/deep/b.csv").write_bytes(b"b")
    (tmp_path / "tree/to-folder").symlink_to(kept)
    (tmp_path / "tree/deep/to-file").symlink_to(kept / "a.csv")

    disk.remove_tree("tree", folder)

    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (kept / "a.csv").read_bytes() == b"a"


def test_removing_a_symlink_removes_the_symlink(tmp_path: Path, folder: int) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/a.csv").touch()
    (tmp_path / "link").symlink_to("kept")

    disk.remove_tree("link", folder)

    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "kept/a.csv").exists()


def test_removing_takes_a_file_and_does_not_mind_nothing(tmp_path: Path, folder: int) -> None:
    (tmp_path / "file").touch()

    disk.remove_tree("file", folder)
    disk.remove_tree("file", folder)

    assert list(tmp_path.iterdir()) == []
