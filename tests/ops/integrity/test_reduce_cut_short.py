"""A reduction that was cut short or refused is finished or undone, and no row is lost."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dcsync.app.from_config import account_settings
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.core.retention import KeepPolicy
from dcsync.errors import DiskDenied, DiskFull
from dcsync.manifest import SnapshotRows
from dcsync.mirror import disk, reduce, trash
from dcsync.mirror.lines import append_lines
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.integrity.prune import prune
from tests.rigs.mirror import Mirror, assert_proved_by_sums, status_of
from tests.rigs.reductions import FULL, activity_rows, damage, fill, full_tables, pruned, rows_of


@pytest.fixture
def refuse_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system refuse to exchange two names, as NFS and exFAT do."""
    monkeypatch.setattr(disk, "exchange", lambda *_: False)


@pytest.mark.usefixtures("refuse_exchange")
async def test_a_file_system_without_exchange_and_links_ends_the_same(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(mirror, 3)
    rows = activity_rows(mirror)

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)

    report = await pruned(mirror, KeepPolicy(last=1))

    assert report.reduced == 2
    assert activity_rows(mirror) == rows
    assert await damage(mirror) == []
    for snapshot in mirror.snapshots():
        assert_proved_by_sums(snapshot)


class Cut(Exception):
    """Ends the work where a kill would."""


#: The call before which a reduction ends, and the state of the job after the next start.
CUTS = {
    "before its line": ("append_lines", JobState.PUBLISHED),
    "before the exchange": ("exchange", JobState.PUBLISHED),
    "between two renames": ("rename_noreplace", JobState.PUBLISHED),
    "before its row": ("restore", JobState.REDUCED),
    "before the old one goes": ("discard_old", JobState.REDUCED),
    "before the trash is empty": ("empty", JobState.REDUCED),
}


@pytest.mark.parametrize(
    ("cut", "manifest"),
    [
        *((cut, "current") for cut in CUTS),
        ("between two renames", "older"),
        ("between two renames", "lost"),
        ("before its row", "older"),
        ("before its row", "lost"),
        ("before the old one goes", "older"),
    ],
)
async def test_a_reduction_that_was_cut_short_is_finished_or_undone_at_the_next_start(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cut: str, manifest: str
) -> None:
    jobs = await fill(mirror, 2)
    rows, (call, expected) = activity_rows(mirror), CUTS[cut]
    shutil.copy(mirror.state / "manifest.sqlite", tmp_path / "older.sqlite")

    def fail(*_: object, **__: object) -> None:
        raise Cut

    async with mirror.opened() as context:
        with monkeypatch.context() as patch:
            if call == "rename_noreplace":
                patch.setattr(disk, "exchange", lambda *_: False)
            places = {"append_lines": reduce, "discard_old": reduce, "empty": trash, "restore": SnapshotRows}
            patch.setattr(places.get(call, disk), call, fail)
            with pytest.raises(Cut):
                await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=1))
    if manifest != "current":
        for path in mirror.state.glob("manifest.sqlite*"):
            path.unlink()
    if manifest == "older":
        shutil.copy(tmp_path / "older.sqlite", mirror.state / "manifest.sqlite")

    states = await mirror.states()

    assert states == {jobs[0]: expected, jobs[1]: JobState.PUBLISHED}
    assert activity_rows(mirror) == rows
    assert await damage(mirror) == []
    assert list(mirror.root.glob(".dcsync/reducing/*")) == []
    assert list(mirror.root.glob(".dcsync/trash/*")) == []
    await pruned(mirror, KeepPolicy(last=1))
    assert (await mirror.states())[jobs[0]] is JobState.REDUCED
    assert activity_rows(mirror) == rows
    assert len(full_tables(mirror)) == len(FULL)


@pytest.mark.parametrize("again", [None, "mkdir", "rename"])
@pytest.mark.parametrize("cut", ["mkdir", "rename"])
async def test_a_snapshot_survives_any_kill_where_a_rename_has_to_claim_its_name_first(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, cut: str, again: str | None
) -> None:
    """On NFS and exFAT. The claim is an empty folder in the place of the snapshot."""
    jobs = await fill(mirror, 2)
    rows, whole = activity_rows(mirror), full_tables(mirror)
    rename = disk.rename_noreplace

    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def fail(*_: object, **__: object) -> None:
        raise Cut

    def cut_before(patch: pytest.MonkeyPatch, call: str) -> None:
        def cut_short(*arguments: Any) -> None:
            with monkeypatch.context() as inside:
                inside.setattr(os, call, fail)
                rename(*arguments)

        patch.setattr(disk, "rename_noreplace", cut_short)

    monkeypatch.setattr(disk, "_renameat2", refuse)
    async with mirror.opened() as context:
        with monkeypatch.context() as patch:
            cut_before(patch, cut)
            with pytest.raises(Cut):
                await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=1))
    if again is not None:
        with monkeypatch.context() as patch:
            cut_before(patch, again)
            with pytest.raises(Cut):
                await mirror.states()

    assert set((await mirror.states()).values()) == {JobState.PUBLISHED}
    assert (activity_rows(mirror), full_tables(mirror)) == (rows, whole)
    assert await damage(mirror) == []
    assert list(mirror.root.glob(".dcsync/reducing/*")) == []
    assert list(mirror.root.glob(".dcsync/trash/*")) == []
    assert (await pruned(mirror, KeepPolicy(last=1))).reduced == 1
    assert (await mirror.states())[jobs[0]] is JobState.REDUCED
    assert activity_rows(mirror) == rows


async def test_the_rest_of_a_reduction_stays_while_no_complete_snapshot_is_in_its_place(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await fill(mirror, 2)
    monkeypatch.setattr(reduce, "discard_old", lambda *_: [])
    await pruned(mirror, KeepPolicy(last=1))
    monkeypatch.undo()
    (left,) = mirror.root.glob(".dcsync/reducing/*")
    (mirror.snapshot_of(jobs[0]) / "_dcsync.json").unlink()

    await mirror.states()

    assert {path.name for path in left.iterdir()} > set(FULL)


async def test_files_of_the_system_and_leftovers_that_may_not_be_removed_stop_neither_a_start_nor_a_prune(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(mirror, 3)
    place = mirror.root / ".dcsync/reducing"
    (place / "@eaDir").mkdir(parents=True)
    (place / ".DS_Store").write_bytes(b"")
    for leaf in ("a" * 32, "b" * 32):
        (place / leaf).mkdir()
    (place / ("c" * 32)).write_bytes(b"")
    remove = disk.remove_tree

    def denied(name: str, parent: int) -> None:
        if name == "a" * 32:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        remove(name, parent)

    monkeypatch.setattr(disk, "remove_tree", denied)

    assert (await pruned(mirror, KeepPolicy(last=1))).reduced == 2
    await mirror.states()
    assert {path.name for path in place.iterdir()} == {"@eaDir", ".DS_Store", "c" * 32}
    # What could not be removed in its place was moved to the trash.
    assert list(mirror.root.glob(".dcsync/trash/*")) == []


async def test_a_snapshot_that_the_disk_refuses_is_named_and_the_others_are_reduced(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await fill(mirror, 5)
    (mirror.snapshot_of(jobs[1]) / "_dcsync.json").unlink()
    denied, swap = mirror.snapshot_of(jobs[2]).name, reduce.swap

    def refuse(root: MirrorRoot, one: reduce.Reduction) -> None:
        if one.folder.endswith(denied):
            # Between the two renames, for example.
            (root.path / one.folder).rename(root.path / ".dcsync/reducing" / f"{one.leaf}.aside")
            raise DiskDenied("refused")
        swap(root, one)

    monkeypatch.setattr(reduce, "swap", refuse)
    async with mirror.opened() as context:
        # While the daemon runs, somebody removes a folder.
        shutil.rmtree(mirror.snapshot_of(jobs[3]))
        report = await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=1), force=True)
        assert (mirror.snapshot_of(jobs[2]) / FULL[0]).exists()

    assert (report.reduced, report.exit_status) == (1, 3)
    assert set(report.failed) == {jobs[1], jobs[2], jobs[3]}
    assert "lacks a file that has to stay: _dcsync.json" in report.failed[JobId(jobs[1])].message


async def test_snapshots_that_a_full_disk_cannot_reduce_stay_and_the_others_are_reduced(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await fill(mirror, 3)
    build, full = reduce.build, mirror.snapshot_of(jobs[1]).name

    def run_full(root: MirrorRoot, one: reduce.Reduction, *args: Any, **options: Any) -> Any:
        if one.folder.endswith(full):
            raise DiskFull("full")
        return build(root, one, *args, **options)

    monkeypatch.setattr(reduce, "build", run_full)

    report = await pruned(mirror, KeepPolicy(last=1))

    assert (set(report.failed), report.reduced) == ({jobs[1]}, 1)


async def test_a_line_of_a_reduction_that_never_happened_hides_no_loss(mirror: Mirror) -> None:
    jobs = await fill(mirror, 3)
    async with mirror.opened() as context:
        folder = (await context.manifest.published_folders(AccountName("acme")))[JobId(jobs[0])]
        line = {"account": "acme", "job": jobs[0], "folder": folder}
        append_lines(context.root, "reduced.jsonl", line)
    assert (await mirror.states())[jobs[0]] is JobState.PUBLISHED

    shutil.rmtree(mirror.root / folder)

    assert (await mirror.states())[jobs[0]] is JobState.SEEN


async def test_a_snapshot_that_cannot_be_put_back_is_no_loss_and_the_start_goes_on(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await fill(mirror, 3)
    async with mirror.opened() as context:
        folder = (await context.manifest.published_folders(AccountName("acme")))[JobId(jobs[0])]
        one = reduce.Reduction(account=AccountName("acme"), job=JobId(jobs[0]), folder=folder)
        append_lines(context.root, "reduced.jsonl", {"account": "acme", "job": jobs[0], "folder": folder})
    # As a crash between two renames leaves it, on a file system that cannot exchange two names.
    (mirror.root / ".dcsync/reducing").mkdir()
    (mirror.root / folder).rename(mirror.root / f".dcsync/reducing/{one.leaf}.aside")
    rename = disk.rename_noreplace

    def refuse(source: str, *others: Any) -> None:
        if source == f"{one.leaf}.aside":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        rename(source, *others)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "rename_noreplace", refuse)
        assert (await mirror.states())[jobs[0]] is JobState.PUBLISHED
        (alert,) = [item.alert for item in (await status_of(mirror)).accounts[0].alerts]

    assert (alert.code, alert.subject) == ("M-PRUNE", jobs[0])
    assert folder in alert.message
    assert (await mirror.states())[jobs[0]] is JobState.PUBLISHED
    assert (mirror.root / folder / "_dcsync.json").exists()
    await pruned(mirror, KeepPolicy(last=1))
    assert (await status_of(mirror)).codes == []


async def test_a_manifest_from_before_the_reduction_is_told_of_it(mirror: Mirror, tmp_path: Path) -> None:
    jobs = await fill(mirror, 4)
    shutil.copy(mirror.state / "manifest.sqlite", tmp_path / "before.sqlite")
    await pruned(mirror, KeepPolicy(last=1))
    after = rows_of(mirror)
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()
    shutil.copy(tmp_path / "before.sqlite", mirror.state / "manifest.sqlite")

    states = await mirror.states()

    assert [states[job] for job in jobs] == [JobState.REDUCED] * 3 + [JobState.PUBLISHED]
    assert rows_of(mirror) == after
    assert await damage(mirror) == []
