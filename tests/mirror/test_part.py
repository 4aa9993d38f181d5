"""A file on its way: complete or `.part`, and resumed only when its bytes are proved."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import zlib
from pathlib import Path

import pytest

from dcsync.core.table import TableFacts, count
from dcsync.core.transfer import Have
from dcsync.errors import DiskDenied, DiskError, DiskFault, DiskFull, DiskReadOnly, SizeMismatch
from dcsync.mirror.journal import Journal
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
    suspended,
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

    assert stored.sha256 == hashlib.sha256(b"").hexdigest()
    assert (staged(root) / "empty.csv").read_bytes() == b""


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
    assert (part.have, part.written) == (None, 0)
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


@pytest.mark.parametrize("etag", [ETAG, f'"{hashlib.md5(BODY, usedforsecurity=False).hexdigest()}"'])
def test_a_later_run_goes_on_where_the_last_one_stopped(root: MirrorRoot, etag: str) -> None:
    suspended(root, "a.csv", BODY[:1000], etag=etag)

    with Staging(root, JOB_ID) as staging:
        assert staging.recover() == {}
        part = staging.part("a.csv", "a.csv", len(BODY))
        assert part.have == Have(size=1000, etag=etag)
        part.write(BODY[1000:])
        stored = part.finish(etag)

    assert (staged(root) / "a.csv").read_bytes() == BODY
    assert (stored.sha256, stored.crc32) == (hashlib.sha256(BODY).hexdigest(), zlib.crc32(BODY))
    assert stored.md5 == (None if etag == ETAG else etag.strip('"'))


def test_a_file_that_cannot_be_closed_whole_is_not_gone_on_with(
    root: MirrorRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network share tells at the close what it did not take; the journal's own does not matter."""
    close, refused = os.close, []

    def refuse(descriptor: int) -> None:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        close(descriptor)
        if name.endswith((".part", ".journal")):
            refused.append(name.rpartition(".")[2])
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", refuse)
        suspended(root, "a.csv", BODY[:1000])

    assert refused == ["part", "journal"]
    assert list(staged(root).iterdir()) == []


@pytest.mark.parametrize(
    "left",
    [b"#" * 700, BODY[:500] + bytes(500), bytes(1000), BODY[:999] + b"#" + BODY[1000:], BODY[:999], b""],
    ids=["other bytes", "zeros at its end", "zeros", "one byte", "one byte less", "nothing"],
)
def test_an_unfinished_file_that_is_not_as_it_was_written_is_begun_anew(root: MirrorRoot, left: bytes) -> None:
    """A disk that went away under a running machine comes back without what it had not written yet."""
    suspended(root, "a.csv", BODY[:1000])
    (staged(root) / "a.csv.part").write_bytes(left)

    with Staging(root, JOB_ID) as staging:
        staging.recover()
        part = staging.part("a.csv", "a.csv", len(BODY))

        assert (part.have, part.written) == (None, 0)
        assert listing(staged(root)) == {}
        part.begin(ETAG)
        part.write(BODY)
        part.finish(ETAG)

    assert (staged(root) / "a.csv").read_bytes() == BODY


def test_one_that_is_no_good_and_cannot_be_closed_is_the_disk_s_error(
    root: MirrorRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspended(root, "a.csv", BODY[:1000])
    (staged(root) / "a.csv.part").write_bytes(bytes(1000))
    close = os.close

    def refuse(descriptor: int) -> None:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        close(descriptor)
        if name.endswith(".part"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Staging(root, JOB_ID) as staging:
        staging.recover()
        with monkeypatch.context() as patched:
            patched.setattr(os, "close", refuse)
            with pytest.raises(DiskFault):
                staging.part("a.csv", "a.csv", len(BODY))

        assert listing(staged(root)) == {}


def test_what_came_after_the_last_note_is_fetched_again(root: MirrorRoot) -> None:
    """A kill between a write and its note: those bytes are proved by nothing."""
    suspended(root, "a.csv", BODY[:1000])
    (staged(root) / "a.csv.part").write_bytes(BODY + b"more")

    with Staging(root, JOB_ID) as staging:
        staging.recover()
        part = staging.part("a.csv", "a.csv", len(BODY))

        assert part.have == Have(size=1000, etag=ETAG)
        part.write(BODY[1000:])
        part.finish(ETAG)

    assert (staged(root) / "a.csv").read_bytes() == BODY


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_what_cannot_be_read_of_an_earlier_run_is_fetched_again(
    root: MirrorRoot, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A bad sector below the staging must not stop an account for ever; any other error is the disk's own matter."""
    suspended(root, "a.csv", BODY[:1000])
    with Staging(root, JOB_ID) as staging:
        staging.recover()
        stage(staging, "b.csv")

    def unreadable(_descriptor: int, _size: int, _offset: int) -> bytes:
        raise OSError(number, os.strerror(number))

    before = set(Path("/proc/self/fd").iterdir())
    with Staging(root, JOB_ID) as staging:
        if number == errno.EIO:
            recorded = Journal.read(staging._journal)
            monkeypatch.setattr(Journal, "read", lambda _: recorded)
            with monkeypatch.context() as broken:
                broken.setattr(os, "pread", unreadable)
                assert staging.recover() == {}
                assert staging.part("a.csv", "a.csv", len(BODY)).have is None
            assert listing(staged(root)) == {}
        else:
            staging.recover()
            with monkeypatch.context() as broken:
                broken.setattr(os, "pread", unreadable)
                with pytest.raises(DiskDenied):
                    staging.part("a.csv", "a.csv", len(BODY))
            assert listing(staged(root)).keys() == {"a.csv.part", "b.csv"}
    assert set(Path("/proc/self/fd").iterdir()) <= before


def test_an_unfinished_file_of_another_boot_is_removed(root: MirrorRoot) -> None:
    suspended(root, "a.csv", BODY[:1000])
    entries = [json.loads(line) for line in journal(root).read_bytes().splitlines()]
    journal(root).write_text("".join(json.dumps({**entry, "boot": "another boot"}) + "\n" for entry in entries))

    with Staging(root, JOB_ID) as staging:
        assert staging.recover() == {}
        assert staging.part("a.csv", "a.csv", len(BODY)).have is None

    assert listing(staged(root)) == {}


def test_an_unfinished_file_that_the_journal_does_not_have_is_removed(root: MirrorRoot) -> None:
    suspended(root, "a.csv", BODY[:1000])
    journal(root).write_bytes(b"")

    with Staging(root, JOB_ID) as staging:
        assert staging.recover() == {}

    assert listing(staged(root)) == {}


def test_an_unfinished_file_whose_listed_size_is_another_now_starts_over(root: MirrorRoot) -> None:
    suspended(root, "a.csv", BODY[:1000])

    with Staging(root, JOB_ID) as staging:
        staging.recover()
        part = staging.part("a.csv", "a.csv", len(BODY) + 1)

        assert (part.have, part.written) == (None, 0)
        assert listing(staged(root)) == {}
        part.begin(ETAG)
        part.write(BODY + b"!")
        part.finish(ETAG)

    assert (staged(root) / "a.csv").read_bytes() == BODY + b"!"


def test_the_last_etag_is_the_one_that_counts(root: MirrorRoot) -> None:
    with Staging(root, JOB_ID) as staging:
        part = staging.part("a.csv", "a.csv", len(BODY))
        part.begin('"old"')
        part.write(b"#" * 10)
        part.restart()
        part.begin('"new"')
        part.write(BODY[:10])
        part.suspend()

    with Staging(root, JOB_ID) as staging:
        staging.recover()
        part = staging.part("a.csv", "a.csv", len(BODY))
        assert part.have == Have(size=10, etag='"new"')
        part.suspend()
