"""An unchanged file of an earlier snapshot, staged without a download."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcsync.core.model import How
from dcsync.core.table import TableFacts, count
from dcsync.errors import DiskError
from dcsync.mirror.root import MirrorRoot, open_root
from dcsync.mirror.staging import Staging
from tests.fakes import JOB_ID, make_stored
from tests.rigs.odd import ODD_KINDS, overlay, plant, refuse_to_open
from tests.rigs.staged import (
    BODY,
    MIB,
    journal,
    listing,
    mode,
    publish_before,
    stage,
    staged,
)


def test_a_linked_table_has_the_rows_that_were_recorded(root: MirrorRoot, staging: Staging) -> None:
    previous = publish_before(root, {"a.csv": BODY, "b.html": BODY})
    recorded = TableFacts(header=("said",), rows=99)

    linked = staging.link(previous, replace(previous.files[0], table=recorded), "a.csv")
    other = staging.link(previous, previous.files[1], "b.html")

    assert linked is not None
    assert linked.table == recorded
    assert other is not None
    assert other.table is None


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


def test_a_file_with_the_recorded_size_time_and_inode_is_not_read(
    root: MirrorRoot, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    previous = publish_before(root, {"a.csv": BODY})
    counted = replace(previous.files[0], table=TableFacts(header=("said",), rows=99))

    def refuse(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", refuse)

    assert staging.link(previous, counted, "a.csv") == replace(counted, how=How.LINKED)


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


@pytest.mark.parametrize("kind", ODD_KINDS)
def test_an_odd_entry_in_the_place_of_an_earlier_file_is_fetched_instead(
    root: MirrorRoot, staging: Staging, kind: str
) -> None:
    previous = publish_before(root, {"schemas/a.csv": BODY})
    place = root.path / previous.folder / "schemas/a.csv"
    place.unlink()
    plant(kind, place)
    facts = place.lstat()
    as_it_is = replace(previous.files[0], size=facts.st_size, mtime_ns=facts.st_mtime_ns, inode=facts.st_ino)

    assert staging.link(previous, previous.files[0], "schemas/a.csv") is None
    assert staging.link(previous, as_it_is, "schemas/a.csv") is None
    assert listing(staged(root)) == {}


@pytest.mark.parametrize("above", ["schemas", "."])
@pytest.mark.parametrize("kind", [kind for kind in ODD_KINDS if kind != "folder"])
def test_an_odd_entry_in_the_place_of_a_folder_above_an_earlier_file_means_fetch_it(
    root: MirrorRoot, staging: Staging, kind: str, above: str
) -> None:
    previous = publish_before(root, {"schemas/a.csv": BODY})
    place = root.path / previous.folder / above
    place.rename(root.path / "elsewhere")
    plant(kind, place)

    assert staging.link(previous, previous.files[0], "schemas/a.csv") is None
    assert listing(staged(root)) == {}


def test_an_earlier_file_that_may_not_be_read_is_fetched_instead(
    root: MirrorRoot, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    previous = publish_before(root, {"a.csv": BODY})
    refuse_to_open(monkeypatch, "a.csv", errno.EACCES)

    assert staging.link(previous, previous.files[0], "a.csv") is None


def test_a_shortage_of_descriptors_says_nothing_about_the_earlier_file(
    root: MirrorRoot, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    previous = publish_before(root, {"a.csv": BODY})
    refuse_to_open(monkeypatch, "a.csv", errno.EMFILE)

    with pytest.raises(DiskError, match="Too many open files"):
        staging.link(previous, previous.files[0], "a.csv")


def replace_before_linking(monkeypatch: pytest.MonkeyPatch, place: Path, put: Callable[[Path], object]) -> None:
    """Let another program replace a file between its check and its link."""
    link = os.link

    def replace_first(source: str, target: str, **options: Any) -> None:
        place.rename(place.with_name("moved.csv"))
        put(place)
        link(source, target, **options)

    monkeypatch.setattr(os, "link", replace_first)


@pytest.mark.parametrize("staged_before", [{}, {"a.csv": BODY}], ids=["nothing staged", "staged"])
@pytest.mark.parametrize(
    "put",
    [lambda place: place.write_bytes(BODY[:-1] + b"?"), lambda place: place.symlink_to("moved.csv"), os.mkfifo],
    ids=["another file", "a symlink to it", "a FIFO"],
)
def test_a_file_that_is_replaced_at_the_last_moment_is_not_linked(
    root: MirrorRoot,
    staging: Staging,
    monkeypatch: pytest.MonkeyPatch,
    put: Callable[[Path], object],
    staged_before: dict[str, bytes],
) -> None:
    previous = publish_before(root, {"a.csv": BODY})
    for name, body in staged_before.items():
        stage(staging, name, body)
    replace_before_linking(monkeypatch, root.path / previous.folder / "a.csv", put)

    assert staging.link(previous, previous.files[0], "a.csv") is None
    assert listing(staged(root)) == staged_before
    assert {path.name for path in staged(root).iterdir()} == staged_before.keys()


def test_a_file_that_is_replaced_by_an_equal_one_is_linked(
    root: MirrorRoot, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an overlay does: it copies the file out of its lower layer before it links it."""
    previous = publish_before(root, {"a.csv": BODY})
    place = root.path / previous.folder / "a.csv"
    replace_before_linking(monkeypatch, place, lambda copy: copy.write_bytes(BODY))

    linked = staging.link(previous, previous.files[0], "a.csv")

    assert linked is not None
    assert (linked.inode, linked.mtime_ns) == (place.stat().st_ino, place.stat().st_mtime_ns)
    assert place.stat().st_nlink == 2


@pytest.mark.needs_root
def test_a_file_in_the_lower_layer_of_an_overlay_is_linked(tmp_path: Path) -> None:
    with overlay(tmp_path) as (lower, merged):
        with open_root(lower) as below:
            previous = publish_before(below, {"a.csv": BODY})
        # Two snapshots share it. Such a file gets another inode when it is copied out of its layer.
        (lower / "older.csv").hardlink_to(lower / previous.folder / "a.csv")
        with open_root(merged) as root, Staging(root, JOB_ID) as staging:
            place = root.path / previous.folder / "a.csv"
            before = place.stat()
            linked = staging.link(previous, previous.files[0], "a.csv")

            assert linked is not None
            assert listing(staged(root)) == {"a.csv": BODY}
            assert (staged(root) / "a.csv").stat().st_ino == linked.inode
            assert (before.st_dev, before.st_ino) != (place.stat().st_dev, place.stat().st_ino)


def test_linking_leaves_no_descriptor_open(root: MirrorRoot, staging: Staging) -> None:
    previous = publish_before(root, {"a.csv": BODY})
    before = set(Path("/proc/self/fd").iterdir())

    staging.link(previous, previous.files[0], "a.csv")
    staging.link(previous, replace(previous.files[0], size=1), "b.csv")

    assert set(Path("/proc/self/fd").iterdir()) <= before


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
