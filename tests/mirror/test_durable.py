"""Durable writes of whole files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcsync.mirror.durable import replace_durably
from dcsync.mirror.root import MirrorRoot
from tests.rigs.odd import ODD_KINDS, plant


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """The descriptor of an empty folder."""
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def test_a_small_file_is_replaced_by_a_new_one_and_never_written_into(root: MirrorRoot) -> None:
    replace_durably(root.descriptor, "note", b"old", mode=0o644)
    with (root.path / "note").open("rb") as reader:
        replace_durably(root.descriptor, "note", b"newer", mode=0o600)

        assert reader.read() == b"old"

    assert (root.path / "note").read_bytes() == b"newer"
    assert stat.S_IMODE((root.path / "note").stat().st_mode) == 0o600
    assert [path.name for path in root.path.iterdir()] == ["note"]


@pytest.mark.parametrize("kind", ODD_KINDS)
def test_an_odd_entry_in_the_place_of_an_unfinished_file_is_replaced(tmp_path: Path, folder: int, kind: str) -> None:
    plant(kind, tmp_path / "instance.new")

    replace_durably(folder, "instance", b"new", mode=0o644)

    assert (tmp_path / "instance").read_bytes() == b"new"
    assert not (tmp_path / "instance.new").exists()


def test_a_write_does_not_change_a_file_that_has_the_name_of_an_unfinished_one_as_well(
    tmp_path: Path, folder: int
) -> None:
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / "instance.new").hardlink_to(tmp_path / "theirs")

    replace_durably(folder, "instance", b"new", mode=0o644)

    assert (tmp_path / "theirs").read_bytes() == b"theirs"
