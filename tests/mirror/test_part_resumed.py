"""An incomplete file of an earlier run: it is resumed only when its bytes are proved."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zlib
from pathlib import Path

import pytest

from dcsync.core.transfer import Have
from dcsync.errors import DiskDenied, DiskFault
from dcsync.mirror.journal import Journal
from dcsync.mirror.root import MirrorRoot
from dcsync.mirror.staging import Staging
from tests.fakes import JOB_ID
from tests.rigs.staged import (
    BODY,
    ETAG,
    MIB,
    journal,
    listing,
    mode,
    stage,
    staged,
    suspended,
)


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


def test_what_is_resumed_is_read_from_the_disk_and_not_from_the_kernel_s_copy(
    root: MirrorRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspended(root, "a.csv", BODY[:1000])
    dropped: list[tuple[int, ...]] = []
    with Staging(root, JOB_ID) as staging:
        staging.recover()
        monkeypatch.setattr(os, "posix_fadvise", lambda _, *advice: dropped.append(advice))

        staging.part("a.csv", "a.csv", len(BODY)).suspend()

    assert dropped == [(0, 0, os.POSIX_FADV_DONTNEED)]


#: The CRC32 of these four bytes is 0, which is also the CRC32 of no bytes.
CRC_OF_NOTHING = b"\x9d\x0a\xd9\x6d"


def test_a_file_that_lost_all_its_bytes_is_not_taken_for_the_one_whose_crc_is_zero(root: MirrorRoot) -> None:
    assert zlib.crc32(CRC_OF_NOTHING) == 0
    suspended(root, "a.csv", CRC_OF_NOTHING)
    (staged(root) / "a.csv.part").write_bytes(b"")

    with Staging(root, JOB_ID) as staging:
        staging.recover()
        assert staging.part("a.csv", "a.csv", len(BODY)).have is None

    assert listing(staged(root)) == {}


def test_a_file_that_cannot_be_read_is_not_taken_for_the_one_whose_crc_is_zero(
    root: MirrorRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspended(root, "a.csv", CRC_OF_NOTHING)

    def unreadable(_descriptor: int, _size: int, _offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Staging(root, JOB_ID) as staging:
        staging.recover()
        monkeypatch.setattr(os, "pread", unreadable)
        assert staging.part("a.csv", "a.csv", len(BODY)).have is None

    assert listing(staged(root)) == {}


def note_written(root: MirrorRoot, body: bytes) -> None:
    """Add to the journal that these bytes of `a.csv` were written, and write them."""
    (staged(root) / "a.csv.part").write_bytes(body)
    last = json.loads(journal(root).read_bytes().splitlines()[-1])
    with journal(root).open("a") as file:
        file.write(json.dumps({**last, "size": len(body), "crc32": zlib.crc32(body)}) + "\n")


@pytest.mark.parametrize(("body", "resumed"), [(BODY[:-1], True), (BODY, True), (BODY + b"!", False)])
def test_a_file_is_resumed_up_to_its_listed_size_and_not_beyond(root: MirrorRoot, body: bytes, resumed: bool) -> None:
    suspended(root, "a.csv", BODY[:1000])
    note_written(root, body)

    with Staging(root, JOB_ID) as staging:
        staging.recover()
        have = staging.part("a.csv", "a.csv", len(BODY)).have

    assert have == (Have(size=len(body), etag=ETAG) if resumed else None)


def test_a_file_of_more_than_one_piece_is_resumed_without_what_came_after_the_last_note(root: MirrorRoot) -> None:
    body = bytes(range(256)) * (MIB // 256) + b"the rest of it"
    suspended(root, "a.bin", body[: MIB + 5], size=len(body))
    with (staged(root) / "a.bin.part").open("r+b") as file:
        file.seek(MIB + 5)
        file.write(b"?" * 9)

    with Staging(root, JOB_ID) as staging:
        staging.recover()
        part = staging.part("a.bin", "a.bin", len(body))
        assert part.have == Have(size=MIB + 5, etag=ETAG)
        part.write(body[MIB + 5 :])
        stored = part.finish(ETAG)

    assert (staged(root) / "a.bin").read_bytes() == body
    assert stored.sha256 == hashlib.sha256(body).hexdigest()


def test_the_journal_is_private(root: MirrorRoot) -> None:
    before = os.umask(0)
    try:
        suspended(root, "a.csv", BODY[:1000])
    finally:
        os.umask(before)

    assert mode(journal(root)) == 0o600


def test_an_unfinished_file_of_which_no_byte_was_noted_is_removed(root: MirrorRoot) -> None:
    """A kill between the first write and its note."""
    suspended(root, "a.csv", BODY[:1000])
    journal(root).write_bytes(journal(root).read_bytes().splitlines(keepends=True)[0])

    with Staging(root, JOB_ID) as staging:
        staging.recover()
        assert listing(staged(root)) == {}


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
