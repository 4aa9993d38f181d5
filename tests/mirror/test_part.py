"""A file on its way: `.part` until it is complete, and durable before it has its name."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from dcsync.core.table import TableFacts, count
from dcsync.core.transfer import Have
from dcsync.errors import DiskError, DiskFault, DiskFull, DiskReadOnly, SizeMismatch
from dcsync.mirror import space
from dcsync.mirror.root import MirrorRoot
from dcsync.mirror.staging import Staging, discard_staging
from tests.fakes import JOB_ID, make_stored
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
)


def test_a_file_is_private_and_part_until_it_is_whole(root: MirrorRoot, staging: Staging) -> None:
    part = staging.part("admin_users.csv", "admin_users.csv", len(BODY))
    part.begin(None)
    part.write(BODY[:100])
    unfinished = staged(root) / "admin_users.csv.part"
    assert [path.name for path in staged(root).iterdir()] == ["admin_users.csv.part"]
    assert mode(unfinished) == 0o600
    assert mode(staged(root)) == 0o700

    part.write(BODY[100:])
    stored = part.finish(None)

    whole = staged(root) / "admin_users.csv"
    assert [path.name for path in staged(root).iterdir()] == ["admin_users.csv"]
    assert mode(whole) == 0o444
    assert whole.read_bytes() == BODY
    facts = whole.stat()
    assert stored == make_stored(
        "admin_users.csv",
        BODY,
        md5=None,
        etag=None,
        mtime_ns=facts.st_mtime_ns,
        inode=facts.st_ino,
        table=count([BODY]),
    )


def test_a_table_s_rows_are_counted_and_no_other_file_s(staging: Staging) -> None:
    assert stage(staging, "a.csv", b'id,"n\n"\n1,"two\nlines"\n2,').table == TableFacts(header=("id", "n\n"), rows=2)
    assert stage(staging, "README.html", b"a\nb\n").table is None


def test_the_record_has_the_md5_when_the_etag_can_be_one(staging: Staging) -> None:
    md5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()

    assert stage(staging, "a.csv", etag=f'"{md5}"').md5 == md5
    assert stage(staging, "b.csv", etag='"not an md5"').md5 is None


def test_an_empty_file_is_a_file(root: MirrorRoot, staging: Staging) -> None:
    stored = stage(staging, "empty.csv", b"")
    unwritten = staging.part("unwritten.csv", "unwritten.csv", 0).finish(None)

    assert stored.sha256 == unwritten.sha256 == hashlib.sha256(b"").hexdigest()
    assert listing(staged(root)) == {"empty.csv": b"", "unwritten.csv": b""}


def test_a_file_is_on_the_disk_before_it_has_its_name(
    root: MirrorRoot, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[dict[str, bytes]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(listing(staged(root)))

    monkeypatch.setattr(os, "fsync", noted)

    stage(staging, "a.csv", b"id\n")

    assert synced == [{"a.csv.part": b"id\n"}]


def test_a_file_that_comes_in_one_piece_takes_two_lines_of_the_journal(root: MirrorRoot, staging: Staging) -> None:
    stage(staging, "a.csv", etag=ETAG)

    entries = [json.loads(line) for line in journal(root).read_bytes().splitlines()]
    assert [next(iter(entry)) for entry in entries] == ["opened", "stored"]


def test_one_byte_more_than_listed_is_refused_and_nothing_gets_the_name(root: MirrorRoot, staging: Staging) -> None:
    part = staging.part("a.csv", "a.csv", 10)
    part.begin(None)
    part.write(b"x" * 10)

    with pytest.raises(SizeMismatch, match="longer than the 10 bytes"):
        part.write(b"y")

    part.discard()
    assert listing(staged(root)) == {}


def test_one_byte_less_than_listed_is_refused_and_nothing_gets_the_name(root: MirrorRoot, staging: Staging) -> None:
    part = staging.part("a.csv", "a.csv", 10)
    part.begin(None)
    part.write(b"x" * 9)

    with pytest.raises(SizeMismatch, match="9 bytes, not 10"):
        part.finish(None)

    assert set(listing(staged(root))) == {"a.csv.part"}
    part.discard()
    assert listing(staged(root)) == {}


def test_a_file_that_starts_over_has_nothing_of_what_was_before(root: MirrorRoot, staging: Staging) -> None:
    part = staging.part("a.csv", "a.csv", 10)
    part.begin('"first"')
    part.write(b"x" * 8)

    part.restart()
    assert (part.have, part.written, part.etag) == (None, 0, None)
    assert listing(staged(root)) == {"a.csv.part": b""}
    part.begin('"second"')
    part.write(b"y" * 10)
    stored = part.finish('"second"')

    assert (staged(root) / "a.csv").read_bytes() == b"y" * 10
    assert stored.sha256 == hashlib.sha256(b"y" * 10).hexdigest()


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_etag_there_is_nothing_to_resume(root: MirrorRoot, staging: Staging, etag: str | None) -> None:
    part = staging.part("a.csv", "a.csv", 10)
    part.begin(etag)
    part.write(b"x" * 8)

    assert (part.have, part.written) == (None, 8)
    assert journal(root).read_bytes() == b""
    part.discard()


def test_what_may_be_resumed_is_what_was_written_under_the_etag(staging: Staging) -> None:
    part = staging.part("a.csv", "a.csv", 10)
    part.begin(ETAG)
    at_first = part.have

    part.write(b"x" * 8)

    assert (at_first, part.have) == (None, Have(size=8, etag=ETAG))
    part.discard()


@pytest.mark.parametrize("planted", ["file", "symlink"])
def test_an_unfinished_file_that_nobody_knows_is_not_written_to(
    root: MirrorRoot, staging: Staging, tmp_path: Path, planted: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"precious")
    if planted == "symlink":
        (staged(root) / "a.csv.part").symlink_to(elsewhere)
    else:
        (staged(root) / "a.csv.part").hardlink_to(elsewhere)

    with pytest.raises(DiskError, match=r"writing .*a\.csv\.part"):
        staging.part("a.csv", "a.csv", 10).write(b"x")

    assert elsewhere.read_bytes() == b"precious"


@pytest.mark.needs_root
def test_a_file_that_does_not_fit_fails_at_its_first_byte_and_leaves_nothing(tmp_path: Path) -> None:
    with small_mirror(tmp_path / "mirror") as root, Staging(root, JOB_ID) as staging:
        part = staging.part("big.csv", "big.csv", 2 * MIB)
        part.begin(ETAG)

        with pytest.raises(DiskFull, match=r"big\.csv\.part"):
            part.write(b"x")

        part.discard()
        assert listing(staged(root)) == {}
        assert stage(staging, "small.csv").size == len(BODY)


@pytest.mark.needs_root
def test_the_room_of_an_unfinished_file_is_reserved_and_given_back(tmp_path: Path) -> None:
    with small_mirror(tmp_path / "mirror") as root, Staging(root, JOB_ID) as staging:
        before = root.free_bytes()
        part = staging.part("a.csv", "a.csv", MIB // 2)
        part.begin(ETAG)
        part.write(b"x")
        assert root.free_bytes() <= before - MIB // 2
        part.suspend()

        staging.drop_parts()

        assert root.free_bytes() >= before - 8192
        assert listing(staged(root)) == {}


@pytest.mark.needs_root
def test_a_disk_that_turned_read_only_is_said_and_gone_on_with_when_it_is_back(tmp_path: Path) -> None:
    with small_mirror(tmp_path / "mirror") as root:
        with Staging(root, JOB_ID) as staging:
            stage(staging)
        subprocess.run(["mount", "-o", "remount,ro", root.path], check=True)

        with pytest.raises(DiskReadOnly, match=r"making \.dcsync/staging"):
            Staging(root, JOB_ID)
        with pytest.raises(DiskReadOnly):
            discard_staging(root, JOB_ID)

        subprocess.run(["mount", "-o", "remount,rw", root.path], check=True)
        with Staging(root, JOB_ID) as staging:
            assert staging.recover().keys() == {"admin_users.csv"}
            assert staging.publish(FOLDER)
        assert listing(root.path / FOLDER) == {"admin_users.csv": BODY}


def test_a_file_that_cannot_be_finished_is_discarded(
    root: MirrorRoot, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed fsync the kernel may have dropped the bytes, and a second fsync would succeed."""

    def refuse(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)

    with pytest.raises(DiskFault):
        stage(staging, "a.csv")

    assert listing(staged(root)) == {}
    assert b"stored" not in journal(root).read_bytes()


def test_the_kernel_starts_to_write_a_large_file_after_every_eight_mebibytes(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[int, int]] = []

    def note(_descriptor: int, offset: ctypes.c_int64, size: ctypes.c_int64, _flags: int) -> None:
        started.append((offset.value // MIB, size.value // MIB))

    monkeypatch.setattr(space._libc, "sync_file_range", note)
    part = staging.part("a.bin", "a.bin", 100 * MIB)
    part.begin(None)

    for _ in range(23):
        part.write(bytes(MIB))
    assert started == [(0, 8), (8, 8)]

    part.restart()
    for _ in range(8):
        part.write(bytes(MIB))
    assert started == [(0, 8), (8, 8), (0, 8)]
    part.discard()


def test_the_kernel_forgets_what_it_has_written_of_a_large_file(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it may not have written yet, the last 16 MiB, stays. The parts before it are named up to four times."""
    forgotten: list[tuple[int, int]] = []

    def note(_descriptor: int, offset: int, size: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        forgotten.append((offset // MIB, (offset + size) // MIB))

    monkeypatch.setattr(os, "posix_fadvise", note)
    part = staging.part("a.bin", "a.bin", 100 * MIB)
    part.begin(None)

    for _ in range(23):
        part.write(bytes(MIB))
    assert forgotten == []
    for _ in range(42):
        part.write(bytes(MIB))
    assert forgotten == [(0, 8), (0, 16), (0, 24), (0, 32), (8, 40), (16, 48)]

    part.restart()
    for _ in range(24):
        part.write(bytes(MIB))
    assert forgotten[6:] == [(0, 8)]
    part.discard()


def test_a_file_system_without_such_hints_gets_the_whole_file(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    part = staging.part("a.bin", "a.bin", 25 * MIB)
    part.begin(None)

    for number in range(25):
        part.write(bytes([number]) * MIB)

    assert part.finish(None).sha256 == hashlib.sha256(b"".join(bytes([n]) * MIB for n in range(25))).hexdigest()


@pytest.mark.parametrize(("length", "shown"), [(120, "x" * 120), (121, "x" * 120 + "…")])
def test_a_message_names_the_file_and_cuts_a_long_name(staging: Staging, length: int, shown: str) -> None:
    part = staging.part("a.csv", "x" * length, 10)

    with pytest.raises(SizeMismatch) as longer:
        part.write(b"x" * 11)
    with pytest.raises(SizeMismatch) as shorter:
        part.finish(None)

    assert longer.value.message == f"'{shown}' is longer than the 10 bytes of the data listing"
    assert shorter.value.message == f"'{shown}' has 0 bytes, not 10 as in the data listing"
