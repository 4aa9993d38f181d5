"""The lock of a root: it has one holder, and it is free after that holder was killed."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dcsync.errors import (
    DiskError,
    DiskFull,
    MirrorLocked,
    MirrorTampered,
)
from dcsync.mirror.root import FileLock, MirrorRoot, locked
from tests.rigs.ended import LIMIT_S

#: Holds the mirror until its standard input ends.
HOLD = """
import sys
from pathlib import Path
from typing import Any
from dcsync.mirror.root import locked, open_root
with open_root(Path(sys.argv[1])) as root, locked(root, role="daemon"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another_process(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that holds the mirror."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def test_a_second_holder_is_told_who_the_first_one_is(root: MirrorRoot) -> None:
    with (
        held_by_another_process(root.path) as process,
        pytest.raises(MirrorLocked, match=f"pid {process.pid} \\(daemon\\) on ") as caught,
        locked(root, role="sync"),
    ):
        pass

    assert (caught.value.pid, caught.value.role) == (process.pid, "daemon")


def test_the_lock_is_free_at_once_after_its_holder_was_killed(root: MirrorRoot) -> None:
    with held_by_another_process(root.path) as process:
        process.kill()
        process.wait(LIMIT_S)

        with locked(root, role="sync"):
            holder = (root.path / ".dcsync/lock").read_text().split()

    assert holder[:2] == [str(os.getpid()), "sync"]


def test_the_lock_is_exclusive_within_a_process_too_and_free_when_left(root: MirrorRoot) -> None:
    with locked(root, role="daemon"), pytest.raises(MirrorLocked) as caught, locked(root, role="sync"):
        pass
    assert caught.value.pid == os.getpid()

    with locked(root, role="sync"):
        pass

    assert (root.path / ".dcsync/lock").exists()


def test_trying_the_lock_does_not_write_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("4711 daemon elsewhere\n")

    with FileLock(path, "the mirror", role=None):
        pass

    assert path.read_text() == "4711 daemon elsewhere\n"


@pytest.mark.parametrize("note", ["", "no pid here\n", "\x1b[31m"])
def test_a_lock_whose_note_cannot_be_read_is_held_all_the_same(tmp_path: Path, note: str) -> None:
    path = tmp_path / "lock"
    with FileLock(path, "the state folder", role=None):
        path.write_text(note)

        with (
            pytest.raises(MirrorLocked, match=r"another dcsync holds the state folder$") as caught,
            FileLock(path, "the state folder", role="sync"),
        ):
            pass

    assert caught.value.pid is None


def test_a_lock_that_is_a_symlink_is_not_followed(root: MirrorRoot, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (root.path / ".dcsync").mkdir()
    (root.path / ".dcsync/lock").symlink_to(tmp_path / "precious")

    with pytest.raises(MirrorTampered), locked(root, role="sync"):
        pass

    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_lock_that_cannot_be_written_is_held_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon tries again to open the mirror: it must not meet its own lock (docs/project/faults.md F6)."""
    path = tmp_path / "lock"
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", failing(errno.ENOSPC))
        with pytest.raises(DiskFull, match="writing the lock"), FileLock(path, "the mirror", role="run"):
            pass

    with FileLock(path, "the mirror", role="run"):
        assert path.read_text().startswith(f"{os.getpid()} run ")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_lock_that_fails_to_close_is_free_or_held_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path, close = tmp_path / "lock", os.close

    def close_and_fail(descriptor: int) -> None:
        close(descriptor)
        raise OSError(number, os.strerror(number))

    with FileLock(path, "the mirror", role="run"), monkeypatch.context() as patched:
        patched.setattr(os, "close", close_and_fail)
        with pytest.raises(MirrorLocked, match=f"pid {os.getpid()}"), FileLock(path, "the mirror", role=None):
            pass
    with monkeypatch.context() as patched:
        patched.setattr(os, "close", close_and_fail)
        with FileLock(path, "the mirror", role=None):
            pass


@pytest.mark.parametrize(("name", "doing"), [("flock", "locking"), ("pread", "locking")])
def test_what_the_system_says_of_a_lock_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, doing: str
) -> None:
    path = tmp_path / "lock"
    with FileLock(path, "the mirror", role="run"), monkeypatch.context() as patched:
        patched.setattr(fcntl if name == "flock" else os, name, failing(errno.EIO))
        with pytest.raises(DiskError, match=doing), FileLock(path, "the mirror", role=None):
            pass


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail
