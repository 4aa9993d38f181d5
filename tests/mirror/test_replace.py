"""A damaged file exchanged for a whole one: in one step, the damaged one kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcsync.errors import MirrorTampered
from dcsync.mirror.replace import Place, replace_by_bytes, replace_by_link
from dcsync.mirror.root import MirrorRoot, open_root

TARGET = Place(folder="acme/r/x", name="sub/a.csv")
SOURCE = Place(folder="acme/r/y", name="a.csv")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[MirrorRoot]:
    """A damaged file and a whole one."""
    for place, body in ((TARGET, b"damaged"), (SOURCE, b"whole")):
        path = tmp_path / "mirror" / place.path
        path.parent.mkdir(parents=True)
        path.write_bytes(body)
    with open_root(tmp_path / "mirror") as opened:
        yield opened


def test_the_file_is_another_name_of_the_whole_one_and_the_damaged_one_is_kept(root: MirrorRoot) -> None:
    facts, kept = replace_by_link(root, TARGET, SOURCE, label="now")

    assert (root.path / TARGET.path).read_bytes() == b"whole"
    assert facts.st_ino == (root.path / SOURCE.path).stat().st_ino
    assert kept == ".dcsync/quarantine/now/acme/r/x/sub/a.csv"
    assert (root.path / kept).read_bytes() == b"damaged"
    assert list((root.path / ".dcsync/staging").iterdir()) == []


def test_a_second_damage_of_the_same_name_is_kept_beside_the_first(root: MirrorRoot) -> None:
    replace_by_link(root, TARGET, SOURCE, label="now")
    _, kept = replace_by_bytes(root, TARGET, b"made anew", label="now")

    assert kept == ".dcsync/quarantine/now/acme/r/x/sub/a.csv.2"
    path = root.path / TARGET.path
    assert path.read_bytes() == b"made anew"
    assert path.stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("missing", ["file", "folder"])
def test_what_is_missing_is_put_there_and_nothing_is_kept(root: MirrorRoot, missing: str) -> None:
    (root.path / TARGET.path).unlink()
    if missing == "folder":
        (root.path / TARGET.path).parent.rmdir()

    _, kept = replace_by_link(root, TARGET, SOURCE, label="now")

    assert kept is None
    assert (root.path / TARGET.path).read_bytes() == b"whole"


def test_a_folder_in_the_place_of_the_file_is_kept_whole(root: MirrorRoot) -> None:
    path = root.path / TARGET.path
    path.unlink()
    path.mkdir()
    (path / "within").write_bytes(b"x")

    _, kept = replace_by_link(root, TARGET, SOURCE, label="now")

    assert path.read_bytes() == b"whole"
    assert (root.path / str(kept) / "within").read_bytes() == b"x"


def test_where_hard_links_are_refused_it_is_a_copy(root: MirrorRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)

    facts, kept = replace_by_link(root, TARGET, SOURCE, label="now")

    assert facts.st_ino != (root.path / SOURCE.path).stat().st_ino
    assert (root.path / TARGET.path).read_bytes() == b"whole"
    assert (root.path / str(kept)).read_bytes() == b"damaged"


def test_what_a_killed_repair_left_is_in_nobody_s_way(root: MirrorRoot) -> None:
    (root.path / ".dcsync/staging").mkdir(parents=True)
    (root.path / ".dcsync/staging/repair.new").write_bytes(b"half")

    replace_by_link(root, TARGET, SOURCE, label="now")

    assert (root.path / TARGET.path).read_bytes() == b"whole"


def test_a_symlink_on_the_way_is_not_followed(root: MirrorRoot, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (root.path / "acme/r/linked").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(MirrorTampered):
        replace_by_bytes(root, Place(folder="acme/r/linked", name="a.csv"), b"x", label="now")

    assert list((tmp_path / "elsewhere").iterdir()) == []
