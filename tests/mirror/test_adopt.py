"""Published folders without a row: what they say of themselves, believed only after every byte was hashed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dcsync.core.model import How, JobId, RequestId
from dcsync.core.sidecar import Adopted
from dcsync.core.table import TableFacts
from dcsync.errors import DcsyncError, DiskError, MirrorTampered
from dcsync.mirror.adopt import find_snapshots, read_snapshot, read_sums, verify
from dcsync.mirror.root import MirrorRoot, open_root
from tests.fakes import JOB_ID, REQUEST_ID
from tests.rigs.odd import refuse_to_open

FOLDER = "acme/my-company-data-extract-ce9bc188/2026/11/22/120000Z-9bd7c8a0"
FILES = {"admin_users.csv": b"id,name\n", "forms_forms.csv": bytes(range(256)) * 40, "empty.csv": b""}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[MirrorRoot]:
    """An empty root."""
    (tmp_path / "mirror").mkdir()
    with open_root(tmp_path / "mirror") as opened:
        yield opened


def file_entry(name: str, body: bytes) -> dict[str, Any]:
    return {
        "name": name,
        "original": name,
        "size": len(body),
        "crc32": f"{zlib.crc32(body):08x}",
        "md5": None,
        "sha256": hashlib.sha256(body).hexdigest(),
        "etag": '"an etag"',
        "how": "fetched",
    }


def document(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return a sidecar as the first version wrote it: what is published has to be read for ever."""
    return {
        "format": 1,
        "account": {"name": "acme", "id": "872264f8-2433-498d-8d36-16649ecb13fe"},
        "request": {"id": REQUEST_ID, "description": "My Company Data Extract", "delta": False},
        "job": {"id": JOB_ID, "created_at": "2026-11-22T11:00:00.000Z", "completed_at": "2026-11-22T12:00:00.000Z"},
        "files": [file_entry(name, body) for name, body in files.items()],
    }


def publish(root: MirrorRoot, folder: str = FOLDER, files: Mapping[str, bytes] = FILES) -> Path:
    path = root.path / folder
    path.mkdir(parents=True)
    for name, body in files.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(body)
    (path / "_dcsync.json").write_text(json.dumps(document(files)))
    return path


def read(root: MirrorRoot) -> Adopted:
    adopted = read_snapshot(root, FOLDER)
    assert adopted is not None
    return adopted


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_folder_says_whose_it_is_and_what_it_holds(root: MirrorRoot) -> None:
    publish(root)

    adopted = read(root)

    assert (adopted.account, adopted.description, adopted.is_delta) == ("acme", "My Company Data Extract", False)
    assert adopted.created_at == datetime(2026, 11, 22, 11, tzinfo=UTC)
    snapshot = adopted.snapshot
    assert (snapshot.job, snapshot.request, snapshot.folder) == (JobId(JOB_ID), RequestId(REQUEST_ID), FOLDER)
    assert snapshot.completed_at == datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert [stored.name for stored in snapshot.files] == list(FILES)
    first = snapshot.files[0]
    assert (first.size, first.crc32, first.etag, first.how) == (8, zlib.crc32(b"id,name\n"), '"an etag"', How.FETCHED)
    # What the disk says of it is not known before it was looked at.
    assert (first.mtime_ns, first.inode) == (None, None)


@pytest.mark.parametrize("body", ["", "{}", "[]", "\0" * 50, '{"format": 2}', '{"format": 1}', "[" * 100_000])
def test_a_sidecar_that_cannot_be_used_is_none(root: MirrorRoot, body: str) -> None:
    (publish(root) / "_dcsync.json").write_text(body)

    assert read_snapshot(root, FOLDER) is None


@pytest.mark.parametrize("key", ["name", "original", "size", "crc32", "sha256", "how"])
def test_a_sidecar_that_lacks_a_fact_of_a_file_is_none(root: MirrorRoot, key: str) -> None:
    lacking = document(FILES)
    del lacking["files"][1][key]
    (publish(root) / "_dcsync.json").write_text(json.dumps(lacking))

    assert read_snapshot(root, FOLDER) is None


def test_a_folder_without_a_sidecar_and_no_folder_are_none(root: MirrorRoot) -> None:
    (root.path / "acme").mkdir()

    assert read_snapshot(root, "acme") is None
    assert read_snapshot(root, "acme/nothing") is None


def test_a_sidecar_that_is_a_symlink_is_not_followed(root: MirrorRoot, tmp_path: Path) -> None:
    sidecar = publish(root) / "_dcsync.json"
    sidecar.rename(tmp_path / "planted")
    sidecar.symlink_to(tmp_path / "planted")

    with pytest.raises(MirrorTampered):
        read_snapshot(root, FOLDER)


# --- verifying --------------------------------------------------------------------------------------------------------


def test_what_is_as_the_sidecar_says_is_adopted_with_what_the_disk_says_of_it(root: MirrorRoot) -> None:
    path = publish(root)

    verified = verify(root, read(root))

    facts = {name: (path / name).stat() for name in FILES}
    assert {stored.name: (stored.mtime_ns, stored.inode) for stored in verified.snapshot.files} == {
        name: (fact.st_mtime_ns, fact.st_ino) for name, fact in facts.items()
    }
    assert [stored.sha256 for stored in verified.snapshot.files] == [
        hashlib.sha256(body).hexdigest() for body in FILES.values()
    ]


def test_a_file_in_a_folder_of_the_snapshot_is_verified_too(root: MirrorRoot) -> None:
    path = publish(root, files={"schemas/a.csv": b"a", "b.csv": b"b"})
    assert len(verify(root, read(root)).snapshot.files) == 2

    (path / "schemas/a.csv").write_bytes(b"?")

    with pytest.raises(MirrorTampered, match=r"schemas/a\.csv does not match"):
        verify(root, read(root))


@pytest.mark.parametrize("bit", [0, 7, 40_000, 81_919])
def test_one_flipped_bit_is_found_and_the_file_named(root: MirrorRoot, bit: int) -> None:
    damaged = bytearray(FILES["forms_forms.csv"])
    damaged[bit // 8] ^= 1 << bit % 8
    (publish(root) / "forms_forms.csv").write_bytes(damaged)

    with pytest.raises(MirrorTampered, match=rf"{FOLDER}/forms_forms\.csv does not match its SHA-256 in _dcsync\.json"):
        verify(root, read(root))


@pytest.mark.parametrize("length", [0, 10_239, 10_241])
def test_a_file_of_another_length_is_found(root: MirrorRoot, length: int) -> None:
    (publish(root) / "forms_forms.csv").write_bytes((FILES["forms_forms.csv"] * 2)[:length])

    with pytest.raises(MirrorTampered, match=r"forms_forms\.csv does not match"):
        verify(root, read(root))


def test_a_missing_file_is_found_and_named(root: MirrorRoot) -> None:
    (publish(root) / "empty.csv").unlink()

    with pytest.raises(MirrorTampered, match=r"empty\.csv is missing, but _dcsync\.json lists it"):
        verify(root, read(root))


def test_a_symlink_in_the_place_of_a_file_is_not_followed(root: MirrorRoot, tmp_path: Path) -> None:
    path = publish(root)
    (path / "admin_users.csv").rename(tmp_path / "same")
    (path / "admin_users.csv").symlink_to(tmp_path / "same")

    with pytest.raises(MirrorTampered, match=r"admin_users\.csv"):
        verify(root, read(root))


def test_a_sidecar_that_names_a_file_outside_its_folder_is_not_believed(root: MirrorRoot) -> None:
    outside = FILES["admin_users.csv"]
    path = publish(root)
    (path.parent / "outside.csv").write_bytes(outside)
    (path / "_dcsync.json").write_text(json.dumps(document({"../outside.csv": outside})))

    with pytest.raises(MirrorTampered):
        verify(root, read(root))


def test_a_folder_in_the_place_of_a_file_is_an_error_of_ours(root: MirrorRoot) -> None:
    path = publish(root)
    (path / "empty.csv").unlink()
    (path / "empty.csv").mkdir()

    with pytest.raises(DcsyncError, match=r"empty\.csv"):
        verify(root, read(root))


# --- finding ----------------------------------------------------------------------------------------------------------


def test_every_snapshot_is_found_and_nothing_else(root: MirrorRoot, tmp_path: Path) -> None:
    other = "beta/request/2025/01/01/000000Z-0b"
    publish(root)
    publish(root, other)
    publish(root, ".dcsync/staging/not-published")
    (root.path / "acme/no-snapshot/2026").mkdir(parents=True)
    (root.path / "acme/no-snapshot/a.csv").write_bytes(b"a")
    (root.path / "README").write_bytes(b"the operator's")

    assert sorted(find_snapshots(root)) == sorted([FOLDER, other])


def test_a_snapshot_is_not_searched_for_others(root: MirrorRoot) -> None:
    publish(root)
    publish(root, f"{FOLDER}/within")

    assert list(find_snapshots(root)) == [FOLDER]


def test_symlinks_are_not_followed_in_the_search(root: MirrorRoot, tmp_path: Path) -> None:
    publish(root)
    (root.path / "acme/latest").symlink_to(root.path / FOLDER)
    (root.path / "loop").symlink_to(root.path)
    with_snapshot = tmp_path / "elsewhere"
    with_snapshot.mkdir()
    (with_snapshot / "_dcsync.json").write_text("{}")
    (root.path / "elsewhere").symlink_to(with_snapshot)

    assert list(find_snapshots(root)) == [FOLDER]


def test_the_search_ends_in_a_tree_without_end(root: MirrorRoot) -> None:
    publish(root, "/".join(["d"] * 13))
    publish(root, "/".join(["e"] * 14))

    assert list(find_snapshots(root)) == ["/".join(["d"] * 13)]


def test_an_empty_root_has_no_snapshots(root: MirrorRoot) -> None:
    assert list(find_snapshots(root)) == []


def test_a_table_that_its_sidecar_does_not_count_is_counted_while_it_is_hashed(root: MirrorRoot) -> None:
    publish(root, files={"a.csv": b"id\n1\n2\n", "b.html": b"x\n"})
    adopted = read_snapshot(root, FOLDER)
    assert adopted is not None

    verified = verify(root, adopted)

    assert [stored.table for stored in verified.snapshot.files] == [TableFacts(header=("id",), rows=2), None]


def test_what_a_sidecar_says_of_a_table_is_taken_over(root: MirrorRoot) -> None:
    path = publish(root, files={"a.csv": b"id\n1\n2\n"})
    described = document({"a.csv": b"id\n1\n2\n"})
    described["files"][0] |= {"header": ["said"], "rows": 7}
    (path / "_dcsync.json").write_text(json.dumps(described))
    adopted = read_snapshot(root, FOLDER)
    assert adopted is not None

    assert verify(root, adopted).snapshot.files[0].table == TableFacts(header=("said",), rows=7)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_snapshot_is_read_although_its_sums_cannot_be(
    root: MirrorRoot, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = publish(root)
    digest = hashlib.sha256((path / "_dcsync.json").read_bytes()).hexdigest()
    (path / "SHA256SUMS").write_text(f"{digest}  _dcsync.json\n")
    assert read(root).sha256 == digest
    refuse_to_open(monkeypatch, "SHA256SUMS", number)

    assert read(root).sha256 is None
    with pytest.raises(DiskError):
        read_sums(root, FOLDER)


def test_one_folder_that_cannot_be_listed_does_not_end_the_search(
    root: MirrorRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(root)
    (root.path / "broken").mkdir()
    scan = os.scandir

    def refuse(folder: int) -> Any:
        if Path(f"/proc/self/fd/{folder}").readlink().name == "broken":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)

    assert list(find_snapshots(root)) == [FOLDER]


def test_the_hidden_copy_of_a_snapshot_is_not_one(root: MirrorRoot) -> None:
    publish(root)
    publish(root, f"{FOLDER.rpartition('/')[0]}/.dcsync-0123456789abcdef")

    assert list(find_snapshots(root)) == [FOLDER]
