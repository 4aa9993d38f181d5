"""Files are opened only if they are regular files, and nothing in their place can hold the opener up."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcsync.opening import NotRegular, denied_path, full_path, open_regular, read_regular
from tests.rigs.odd import ODD_KINDS, plant, refuse_to_open

WAYS = {
    "read": os.O_RDONLY,
    "write": os.O_WRONLY,
    "both": os.O_RDWR,
    "create": os.O_RDWR | os.O_CREAT,
    "truncate": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "append": os.O_RDWR | os.O_CREAT | os.O_APPEND,
}
ARTICLES = {"FIFO": "a FIFO", "socket": "a socket", "symlink": "a symlink", "folder": "a folder", "device": "a device"}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """The descriptor of an empty folder."""
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ODD_KINDS)
def test_an_odd_entry_is_refused_at_once_and_named(tmp_path: Path, folder: int, kind: str, way: str) -> None:
    plant(kind, tmp_path / "a.csv")
    before = set(Path("/proc/self/fd").iterdir())

    with pytest.raises(NotRegular) as caught:
        open_regular("a.csv", WAYS[way], below=folder)

    assert caught.value.filename == str(tmp_path / "a.csv")
    assert caught.value.strerror == f"it is {ARTICLES[kind]}, not a regular file"
    assert set(Path("/proc/self/fd").iterdir()) <= before
    if kind == "symlink":
        assert (tmp_path / "a.csv.target").read_bytes() == b"elsewhere"


def test_a_fifo_with_a_writer_is_refused_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    both = os.open(tmp_path / "a.csv", os.O_RDWR)
    try:
        with pytest.raises(NotRegular):
            read_regular(tmp_path / "a.csv")
    finally:
        os.close(both)


def test_an_entry_that_vanishes_while_it_is_looked_at_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_to_open(monkeypatch, "a.csv", errno.ENXIO)

    with pytest.raises(NotRegular, match="it is something else, not a regular file"):
        open_regular(tmp_path / "a.csv")


def test_a_regular_file_is_read_and_its_descriptor_is_not_inherited(tmp_path: Path, folder: int) -> None:
    (tmp_path / "a.csv").write_bytes(b"rows")

    descriptor = open_regular("a.csv", below=folder)

    assert os.read(descriptor, 10) == b"rows"
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)
    assert read_regular(tmp_path / "a.csv") == b"rows"


def test_a_new_file_has_the_mode_that_was_asked_for(tmp_path: Path, folder: int) -> None:
    os.close(open_regular("a", os.O_RDWR | os.O_CREAT | os.O_EXCL, below=folder))
    os.close(open_regular("b", os.O_RDWR | os.O_CREAT, 0o644, below=folder))

    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [0o600, 0o644]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO, errno.EMFILE])
def test_any_other_error_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    refuse_to_open(monkeypatch, "a.csv", number)

    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        open_regular(tmp_path / "a.csv")

    assert not isinstance(caught.value, NotRegular)


@pytest.mark.parametrize("there", [True, False])
def test_a_missing_permission_names_the_file_or_the_folder_that_it_would_be_in(
    tmp_path: Path, folder: int, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    if there:
        (tmp_path / "a.csv").touch()
    refuse_to_open(monkeypatch, "a.csv", errno.EACCES)

    with pytest.raises(PermissionError) as caught:
        open_regular("a.csv", os.O_RDWR | os.O_CREAT, below=folder)

    assert caught.value.filename == str(tmp_path / "a.csv" if there else tmp_path)


def test_a_path_is_shown_in_full(tmp_path: Path, folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert full_path("a", None) == full_path("a", folder) == str(tmp_path / "a")
    assert denied_path("a", folder) == denied_path("a") == str(tmp_path)


def test_without_proc_a_path_is_shown_as_far_as_it_is_known(folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(os, "readlink", refuse)

    assert full_path("a/b", folder) == "a/b"


def test_a_file_that_a_file_server_leased_is_opened_when_it_gives_the_lease_back(tmp_path: Path, folder: int) -> None:
    """Samba leases the files that its clients cache. An open that does not wait is refused meanwhile."""
    (tmp_path / "a.csv").write_bytes(b"rows")
    leased = os.open(tmp_path / "a.csv", os.O_RDWR)

    def give_back(*_: object) -> None:
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    before = signal.signal(signal.SIGIO, give_back)
    try:
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        descriptor = open_regular("a.csv", below=folder)
        assert os.read(descriptor, 10) == b"rows"
        os.close(descriptor)
    finally:
        os.close(leased)
        signal.signal(signal.SIGIO, before)


@pytest.mark.parametrize("kind", [kind for kind in ODD_KINDS if kind != "folder"])
def test_an_odd_entry_that_takes_the_place_of_a_leased_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    plant(kind, tmp_path / "a.csv")
    opening = os.open

    def as_if_leased(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_NONBLOCK:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        return opening(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", as_if_leased)

    with pytest.raises(NotRegular):
        open_regular(tmp_path / "a.csv")
