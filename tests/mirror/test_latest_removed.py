"""`latest` is removed only if dcsync made it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from dcsync.errors import MirrorTampered
from dcsync.mirror.latest import LatestKind, drop_latest
from dcsync.mirror.root import MirrorRoot
from tests.rigs.latest import NEW, OLD, REQUEST, SHOWING, aside, point, write_sidecars


@pytest.fixture
def root(two_snapshots: MirrorRoot) -> MirrorRoot:
    return two_snapshots


def drop(root: MirrorRoot, place: str = f"{REQUEST}/latest") -> bool:
    return drop_latest(root, place, targets={OLD, NEW})


@pytest.mark.parametrize("kind", SHOWING)
def test_it_is_removed_and_the_snapshots_stay(root: MirrorRoot, kind: LatestKind) -> None:
    latest = point(root, NEW, kind)

    assert drop(root)
    assert not drop(root)

    assert not os.path.lexists(latest)
    assert (root.path / NEW / "a.csv").read_text() == f"a of {NEW}"
    assert aside(root) == []


def test_one_of_copies_is_removed(root: MirrorRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    write_sidecars(root)
    latest = point(root, NEW, LatestKind.HARDLINKS)

    assert drop(root)
    assert not latest.exists()


def test_a_copied_file_that_somebody_changed_keeps_it(root: MirrorRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    write_sidecars(root)
    latest = point(root, NEW, LatestKind.HARDLINKS)
    (latest / "a.csv").chmod(0o644)
    (latest / "a.csv").write_text("theirs")

    with pytest.raises(MirrorTampered, match=r"latest has a\.csv"):
        drop(root)
    assert (latest / "a.csv").read_text() == "theirs"


def test_a_symlink_that_dcsync_did_not_make_stays(root: MirrorRoot, tmp_path: Path) -> None:
    latest = root.path / REQUEST / "latest"
    latest.symlink_to(tmp_path)

    assert not drop(root)
    assert latest.is_symlink()


def test_a_symlink_of_another_layout_to_a_snapshot_is_removed(root: MirrorRoot) -> None:
    (root.path / "account=acme").mkdir()
    (root.path / "account=acme/_latest").symlink_to(f"../{NEW}")

    assert drop(root, "account=acme/_latest")


def test_a_symlink_to_a_snapshot_that_was_pruned_is_removed(root: MirrorRoot) -> None:
    (root.path / REQUEST / "latest").symlink_to("2020/01/01/gone")

    assert drop(root)


@pytest.mark.parametrize("place", ["nowhere/latest", f"{REQUEST}/other"])
def test_one_that_does_not_exist_is_not_removed(root: MirrorRoot, place: str) -> None:
    assert not drop(root, place)
