"""The socket in the state folder through which commands reach the daemon.

Its path is resolved from the open folder, so that no path is too long for the kernel (108 bytes, unix(7)). Only the
owner of the folder and root may use it: the mode of the socket says so, and each end checks who the other one is.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOCKET_NAME: Final = "orders.sock"
_NEW_NAME: Final = "orders.sock.new"
_BACKLOG = 16
#: A daemon that works accepts a connection at once.
_CONNECT_S = 10.0
_PEER: Final = struct.Struct("3i")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The process at the other end, as the kernel knows it: of a listening socket, who began to listen."""

    pid: int
    uid: int


def peer_of(connection: socket.socket) -> Peer:
    """Return who is at the other end (SO_PEERCRED, unix(7))."""
    pid, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return Peer(pid=pid, uid=uid)


@contextmanager
def listening(folder: Path) -> Iterator[socket.socket]:
    """Listen in a folder during the block. The caller has locked the folder: a socket that is there is stale.

    Whatever has the name of the socket is replaced, and nothing is followed. Raises `OSError`.
    """
    with _opened(folder, os.O_RDONLY) as descriptor, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with suppress(FileNotFoundError):
            os.unlink(_NEW_NAME, dir_fd=descriptor)
        listener.bind(_path(descriptor, _NEW_NAME))
        # No process can connect before `listen`, whatever the umask was.
        os.chmod(_NEW_NAME, 0o600, dir_fd=descriptor)
        listener.listen(_BACKLOG)
        listener.setblocking(False)  # noqa: FBT003 - its signature
        ours = _identity(descriptor, _NEW_NAME)
        os.rename(_NEW_NAME, SOCKET_NAME, src_dir_fd=descriptor, dst_dir_fd=descriptor)
        try:
            yield listener
        finally:
            with suppress(OSError):
                if _identity(descriptor, SOCKET_NAME) == ours:
                    os.unlink(SOCKET_NAME, dir_fd=descriptor)


def connect(folder: Path) -> socket.socket | None:
    """Connect to the daemon that works in a folder. None without a daemon: no socket, or a stale one."""
    try:
        with _opened(folder, os.O_PATH) as descriptor:
            found = os.stat(SOCKET_NAME, dir_fd=descriptor, follow_symlinks=False)
            if not stat.S_ISSOCK(found.st_mode):
                return None
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(_CONNECT_S)
                connection.connect(_path(descriptor, SOCKET_NAME))
                if peer_of(connection).uid in {0, os.geteuid(), os.fstat(descriptor).st_uid}:
                    return connection
            except BaseException:
                connection.close()
                raise
            connection.close()
    except OSError:
        pass
    return None


def is_expected(folder: Path) -> bool:
    """Return whether a daemon works in a folder, as far as its socket says. It can be stale."""
    try:
        return stat.S_ISSOCK((folder / SOCKET_NAME).lstat().st_mode)
    except OSError:
        return False


@contextmanager
def _opened(folder: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(folder, flags | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _path(descriptor: int, name: str) -> str:
    return f"/proc/self/fd/{descriptor}/{name}"


def _identity(descriptor: int, name: str) -> tuple[int, int]:
    found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    return found.st_dev, found.st_ino
