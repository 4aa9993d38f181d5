"""The files of desktops, NAS devices and file systems are known by name. The configuration names others."""

from __future__ import annotations

import pytest

from dcsync.core.system_files import Ignored, is_disposable, is_system_name

DISPOSABLE = [
    ".DS_Store",
    "._admin_users.csv",
    ".AppleDouble",
    "Thumbs.db",
    "THUMBS.DB",
    "Desktop.ini",
    ".directory",
    "@eaDir",
    "@EADIR",
    "admin_users.csv@SynoEAStream",
    ".@__thumb",
    ".~lock.admin_users.csv#",
    "~$admin_users.csv",
]
PLACES = ["lost+found", ".snapshot", ".zfs", "#recycle", "@Recycle", "$RECYCLE.BIN", ".Trash-1000", ".nfs0000000a"]
OTHERS = ["admin_users.csv", "_dcsync.json", "SHA256SUMS", "schemas", "README.html", "acme", "latest", "notes.txt", "."]


@pytest.mark.parametrize("name", DISPOSABLE)
def test_what_a_program_writes_again_may_go_with_its_folder(name: str) -> None:
    assert is_system_name(name)
    assert is_disposable(name)


@pytest.mark.parametrize("name", PLACES)
def test_recycle_bins_and_snapshots_of_a_file_system_are_never_disposable(name: str) -> None:
    assert is_system_name(name)
    assert not is_disposable(name)


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_is_not_a_system_file(name: str) -> None:
    assert not is_system_name(name)
    assert not is_disposable(name)


def test_everything_in_a_system_folder_is_ignored() -> None:
    assert Ignored().covers("schemas/@eaDir/admin_users.csv/thumb.jpg")
    assert not Ignored().covers("schemas/admin_users.csv")


@pytest.mark.parametrize(
    ("glob", "covered", "other"),
    [
        ("*.txt", "schemas/notes.TXT", "notes.csv"),
        ("notes", "notes/a/b.csv", "notes.csv"),
        ("schemas/*.bak", "schemas/users.bak", "users.bak"),
    ],
)
def test_the_configuration_names_more_by_name_or_path(glob: str, covered: str, other: str) -> None:
    assert Ignored((glob,)).covers(covered)
    assert not Ignored((glob,)).covers(other)
    assert not Ignored().covers(covered)
