"""The trash, and the lines that are left of what went through it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcsync.core.model import AccountName, JobId
from dcsync.errors import MirrorTampered
from dcsync.mirror import trash
from dcsync.mirror.root import MirrorRoot, open_root
from tests.fakes import NOON, make_job, make_record

ACME = AccountName("acme")
FOLDER = "acme/request/2026/11/22/120000Z-9bd7c8a0"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[MirrorRoot]:
    """A root with one snapshot."""
    folder = tmp_path / "mirror" / FOLDER
    (folder / "schemas").mkdir(parents=True)
    for name in ("a.csv", "schemas/b.csv"):
        (folder / name).write_bytes(b"12345")
    with open_root(tmp_path / "mirror") as opened:
        yield opened


def make_pruned(folder: str = FOLDER, job: str = "j") -> trash.Pruned:
    record = make_record(job=make_job(id=JobId(job)), folder=folder, pruned_at=NOON)
    return trash.Pruned(account=ACME, record=record)


def test_a_snapshot_goes_in_one_step_and_empty_folders_above_it_go_with_it(root: MirrorRoot) -> None:
    (root.path / "acme/request/2026/other").mkdir()

    trash.discard(root, FOLDER, "leaf", depth=2)

    assert [path.name for path in (root.path / "acme/request/2026").iterdir()] == ["other"]
    assert sorted(path.name for path in (root.path / ".dcsync/trash/leaf").iterdir()) == ["a.csv", "schemas"]
    assert trash.leaves(root) == {"leaf"}


def test_the_request_s_folder_stays_when_it_is_empty(root: MirrorRoot) -> None:
    trash.discard(root, FOLDER, "leaf", depth=2)

    assert list((root.path / "acme/request").iterdir()) == []


def test_what_an_earlier_run_left_under_the_same_name_is_in_nobody_s_way(root: MirrorRoot) -> None:
    left = root.path / ".dcsync/trash/leaf"
    left.mkdir(parents=True)
    (left / "old").write_bytes(b"")

    trash.discard(root, FOLDER, "leaf", depth=2)

    assert not (left / "old").exists()
    assert (left / "a.csv").exists()


def test_a_snapshot_that_is_not_there_is_said(root: MirrorRoot) -> None:
    with pytest.raises(FileNotFoundError):
        trash.discard(root, "acme/request/2026/11/22/nothing", "leaf", depth=2)
    with pytest.raises(FileNotFoundError):
        trash.discard(root, "acme/nothing/2026", "leaf", depth=2)


def test_a_symlink_on_the_way_is_not_followed(root: MirrorRoot, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere/snapshot"
    elsewhere.mkdir(parents=True)
    (root.path / "acme/linked").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(MirrorTampered):
        trash.discard(root, "acme/linked/snapshot", "leaf", depth=1)

    assert elsewhere.is_dir()


def test_what_is_freed_is_what_nobody_else_links_to(root: MirrorRoot, tmp_path: Path) -> None:
    (root.path / "kept").hardlink_to(root.path / FOLDER / "a.csv")
    trash.discard(root, FOLDER, "leaf", depth=2)

    assert trash.empty(root, "leaf") == 5
    assert trash.leaves(root) == set()
    assert (root.path / "kept").read_bytes() == b"12345"


def test_emptying_what_is_not_there_frees_nothing(root: MirrorRoot) -> None:
    assert trash.empty(root, "leaf") == 0
    assert trash.leaves(root) == set()


def test_names_in_the_trash_are_one_for_each_job_and_safe() -> None:
    names = {trash.trash_leaf(ACME, JobId(job)) for job in ("a", "b", "../x", "\ud800", "x" * 1000)}

    assert len(names) == 5
    assert all(name.isalnum() and len(name) == 32 for name in names)


def test_lines_are_read_back_in_order(root: MirrorRoot) -> None:
    lines = [make_pruned(job=job) for job in ("a", "b", "c")]
    for line in lines:
        trash.note_pruned(root, line)

    assert list(trash.all_pruned(root)) == lines


def test_a_line_that_was_cut_costs_only_itself(root: MirrorRoot) -> None:
    trash.note_pruned(root, make_pruned(job="a"))
    path = root.path / ".dcsync/pruned.jsonl"
    trash.note_pruned(root, make_pruned(job="b"))
    path.write_bytes(path.read_bytes()[:-20])
    trash.note_pruned(root, make_pruned(job="c"))

    assert [pruned.record.job.id for pruned in trash.all_pruned(root)] == ["a", "c"]


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"account": "a"}', '{"account": "a", "folder": "f"}', "\0\0", "é"])
def test_a_line_that_is_none_is_passed_over(root: MirrorRoot, line: str) -> None:
    trash.note_pruned(root, make_pruned())
    with (root.path / ".dcsync/pruned.jsonl").open("a") as file:
        file.write(line + "\n")

    assert len(list(trash.all_pruned(root))) == 1


def test_without_a_line_nothing_was_pruned(root: MirrorRoot) -> None:
    assert list(trash.all_pruned(root)) == []


def test_snapshots_that_go_together_are_durable_in_the_trash_before_their_old_names_are_gone(
    root: MirrorRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "acme/request/2026/11/23/120000Z-9bd7c8a1"
    (root.path / other).mkdir(parents=True)
    synced: list[tuple[str, list[str]]] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        place = str(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(root.path))
        synced.append((place, sorted(os.listdir(descriptor))))
        fsync(descriptor)

    (root.path / ".dcsync/trash").mkdir(parents=True)
    monkeypatch.setattr(os, "fsync", record)

    assert trash.discard_all(root, {FOLDER: "one", other: "two"}, depth=2) == {}

    days = [("acme/request/2026/11/22", list[str]()), ("acme/request/2026/11/23", list[str]())]
    assert synced == [(".dcsync/trash", ["one", "two"]), *days]


def test_a_snapshot_that_is_missing_does_not_keep_the_others(root: MirrorRoot) -> None:
    failed = trash.discard_all(root, {"acme/request/2026/11/21/gone": "one", FOLDER: "two"}, depth=2)

    assert [type(error) for error in failed.values()] == [FileNotFoundError]
    assert trash.leaves(root) == {"two"}
