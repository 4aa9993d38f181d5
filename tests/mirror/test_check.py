"""What is in a folder, and what its bytes are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcsync.errors import MirrorTampered
from dcsync.mirror.check import Reading, stat_entry, survey
from dcsync.mirror.root import MirrorRoot, open_root


@pytest.fixture
def root(tmp_path: Path) -> Iterator[MirrorRoot]:
    """A root with one folder."""
    (tmp_path / "mirror/x/schemas").mkdir(parents=True)
    (tmp_path / "mirror/x/a.csv").write_bytes(b"12345")
    (tmp_path / "mirror/x/schemas/b.csv").write_bytes(b"")
    (tmp_path / "mirror/x/link").symlink_to("a.csv")
    os.mkfifo(tmp_path / "mirror/x/fifo")
    with open_root(tmp_path / "mirror") as opened:
        yield opened


def test_everything_is_seen_and_only_files_are_files(root: MirrorRoot) -> None:
    found = survey(root, "x")

    assert {name: entry.is_file for name, entry in found.entries.items()} == {
        "a.csv": True,
        "schemas/b.csv": True,
        "link": False,
        "fifo": False,
    }
    assert found.entries["a.csv"].size == 5
    assert found.entries["a.csv"] == stat_entry(root, "x", "a.csv")
    assert found.errors == {}


def test_what_is_not_there_is_said(root: MirrorRoot) -> None:
    for missing in ("y", "x/nothing/z"):
        with pytest.raises(FileNotFoundError):
            survey(root, missing)
    with pytest.raises(FileNotFoundError):
        stat_entry(root, "x", "schemas/nothing")
    with pytest.raises(FileNotFoundError):
        Reading(root, "x", "nothing")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_file_is_hashed_in_pieces_of_a_mebibyte(root: MirrorRoot, size: int) -> None:
    body = os.urandom(size)
    (root.path / "x/big").write_bytes(body)
    reading = Reading(root, "x", "big")

    pieces = []
    while piece := reading.step():
        pieces.append(piece)
    digest = reading.digest()
    reading.close()

    assert sum(pieces) == size
    assert max(pieces, default=0) <= 1 << 20
    assert digest.sha256 == hashlib.sha256(body).hexdigest()


def test_a_symlink_is_not_read(root: MirrorRoot) -> None:
    with pytest.raises(MirrorTampered):
        Reading(root, "x", "link")
