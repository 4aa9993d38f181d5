"""Open files, and nothing else that has the name of a file.

Other programs can write into the mirror. A FIFO in the place of a file would block its reader for good, a symlink leads
somewhere else, and to open a device can have any effect. Every file of the mirror and of the state folder is therefore
opened here.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_SAFE = os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
#: The errors for a symlink, a socket, a FIFO to write to, a device without a driver, and a folder to write to.
_ODD = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR})
_KINDS = {
    stat.S_IFLNK: "a symlink",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


class NotRegular(OSError):
    """There is something other than a regular file: a FIFO, a socket, a symlink, a device or a folder."""


def open_regular(path: str | Path, flags: int = os.O_RDONLY, mode: int = 0o600, *, below: int | None = None) -> int:
    """Open a regular file and return its descriptor. Never waits for another program, and never follows a symlink.

    `below` is the descriptor of a folder. Raises `NotRegular` for anything but a regular file, and `PermissionError`
    with the full path of what may not be used.
    """
    try:
        descriptor = os.open(path, flags | _SAFE, mode, dir_fd=below)
    except BlockingIOError:
        return _open_leased(path, flags, below)
    except PermissionError as error:
        raise PermissionError(error.errno, error.strerror, denied_path(path, below)) from None
    except OSError as error:
        if error.errno not in _ODD:
            raise
        raise _not_regular(path, below) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path, below)
    return descriptor


def read_regular(path: str | Path, *, below: int | None = None) -> bytes:
    """Return the content of a small regular file. Raises the errors of `open_regular`."""
    with os.fdopen(open_regular(path, below=below), "rb") as file:
        return file.read()


def full_path(path: str | Path, below: int | None) -> str:
    """Return the full path of a name below an open folder, for messages."""
    if below is None:
        return str(Path(path).absolute())
    try:
        return str(Path(f"/proc/self/fd/{below}").readlink() / path)
    except OSError:
        return str(path)


def denied_path(path: str | Path, below: int | None = None) -> str:
    """Return the full path of what may not be used: the file if it exists, else the folder that it would be in."""
    try:
        os.stat(path, dir_fd=below, follow_symlinks=False)
    except OSError:
        return str(Path(full_path(path, below)).parent)
    return full_path(path, below)


def _open_leased(path: str | Path, flags: int, below: int | None) -> int:
    """Open a file on which a file server has a lease (fcntl(2), F_SETLEASE). Samba has one while a client caches it.

    The kernel asks for the lease back. Only an open without O_NONBLOCK waits for that, at most 45 s by default.
    """
    pinned = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=below)
    try:
        if not stat.S_ISREG(os.fstat(pinned).st_mode):
            raise _not_regular(path, below)
        return os.open(f"/proc/self/fd/{pinned}", flags & ~os.O_CREAT | os.O_CLOEXEC)
    finally:
        os.close(pinned)


def _not_regular(path: str | Path, below: int | None) -> NotRegular:
    try:
        kind = _KINDS.get(stat.S_IFMT(os.stat(path, dir_fd=below, follow_symlinks=False).st_mode))
    except OSError:
        kind = None
    return NotRegular(errno.ELOOP, f"it is {kind or 'something else'}, not a regular file", full_path(path, below))
