"""The staging of a job: recovered after a crash, published in one step, one holder at a time."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcsync.core.model import JobId
from dcsync.errors import DiskError, DiskFull, MirrorTampered
from dcsync.mirror import disk
from dcsync.mirror.root import MirrorRoot
from dcsync.mirror.staging import Staging, discard_staging, staged_jobs
from tests.fakes import JOB_ID
from tests.rigs.staged import (
    BODY,
    ETAG,
    FOLDER,
    MIB,
    journal,
    listing,
    mode,
    small_mirror,
    stage,
    staged,
    suspended,
)


@pytest.mark.parametrize("at", ["fchmod", "journal", "take over"])
def test_a_staging_that_cannot_be_made_leaves_no_descriptor_open(
    root: MirrorRoot, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """A disk may be full for days, and each try would leave some."""
    with Staging(root, JOB_ID, 1):
        pass
    before = set(Path("/proc/self/fd").iterdir())
    real_open = os.open

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_for_journals(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith(".journal"):
            full()
        return real_open(path, *arguments, **options)

    match at:
        case "fchmod":
            monkeypatch.setattr(os, "fchmod", full)
        case "journal":
            monkeypatch.setattr(os, "open", full_for_journals)
        case _:
            monkeypatch.setattr(Staging, "_take_over", full)
    with pytest.raises((DiskFull, OSError)):
        Staging(root, JOB_ID, 2)

    assert set(Path("/proc/self/fd").iterdir()) <= before


def test_what_is_whole_is_kept_and_everything_unknown_is_removed(root: MirrorRoot, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with Staging(root, JOB_ID) as staging:
        stored = stage(staging, "a.csv")
        staging.write_own("_dcsync.json", b"{}")
    (staged(root) / "unknown.csv").write_bytes(b"x")
    (staged(root) / "unknown.csv.part").write_bytes(b"x")
    (staged(root) / "deep/er").mkdir(parents=True)
    (staged(root) / "deep/er/file").write_bytes(b"x")
    (staged(root) / "link").symlink_to(tmp_path / "kept")
    inode = (staged(root) / "a.csv").stat().st_ino

    with Staging(root, JOB_ID) as staging:
        found = staging.recover()

    assert found.keys() == {"a.csv"}
    assert replace(found["a.csv"], mtime_ns=None, inode=None) == replace(stored, mtime_ns=None, inode=None)
    assert [path.name for path in staged(root).iterdir()] == ["a.csv"]
    assert (staged(root) / "a.csv").stat().st_ino == inode
    assert (tmp_path / "kept").is_dir()


@pytest.mark.parametrize("damaged", [b"\0" * len(BODY), BODY[:-1], BODY[:-1] + b"?", b""])
def test_a_whole_file_that_was_damaged_since_is_removed(root: MirrorRoot, damaged: bytes) -> None:
    with Staging(root, JOB_ID) as staging:
        stage(staging, "a.csv")
        stage(staging, "b.csv")
    (staged(root) / "a.csv").chmod(0o600)
    (staged(root) / "a.csv").write_bytes(damaged)

    with Staging(root, JOB_ID) as staging:
        assert staging.recover().keys() == {"b.csv"}

    assert listing(staged(root)) == {"b.csv": BODY}


def test_a_symlink_in_the_place_of_a_whole_file_is_removed(root: MirrorRoot, tmp_path: Path) -> None:
    with Staging(root, JOB_ID) as staging:
        stage(staging, "a.csv")
    (tmp_path / "same").write_bytes(BODY)
    (staged(root) / "a.csv").unlink()
    (staged(root) / "a.csv").symlink_to(tmp_path / "same")

    with Staging(root, JOB_ID) as staging:
        assert staging.recover() == {}

    assert list(staged(root).iterdir()) == []
    assert (tmp_path / "same").read_bytes() == BODY


@pytest.mark.parametrize(
    "junk", [b"\0" * 100, b'{"stored": {"name"', b'{"stored": 7}', b"7", b"[]", b'{"opened": "x"}', b"\xff\xfe"]
)
def test_a_line_of_the_journal_that_cannot_be_read_costs_no_other_line(root: MirrorRoot, junk: bytes) -> None:
    with Staging(root, JOB_ID) as staging:
        stage(staging, "a.csv")
    first = journal(root).read_bytes()
    journal(root).write_bytes(junk + b"\n" + first + junk)

    with Staging(root, JOB_ID) as staging:
        assert staging.recover().keys() == {"a.csv"}


def test_recovering_twice_finds_the_same(root: MirrorRoot) -> None:
    with Staging(root, JOB_ID) as staging:
        stage(staging, "a.csv")
    suspended(root, "b.csv", BODY[:5])

    found = []
    for _ in range(2):
        with Staging(root, JOB_ID) as staging:
            found.append(staging.recover())

    assert found[0] == found[1]
    assert set(listing(staged(root))) == {"a.csv", "b.csv.part"}


def test_a_file_of_a_folder_is_staged_beside_the_others_and_unfolded_before_publishing(
    root: MirrorRoot, staging: Staging
) -> None:
    stored = stage(staging, "schemas/deep/a.csv")
    assert stored.name == "schemas/deep/a.csv"
    assert [path.name for path in staged(root).iterdir()] == ["schemas%7Edeep%7Ea.csv"]
    assert staging.recover().keys() == {"schemas/deep/a.csv"}
    stage(staging, "b.csv")

    staging.unfold(["schemas/deep/a.csv", "b.csv"])
    staging.publish(FOLDER)

    assert listing(root.path / FOLDER) == {"schemas/deep/a.csv": BODY, "b.csv": BODY}
    assert mode(root.path / FOLDER / "schemas/deep") == 0o755


def test_a_snapshot_in_its_place_stays_whole_if_the_journal_cannot_be_removed(
    root: MirrorRoot, staging: Staging
) -> None:
    stage(staging, "schemas/a.csv")
    staging.unfold(["schemas/a.csv"])
    journal(root).unlink()
    journal(root).mkdir()

    with pytest.raises(DiskError):
        staging.publish(FOLDER)
    staging.fold(["schemas/a.csv"])

    assert listing(root.path / FOLDER) == {"schemas/a.csv": BODY}


def test_a_file_called_part_is_staged_beside_the_one_it_looks_like_a_part_of(
    root: MirrorRoot, staging: Staging
) -> None:
    first = staging.part("a.csv", "a.csv", 4)
    first.begin(None)
    first.write(b"ab")
    stage(staging, "a.csv.part", b"theirs")
    first.write(b"cd")
    first.finish(None)
    assert staging.recover().keys() == {"a.csv", "a.csv.part"}

    staging.unfold(["a.csv", "a.csv.part"])
    staging.publish(FOLDER)

    assert listing(root.path / FOLDER) == {"a.csv": b"abcd", "a.csv.part": b"theirs"}


def test_a_file_that_moved_into_its_folder_is_durable_there(
    root: MirrorRoot, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.csv", "schemas/a.csv", "schemas/deep/b.csv"):
        stage(staging, name)
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        folder = Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(staged(root))
        synced.extend(str(folder / path.name) for path in (staged(root) / folder).glob("*.csv"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)

    staging.unfold(["a.csv", "schemas/a.csv", "schemas/deep/b.csv"])

    assert {"schemas/a.csv", "schemas/deep/b.csv"} <= set(synced)


def test_a_staged_file_can_be_read_and_a_symlink_in_its_place_is_not_followed(
    root: MirrorRoot, staging: Staging, tmp_path: Path
) -> None:
    stage(staging, "schemas/a.csv")

    with os.fdopen(staging.open_staged("schemas/a.csv"), "rb") as file:
        assert file.read() == BODY

    (tmp_path / "elsewhere").write_bytes(BODY)
    (staged(root) / "b.csv").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MirrorTampered):
        staging.open_staged("b.csv")


def test_only_what_is_wanted_stays_before_publishing(root: MirrorRoot, staging: Staging) -> None:
    for name in ("a.csv", "b.csv.part", "schemas/a.csv", "schemas/b.csv"):
        stage(staging, name)
    half = staging.part("c.csv", "c.csv", 100)
    half.begin(ETAG)
    half.write(b"half")
    half.suspend()
    (staged(root) / "folder").mkdir()
    (staged(root) / "folder/x").write_bytes(b"x")

    staging.keep_only(["a.csv", "b.csv.part", "schemas/a.csv"])

    assert {path.name for path in staged(root).iterdir()} == {"a.csv", "b.csv.part%7E", "schemas%7Ea.csv"}


@pytest.mark.needs_root
def test_a_sidecar_that_does_not_fit_is_disk_full(tmp_path: Path) -> None:
    with (
        small_mirror(tmp_path / "mirror") as root,
        Staging(root, JOB_ID) as staging,
        pytest.raises(DiskFull, match=r"writing _dcsync\.json"),
    ):
        staging.write_own("_dcsync.json", b"x" * 2 * MIB)


def test_publishing_is_one_rename_of_the_whole_folder(root: MirrorRoot, staging: Staging) -> None:
    stage(staging)
    staging.write_own("_dcsync.json", b"{}")
    inode = staged(root).stat().st_ino

    published = staging.publish(FOLDER)

    folder = root.path / FOLDER
    assert published
    assert folder.stat().st_ino == inode
    assert listing(folder) == {"admin_users.csv": BODY, "_dcsync.json": b"{}"}
    assert mode(folder) == 0o755
    assert mode(folder.parent) == 0o755
    assert mode(folder / "_dcsync.json") == 0o444
    assert list((root.path / ".dcsync/staging").iterdir()) == []
    assert staged_jobs(root) == set()


def test_the_way_to_a_snapshot_is_durable_before_its_name_is(
    root: MirrorRoot, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the folders on it were made by a process that was killed before it could say so to the disk."""
    stage(staging)
    (root.path / FOLDER).parent.mkdir(parents=True)
    calls: list[str] = []
    fsync, rename = os.fsync, disk.rename_noreplace

    def noted_fsync(descriptor: int) -> None:
        calls.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def noted_rename(*arguments: Any) -> None:
        calls.append("rename")
        rename(*arguments)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(disk, "rename_noreplace", noted_rename)

    staging.publish(FOLDER)

    before, after = calls[: calls.index("rename")], calls[calls.index("rename") :]
    way = [str(root.path / path) for path in reversed(Path(FOLDER).parent.parents)]
    assert before == [str(root.path / staging.relative), *way]
    assert after == ["rename", str((root.path / FOLDER).parent), str(root.path / ".dcsync/staging")]


def test_a_name_that_is_taken_is_not_published_over(root: MirrorRoot, staging: Staging) -> None:
    stage(staging)
    (root.path / FOLDER).mkdir(parents=True)
    (root.path / FOLDER / "theirs.csv").write_bytes(b"theirs")

    published = staging.publish(FOLDER)

    assert published is False
    assert listing(root.path / FOLDER) == {"theirs.csv": b"theirs"}
    assert listing(staged(root)) == {"admin_users.csv": BODY}
    assert journal(root).exists()


def test_a_symlink_at_the_name_is_not_published_through(root: MirrorRoot, staging: Staging, tmp_path: Path) -> None:
    stage(staging)
    (tmp_path / "elsewhere").mkdir()
    (root.path / FOLDER).parent.mkdir(parents=True)
    (root.path / FOLDER).symlink_to(tmp_path / "elsewhere")

    assert not staging.publish(FOLDER)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (root.path / FOLDER).is_symlink()


@pytest.mark.parametrize("component", ["acme", "acme/request", "acme/request/2026/11/22"])
def test_a_symlink_on_the_way_to_the_name_is_not_followed(
    root: MirrorRoot, staging: Staging, tmp_path: Path, component: str
) -> None:
    stage(staging)
    (tmp_path / "elsewhere").mkdir()
    (root.path / component).parent.mkdir(parents=True, exist_ok=True)
    (root.path / component).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(MirrorTampered):
        staging.publish(FOLDER)

    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert listing(staged(root)) == {"admin_users.csv": BODY}


@pytest.mark.parametrize("planted", [".dcsync", ".dcsync/staging", f".dcsync/staging/{JOB_ID}"])
def test_a_symlink_on_the_way_to_the_staging_is_not_followed(root: MirrorRoot, tmp_path: Path, planted: str) -> None:
    (tmp_path / "elsewhere/staging").mkdir(parents=True)
    (root.path / planted).parent.mkdir(parents=True, exist_ok=True)
    (root.path / planted).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(MirrorTampered):
        Staging(root, JOB_ID)

    assert list((tmp_path / "elsewhere/staging").iterdir()) == []


def test_what_is_written_twice_is_what_was_written_last(root: MirrorRoot, staging: Staging) -> None:
    staging.write_own("SHA256SUMS", b"a longer first one")
    staging.write_own("SHA256SUMS", b"second")

    assert listing(staged(root)) == {"SHA256SUMS": b"second"}


def test_discarding_takes_one_job_with_its_journal_and_no_other(root: MirrorRoot, staging: Staging) -> None:
    stage(staging)
    with Staging(root, JobId("other")) as other:
        stage(other)
    assert staged_jobs(root) == {JOB_ID, "other"}

    staging.discard()

    assert staged_jobs(root) == {"other"}
    assert listing(root.path / ".dcsync/staging/other") == {"admin_users.csv": BODY}
    assert not journal(root).exists()


def test_there_is_nothing_staged_and_nothing_to_discard_in_a_new_root(root: MirrorRoot) -> None:
    discard_staging(root, "job")

    assert staged_jobs(root) == set()
    assert list(root.path.iterdir()) == []


def test_a_closed_staging_leaves_no_descriptor_open(root: MirrorRoot) -> None:
    before = set(Path("/proc/self/fd").iterdir())

    with Staging(root, JOB_ID) as staging:
        stage(staging)
        part = staging.part("b.csv", "b.csv", 10)
        part.write(b"x")
        part.discard()
        staging.publish(FOLDER)

    assert set(Path("/proc/self/fd").iterdir()) <= before


def test_a_job_whose_id_is_no_name_is_staged_under_a_safe_one(root: MirrorRoot) -> None:
    with Staging(root, JobId("../../x")) as staging:
        stage(staging)

    assert listing(root.path / ".dcsync/staging" / staging.leaf) == {"admin_users.csv": BODY}
    assert staged_jobs(root) == {staging.leaf}
