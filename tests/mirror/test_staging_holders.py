"""The staging of several hosts: a later holder takes over, and an earlier one can no longer publish."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from dcsync.core.model import JobId
from dcsync.errors import DiskError, MirrorTampered
from dcsync.mirror.root import MirrorRoot
from dcsync.mirror.staged_names import staging_leaf
from dcsync.mirror.staging import Staging, discard_staging, staged_jobs
from tests.fakes import JOB_ID
from tests.rigs.staged import (
    listing,
)


def stage_whole(staging: Staging, name: str, body: bytes) -> None:
    part = staging.part(name, name, len(body))
    part.write(body)
    part.finish(None)


def test_a_later_holder_gets_what_an_earlier_one_left_whole_and_nothing_unfinished(root: MirrorRoot) -> None:
    with Staging(root, JOB_ID, 1) as earlier:
        stage_whole(earlier, "whole.csv", b"id\n1\n")
        unfinished = earlier.part("part.csv", "part.csv", 10)
        unfinished.begin('"etag"')
        unfinished.write(b"id\n")

        with Staging(root, JOB_ID, 2) as later:
            found = later.recover()

            assert set(found) == {"whole.csv"}
            # What the earlier one still writes goes nowhere.
            unfinished.write(b"2\n")
            with pytest.raises(DiskError):
                earlier.publish("acme/x/2026/one")
            assert later.publish("acme/x/2026/one")
    assert sorted(path.name for path in (root.path / "acme/x/2026/one").iterdir()) == ["whole.csv"]


def test_taking_over_leaves_no_descriptor_open(root: MirrorRoot) -> None:
    with Staging(root, JOB_ID, 1) as earlier:
        stage_whole(earlier, "a.csv", b"a\n")
    before = set(Path("/proc/self/fd").iterdir())

    with Staging(root, JOB_ID, 2):
        pass

    assert set(Path("/proc/self/fd").iterdir()) <= before


def test_a_journal_without_its_folder_is_removed_by_the_next_holder(root: MirrorRoot) -> None:
    """A crash while an earlier holder's folder was taken over."""
    with Staging(root, JOB_ID, 1) as earlier:
        stage_whole(earlier, "a.csv", b"a\n")
    (root.path / earlier.relative / "a.csv").unlink()
    (root.path / earlier.relative).rmdir()

    with Staging(root, JOB_ID, 2) as later:
        assert later.recover() == {}

    assert staged_jobs(root) == {staging_leaf(JOB_ID, 2)}


@pytest.mark.parametrize("instead", [None, "symlink"])
def test_without_its_journal_a_folder_holds_nothing_that_can_be_taken_over(
    root: MirrorRoot, tmp_path: Path, instead: str | None
) -> None:
    with Staging(root, JOB_ID, 1) as earlier:
        stage_whole(earlier, "a.csv", b"a\n")
    kept = root.path / f"{earlier.relative}.journal"
    kept.rename(tmp_path / "elsewhere")
    if instead:
        kept.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(MirrorTampered):
            Staging(root, JOB_ID, 2)
        return

    with Staging(root, JOB_ID, 2) as later:
        assert later.recover() == {}
    assert staged_jobs(root) == {staging_leaf(JOB_ID, 2)}


def test_what_was_taken_from_the_holder_itself_is_not_taken_back(root: MirrorRoot) -> None:
    """A crash while its folder was cleared. The folder has the holder's own number in front."""
    with Staging(root, JOB_ID, 2) as first:
        stage_whole(first, "a.csv", b"a\n")
    cleared = root.path / f"{first.relative}%7Ecleared"
    (root.path / first.relative).rename(cleared)

    with Staging(root, JOB_ID, 2) as again:
        assert again.recover() == {}

    assert listing(cleared) == {"a.csv": b"a\n"}


def test_an_earlier_holder_and_another_job_are_left_alone(root: MirrorRoot) -> None:
    with Staging(root, JOB_ID, 5) as later, Staging(root, JobId("another"), 1) as another:
        stage_whole(later, "a.csv", b"a\n")
        stage_whole(another, "b.csv", b"b\n")

        with Staging(root, JOB_ID, 4) as earlier:
            assert earlier.recover() == {}

        assert set(later.recover()) == {"a.csv"}
        assert set(another.recover()) == {"b.csv"}


def test_what_one_host_left_without_numbers_is_taken_over_too(root: MirrorRoot) -> None:
    """The manifest moved to a database in the middle of a job."""
    with Staging(root, JOB_ID) as alone:
        stage_whole(alone, "a.csv", b"a\n")

    with Staging(root, JOB_ID, 1) as first:
        assert set(first.recover()) == {"a.csv"}
    assert staged_jobs(root) == {staging_leaf(JOB_ID, 1)}


def test_clearing_a_holder_s_staging_is_all_or_nothing_for_who_still_has_it(root: MirrorRoot) -> None:
    with Staging(root, JOB_ID, 1) as holder:
        stage_whole(holder, "a.csv", b"a\n")

        discard_staging(root, staging_leaf(JOB_ID, 1))

        with pytest.raises(DiskError):
            holder.publish("acme/x/2026/one")
    assert staged_jobs(root) == set()


@pytest.mark.parametrize("number", [0, 1])
def test_a_numbered_staging_is_out_of_its_holder_s_way_before_its_files_are_deleted(
    root: MirrorRoot, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Its holder may be paused, and would publish half of it. Without a number, what cannot be deleted is trash."""
    with Staging(root, JOB_ID, number) as holder:
        stage_whole(holder, "a.csv", b"a\n")
    unlink = os.unlink

    def refuse(path: Any, **options: Any) -> None:
        if path == "a.csv":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", refuse)

    discard_staging(root, holder.leaf)

    left = [path.name for path in (root.path / ".dcsync/staging").iterdir() if path.is_dir()]
    assert holder.leaf not in left
    assert [name.startswith(holder.leaf) for name in left] == [True] * number
    assert len(list((root.path / ".dcsync/trash").glob("*/a.csv"))) == 1 - number
