"""The socket in the state folder."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dcsync.orders.place import SOCKET_NAME, Peer, connect, listening, peer_of


def test_both_ends_know_each_other(tmp_path: Path) -> None:
    with listening(tmp_path) as listener:
        connection = connect(tmp_path)
        assert connection is not None
        accepted, _ = listener.accept()

        with connection, accepted:
            assert peer_of(connection) == peer_of(accepted) == Peer(pid=os.getpid(), uid=os.geteuid())
        found = (tmp_path / SOCKET_NAME).lstat()
        assert (stat.S_ISSOCK(found.st_mode), stat.S_IMODE(found.st_mode)) == (True, 0o600)
    assert list(tmp_path.iterdir()) == []


def test_a_path_may_be_longer_than_the_kernel_takes(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120) / ("y" * 120)
    folder.mkdir(parents=True)

    with listening(folder):
        connection = connect(folder)

        assert connection is not None
        connection.close()


def test_without_a_daemon_there_is_no_connection(tmp_path: Path) -> None:
    assert connect(tmp_path / "missing") is None
    assert connect(tmp_path) is None
    # What a killed daemon leaves.
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / SOCKET_NAME))
        stale.listen()
    assert connect(tmp_path) is None


@pytest.mark.parametrize("kind", ["stale", "link", "dangling", "file"])
def test_what_has_the_name_is_replaced_and_not_followed(tmp_path: Path, kind: str) -> None:
    folder, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    for name in (SOCKET_NAME, f"{SOCKET_NAME}.new"):
        place = folder / name
        match kind:
            case "stale":
                with socket.socket(socket.AF_UNIX) as stale:
                    stale.bind(str(place))
            case "file":
                place.write_text("x")
            case _:
                target = elsewhere / name
                place.symlink_to(target)
                if kind == "link":
                    target.write_text("kept")
                    target.chmod(0o644)

    with listening(folder):
        assert stat.S_ISSOCK((folder / SOCKET_NAME).lstat().st_mode)
        connection = connect(folder)
        assert connection is not None
        connection.close()

    assert list(folder.iterdir()) == []
    assert {path.read_text() for path in elsewhere.iterdir()} == ({"kept"} if kind == "link" else set())
    assert {stat.S_IMODE(path.stat().st_mode) for path in elsewhere.iterdir()} <= {0o644}


def test_a_client_follows_no_link(tmp_path: Path) -> None:
    """Somebody else's socket would see the order."""
    other, folder = tmp_path / "other", tmp_path / "state"
    other.mkdir()
    folder.mkdir()
    with listening(other):
        (folder / SOCKET_NAME).symlink_to(other / SOCKET_NAME)

        assert connect(folder) is None


@pytest.mark.parametrize("name", [SOCKET_NAME, f"{SOCKET_NAME}.new"])
def test_a_folder_in_its_place_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()

    with pytest.raises(OSError, match="directory"), listening(tmp_path):
        pass


def test_the_socket_of_a_later_daemon_stays(tmp_path: Path) -> None:
    with listening(tmp_path):
        (tmp_path / SOCKET_NAME).unlink()
        with socket.socket(socket.AF_UNIX) as later:
            later.bind(str(tmp_path / SOCKET_NAME))

    assert (tmp_path / SOCKET_NAME).exists()


@pytest.mark.needs_root
def test_another_user_is_kept_out_by_the_mode_and_known_by_the_kernel(tmp_path: Path) -> None:
    script = """
import os, socket, sys
os.chdir(sys.argv[1])
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as connection:
    try:
        connection.connect(sys.argv[2])
    except PermissionError:
        sys.exit(7)
"""

    def as_another() -> int:
        command = [sys.executable, "-c", script, str(tmp_path), SOCKET_NAME]
        return subprocess.run(command, check=False).returncode

    tmp_path.chmod(0o711)
    with listening(tmp_path) as listener:
        assert as_another() == 7
        (tmp_path / SOCKET_NAME).chmod(0o666)
        assert as_another() == 0
        accepted, _ = listener.accept()
        with accepted:
            assert peer_of(accepted).uid == 65534
        # The socket of another user in a folder of ours is not the daemon's.
        os.chown(tmp_path, 65534, 65534)
        connection = connect(tmp_path)
        assert connection is not None
        connection.close()
