"""The staging: whole or `.part`, resumed only when it can be proved, published in one step."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dcsync.core.model import How, JobId, Snapshot, StoredFile
from dcsync.core.names import assign_paths
from dcsync.core.table import TableFacts, count
from dcsync.core.transfer import Have
from dcsync.errors import DiskDenied, DiskError, DiskFault, DiskFull, DiskReadOnly, MirrorTampered, SizeMismatch
from dcsync.mirror import disk
from dcsync.mirror.root import MirrorRoot, open_root
from dcsync.mirror.staging import (
    Hashers,
    Staging,
    discard_staging,
    hash_descriptor,
    holder_of,
    staged_jobs,
    staged_leaf,
    staging_leaf,
)
from tests.fakes import JOB_ID, make_snapshot, make_stored

FOLDER = "acme/request/2026/11/22/120000Z-9bd7c8a0"
BODY = b"id,name\n" + bytes(range(256)) * 20
ETAG = '"9f86d081884c7d65"'
MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Iterator[MirrorRoot]:
    """An empty root."""
    (tmp_path / "mirror").mkdir()
    with open_root(tmp_path / "mirror") as opened:
        yield opened


@pytest.fixture
def staging(root: MirrorRoot) -> Iterator[Staging]:
    """The staging of one job."""
    with Staging(root, JOB_ID) as opened:
        yield opened


@contextmanager
def small_mirror(path: Path) -> Iterator[MirrorRoot]:
    """A root on a disk of 1 MiB."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", path], check=True)
    try:
        with open_root(path) as root:
            yield root
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def staged(root: MirrorRoot) -> Path:
    return root.path / ".dcsync/staging" / JOB_ID


def journal(root: MirrorRoot) -> Path:
    return root.path / ".dcsync/staging" / f"{JOB_ID}.journal"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def listing(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def stage(staging: Staging, name: str = "admin_users.csv", body: bytes = BODY, etag: str | None = None) -> StoredFile:
    """Write a file into the staging, as a download does."""
    part = staging.part(name, name, len(body))
    part.begin(etag)
    part.write(body)
    return part.finish(etag)


def suspended(root: MirrorRoot, name: str, body: bytes, *, size: int = len(BODY), etag: str = ETAG) -> None:
    """Leave an unfinished file, as a run does that is told to stop."""
    with Staging(root, JOB_ID) as staging:
        part = staging.part(name, name, size)
        part.begin(etag)
        part.write(body)
        part.suspend()


def publish_before(root: MirrorRoot, files: Mapping[str, bytes]) -> Snapshot:
    """Put an earlier snapshot into the tree, and return it as the manifest knows it."""
    snapshot = make_snapshot({})
    stored = []
    for name, body in files.items():
        path = root.path / snapshot.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        path.chmod(0o444)
        facts = path.stat()
        stored.append(make_stored(name, body, mtime_ns=facts.st_mtime_ns, inode=facts.st_ino))
    return replace(snapshot, files=tuple(stored))


# --- hashes -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=200), max_size=8), st.booleans())
def test_hashes_do_not_depend_on_how_the_bytes_came(pieces: list[bytes], with_md5: bool) -> None:
    hashers = Hashers(with_md5=with_md5)
    whole = b"".join(pieces)

    for piece in pieces:
        hashers.update(piece)

    digest = hashers.digest()
    assert (digest.size, digest.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert digest.crc32 == zlib.crc32(whole)
    assert digest.md5 == (hashlib.md5(whole, usedforsecurity=False).hexdigest() if with_md5 else None)


def test_a_file_is_hashed_from_its_beginning_and_its_progress_told(tmp_path: Path) -> None:
    body = os.urandom(2 * MIB + 17)
    (tmp_path / "file").write_bytes(body)
    told: list[int] = []

    with (tmp_path / "file").open("rb") as file:
        file.seek(1000)
        digest = hash_descriptor(file.fileno(), each=told.append)

    assert digest.sha256 == hashlib.sha256(body).hexdigest()
    assert told == [MIB, MIB, 17]


# --- one file ---------------------------------------------------------------------------------------------------------


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


def test_a_linked_table_has_the_rows_that_were_recorded(root: MirrorRoot, staging: Staging) -> None:
    previous = publish_before(root, {"a.csv": BODY, "b.html": BODY})
    recorded = TableFacts(header=("said",), rows=99)

    linked = staging.link(previous, replace(previous.files[0], table=recorded), "a.csv")
    other = staging.link(previous, previous.files[1], "b.html")

    assert linked is not None
    assert linked.table == recorded
    assert other is not None
    assert other.table is None


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

    with pytest.raises(SizeMismatch, match="9 bytes, the listing says 10"):
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


# --- disk full --------------------------------------------------------------------------------------------------------


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
def test_a_sidecar_that_does_not_fit_is_disk_full(tmp_path: Path) -> None:
    with (
        small_mirror(tmp_path / "mirror") as root,
        Staging(root, JOB_ID) as staging,
        pytest.raises(DiskFull, match=r"writing _dcsync\.json"),
    ):
        staging.write_own("_dcsync.json", b"x" * 2 * MIB)


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


# --- resuming ---------------------------------------------------------------------------------------------------------


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
            read_journal = staging._read_journal()
            monkeypatch.setattr(staging, "_read_journal", lambda: read_journal)
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


# --- recovering -------------------------------------------------------------------------------------------------------


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


# --- names with folders -----------------------------------------------------------------------------------------------


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


@given(st.lists(st.text(alphabet="aé/", min_size=1, max_size=300), min_size=2, max_size=2, unique=True))
def test_two_names_never_share_a_place_in_the_staging(pair: list[str]) -> None:
    leaves = [staged_leaf(name) for name in pair]

    assert leaves[0] != leaves[1]
    assert all("/" not in leaf and len(leaf.encode()) <= 200 for leaf in leaves)


#: Names that look like what the staging makes of others: `.part`, escapes, hashes of long names.
LONG = "x" * 198
TOO_LONG = LONG[:194] + ".part"
HASH_OF_TOO_LONG = "~" + hashlib.sha256(TOO_LONG.encode()).hexdigest()[:32]
ORIGINALS = st.one_of(
    st.text(alphabet="a./%27Epart~", max_size=12),
    st.sampled_from(["a", "a.part", "a.part.part", "a.part%7E", "a.PART", "s/a", "S/a", "s/a.part", "s%2Fa", ".part"]),
    st.sampled_from([LONG, LONG + ".part", LONG[:190] + "/a.csv", TOO_LONG, HASH_OF_TOO_LONG]),
)


@given(st.lists(ORIGINALS, max_size=6), st.lists(ORIGINALS, max_size=6))
@example([TOO_LONG, HASH_OF_TOO_LONG], [])
@example(["s/a"], ["S/a"])
@example(["a", "a.PART"], [])
def test_no_name_shares_its_place_with_another_or_with_one_that_is_on_its_way(
    listed: list[str], further: list[str]
) -> None:
    paths = set(assign_paths(listed, further).values())

    leaves = {staged_leaf(path).casefold() for path in paths}

    assert len(leaves) == len(paths)
    assert leaves.isdisjoint({leaf + ".part" for leaf in leaves})
    assert all("/" not in leaf and len(leaf.encode()) <= 200 for leaf in leaves)


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


# --- linking ----------------------------------------------------------------------------------------------------------


def test_an_unchanged_file_is_a_hard_link_and_takes_no_room(root: MirrorRoot, staging: Staging) -> None:
    previous = publish_before(root, {"admin_users.csv": BODY})
    before = root.path / previous.folder / "admin_users.csv"

    linked = staging.link(previous, previous.files[0], "admin_users.csv")

    assert linked == replace(previous.files[0], how=How.LINKED, table=count([BODY]))
    assert (staged(root) / "admin_users.csv").stat().st_ino == before.stat().st_ino
    assert before.stat().st_nlink == 2
    assert staging.recover().keys() == {"admin_users.csv"}


def test_a_file_is_linked_under_the_name_it_has_now(root: MirrorRoot, staging: Staging) -> None:
    previous = publish_before(root, {"folder/old.csv": BODY})

    linked = staging.link(previous, previous.files[0], "folder/new.csv")

    assert linked is not None
    assert linked.name == "folder/new.csv"
    assert linked.original == "folder/old.csv"
    assert listing(staged(root)) == {"folder%7Enew.csv": BODY}


@pytest.mark.parametrize("changes", [{"mtime_ns": 1}, {"inode": 1}, {"mtime_ns": None, "inode": None}])
def test_a_file_whose_time_or_inode_differ_is_linked_when_its_hash_is_right(
    root: MirrorRoot, staging: Staging, changes: dict[str, int | None]
) -> None:
    previous = publish_before(root, {"a.csv": BODY})
    facts = (root.path / previous.folder / "a.csv").stat()

    linked = staging.link(previous, make_stored("a.csv", BODY, **changes), "a.csv")

    assert linked is not None
    assert (linked.mtime_ns, linked.inode) == (facts.st_mtime_ns, facts.st_ino)
    assert (staged(root) / "a.csv").stat().st_ino == facts.st_ino


@pytest.mark.parametrize("linkable", [True, False], ids=["linked", "copied"])
def test_a_file_that_cannot_be_read_any_more_is_not_linked(
    root: MirrorRoot, staging: Staging, monkeypatch: pytest.MonkeyPatch, linkable: bool
) -> None:
    """A bad sector in yesterday's snapshot: `verify` tells of it, and today's is fetched."""
    previous = publish_before(root, {"a.csv": BODY})
    if linkable:
        os.utime(root.path / previous.folder / "a.csv", ns=(0, 0))

    def refuse(*_: object, **_options: object) -> None:
        raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))

    def unreadable(_descriptor: int, _size: int, _offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", unreadable)
    if not linkable:
        monkeypatch.setattr(os, "link", refuse)

    assert staging.link(previous, previous.files[0], "a.csv") is None
    assert listing(staged(root)) == {}


def test_a_file_that_is_not_as_recorded_any_more_is_not_linked(root: MirrorRoot, staging: Staging) -> None:
    previous = publish_before(root, {"a.csv": BODY})
    path = root.path / previous.folder / "a.csv"
    path.chmod(0o644)
    path.write_bytes(BODY[:-1] + b"?")
    os.utime(path, ns=(0, 0))

    assert staging.link(previous, previous.files[0], "a.csv") is None
    assert listing(staged(root)) == {}
    assert journal(root).read_bytes() == b""


def test_a_file_of_another_length_is_not_linked_whatever_its_time(root: MirrorRoot, staging: Staging) -> None:
    previous = publish_before(root, {"a.csv": BODY})
    path = root.path / previous.folder / "a.csv"
    path.chmod(0o644)
    path.write_bytes(BODY + b"more")
    os.utime(path, ns=(0, previous.files[0].mtime_ns or 0))

    assert staging.link(previous, previous.files[0], "a.csv") is None
    assert listing(staged(root)) == {}


@pytest.mark.parametrize("gone", ["file", "folder"])
def test_a_file_that_is_gone_is_not_linked(root: MirrorRoot, staging: Staging, gone: str) -> None:
    previous = publish_before(root, {"a.csv": BODY})
    (root.path / previous.folder / "a.csv").unlink()
    if gone == "folder":
        (root.path / previous.folder).rmdir()

    assert staging.link(previous, previous.files[0], "a.csv") is None
    assert listing(staged(root)) == {}


def test_a_symlink_in_the_place_of_an_earlier_file_is_not_followed(
    root: MirrorRoot, staging: Staging, tmp_path: Path
) -> None:
    previous = publish_before(root, {"a.csv": BODY})
    (tmp_path / "same").write_bytes(BODY)
    (root.path / previous.folder / "a.csv").unlink()
    (root.path / previous.folder / "a.csv").symlink_to(tmp_path / "same")

    with pytest.raises(MirrorTampered):
        staging.link(previous, previous.files[0], "a.csv")

    assert listing(staged(root)) == {}


def test_linking_again_replaces_what_was_staged_and_leaves_its_other_names_alone(
    root: MirrorRoot, staging: Staging
) -> None:
    previous = publish_before(root, {"a.csv": BODY, "b.csv": b"other"})
    staging.link(previous, previous.files[0], "a.csv")

    staging.link(previous, previous.files[1], "a.csv")

    assert listing(staged(root)) == {"a.csv": b"other"}
    assert listing(root.path / previous.folder) == {"a.csv": BODY, "b.csv": b"other"}


@pytest.mark.needs_root
def test_where_no_hard_link_can_be_made_the_file_is_copied(root: MirrorRoot, staging: Staging) -> None:
    (root.path / "acme").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", root.path / "acme"], check=True)
    try:
        body = os.urandom(2 * MIB + 5)
        previous = publish_before(root, {"a.csv": body})

        linked = staging.link(previous, previous.files[0], "a.csv")

        copy = staged(root) / "a.csv"
        assert copy.read_bytes() == body
        assert mode(copy) == 0o444
        assert linked is not None
        assert (linked.inode, linked.mtime_ns) == (copy.stat().st_ino, copy.stat().st_mtime_ns)
        assert copy.stat().st_dev != (root.path / previous.folder).stat().st_dev
        assert linked.sha256 == hashlib.sha256(body).hexdigest()
    finally:
        subprocess.run(["umount", "-l", root.path / "acme"], check=True)


# --- publishing -------------------------------------------------------------------------------------------------------


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

    assert not published
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


# --- leaving ----------------------------------------------------------------------------------------------------------


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


def test_a_job_whose_id_is_no_name_is_staged_under_a_safe_one(root: MirrorRoot) -> None:
    with Staging(root, JobId("../../x")) as staging:
        stage(staging)

    assert listing(root.path / ".dcsync/staging" / staging.leaf) == {"admin_users.csv": BODY}
    assert staged_jobs(root) == {staging.leaf}


def test_a_closed_staging_leaves_no_descriptor_open(root: MirrorRoot) -> None:
    before = set(Path("/proc/self/fd").iterdir())

    with Staging(root, JOB_ID) as staging:
        stage(staging)
        part = staging.part("b.csv", "b.csv", 10)
        part.write(b"x")
        part.discard()
        staging.publish(FOLDER)

    assert set(Path("/proc/self/fd").iterdir()) <= before


# --- several holders, one after another -------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("leaf", "holder"),
    [
        ("job", ("job", 0)),
        ("job%7E12", ("job", 12)),
        ("job%7E12%7Eabc", ("job", 12)),
        ("latest.x%7Eh3", ("latest.x", 0)),
    ],
)
def test_a_name_in_the_staging_tells_its_job_and_holder(leaf: str, holder: tuple[str, int]) -> None:
    assert holder_of(leaf) == holder
