"""What killed loads left is removed at each start, also of loads that are no longer configured."""

from __future__ import annotations

from pathlib import Path

from dcsync.mirror.root import open_root
from dcsync.ops.loads.work import clear_work, load_lock, work_folder
from tests.rigs.mirror import Mirror


def leave(root: Path, name: str) -> Path:
    """Leave what a killed load leaves."""
    folder = root / f".dcsync/load/{name}.work"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/data").write_text("x")
    return folder


async def test_a_start_removes_what_a_killed_load_left_that_is_no_longer_configured(mirror: Mirror) -> None:
    left = leave(mirror.root, "gone")

    async with mirror.opened():
        assert not left.exists()


def test_a_load_that_runs_keeps_its_folder(tmp_path: Path) -> None:
    (tmp_path / ".dcsync").mkdir()
    other = leave(tmp_path, "other")
    with open_root(tmp_path) as root, load_lock(root, "busy"), work_folder(root, "busy") as work:
        (work / "data").write_text("x")

        assert clear_work(root) == []

        assert (work / "data").exists()
        assert not other.exists()


def test_without_loads_nothing_is_created(tmp_path: Path) -> None:
    (tmp_path / ".dcsync").mkdir()
    with open_root(tmp_path) as root:
        assert clear_work(root) == []
    assert list((tmp_path / ".dcsync").iterdir()) == []


def test_what_cannot_be_removed_is_returned_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / ".dcsync").mkdir()
    left, other = leave(tmp_path, "a"), leave(tmp_path, "b")
    # Without its lock, nothing shows that the load has ended.
    left.with_name("a.lock").mkdir()
    with open_root(tmp_path) as root:
        (error,) = clear_work(root)
    assert ".dcsync/load/a.lock" in error.message
    assert (left.exists(), other.exists()) == (True, False)
