"""Ends a process right before its N-th call that changes a file, whichever of its threads makes it.

strace can kill at a call as well, but counts each thread's calls apart: `when=5` never comes for a process whose two
threads make four each, and most moments of a program that writes from a pool of threads cannot be named. So this is
done with seccomp's user notifications (seccomp_unotify(2)): the process announces each such call, and waits until it is
told to go on, or is dead. What it has done before is in the kernel, and what it was about to do is not.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.rigs.ended import join

#: Numbers of x86_64. What an argument names: a descriptor ("fd"), a path below a descriptor ("at"), a path ("path").
CALLS: Final = {
    1: ("write", "fd", 0),
    18: ("pwrite64", "fd", 0),
    20: ("writev", "fd", 0),
    40: ("sendfile", "fd", 0),
    74: ("fsync", "fd", 0),
    75: ("fdatasync", "fd", 0),
    76: ("truncate", "path", 0),
    77: ("ftruncate", "fd", 0),
    82: ("rename", "path", 0),
    83: ("mkdir", "path", 0),
    84: ("rmdir", "path", 0),
    85: ("creat", "path", 0),
    86: ("link", "path", 1),
    87: ("unlink", "path", 0),
    88: ("symlink", "path", 1),
    90: ("chmod", "path", 0),
    91: ("fchmod", "fd", 0),
    92: ("chown", "path", 0),
    93: ("fchown", "fd", 0),
    258: ("mkdirat", "at", 0),
    260: ("fchownat", "at", 0),
    263: ("unlinkat", "at", 0),
    264: ("renameat", "at", 0),
    265: ("linkat", "at", 2),
    266: ("symlinkat", "at", 1),
    268: ("fchmodat", "at", 0),
    277: ("sync_file_range", "fd", 0),
    280: ("utimensat", "at", 0),
    285: ("fallocate", "fd", 0),
    296: ("pwritev", "fd", 0),
    306: ("syncfs", "fd", 0),
    316: ("renameat2", "at", 0),
    326: ("copy_file_range", "fd", 2),
}
#: Only with O_CREAT, and only FICLONE.
OPENAT, IOCTL = 257, 16
_FICLONE = 0x40049409

_PR_SET_NO_NEW_PRIVS, _SYS_SECCOMP = 38, 317
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_AUDIT_ARCH_X86_64 = 0xC000003E
_ALLOW, _USER_NOTIF = 0x7FFF0000, 0x7FC00000
#: struct seccomp_notif: id, pid, flags, then seccomp_data: nr, arch, instruction pointer, six arguments.
_NOTICE = struct.Struct("=QIIiIQ6Q")
#: struct seccomp_notif_resp: id, val, error, flags.
_ANSWER = struct.Struct("=QqiI")
_CONTINUE = 1
_RECV, _SEND = 0xC0502100, 0xC0182101


class _Filter(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Filter)))


def announce(connection: socket.socket) -> None:
    """Let this process, and all that it forks, announce its calls to whoever is at the other end."""
    assert platform.machine() == "x86_64", "the numbers of the system calls are those of x86_64"
    load, equal, masked, give = 0x20, 0x15, 0x45, 0x06  # ld [k]; jeq k; jset k; ret k
    code = [(load, 0, 0, 4), (equal, 1, 0, _AUDIT_ARCH_X86_64), (give, 0, 0, _ALLOW), (load, 0, 0, 0)]
    for number in CALLS:
        code += [(equal, 0, 1, number), (give, 0, 0, _USER_NOTIF)]
    # The low half of the third argument of openat, and of the second one of ioctl.
    code += [(equal, 0, 3, OPENAT), (load, 0, 0, 32), (masked, 0, 1, os.O_CREAT), (give, 0, 0, _USER_NOTIF)]
    code += [
        (load, 0, 0, 0),
        (equal, 0, 3, IOCTL),
        (load, 0, 0, 24),
        (equal, 0, 1, _FICLONE),
        (give, 0, 0, _USER_NOTIF),
    ]
    code += [(give, 0, 0, _ALLOW)]
    program = _Program(len(code), (_Filter * len(code))(*(_Filter(*line) for line in code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    listener = libc.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    socket.send_fds(connection, [b"."], [listener])
    os.close(listener)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that changes a file, and the file, relative to the folder that is watched."""

    name: str
    path: str

    def __str__(self) -> str:
        return f"{self.name} {self.path}"


@dataclass(slots=True, kw_only=True)
class Watch:
    """What a watched process has done so far."""

    folder: Path
    #: Before which call it is killed, from 1 on; None: it is only watched.
    kill_at: int | None = None
    #: The call that it was killed before.
    killed_before: Call | None = None
    calls: list[Call] = field(default_factory=list)


@contextmanager
def watching(socket_path: Path, watch: Watch) -> Iterator[None]:
    """Listen for the one process that announces its calls at `socket_path`, until the end of the block."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(socket_path))
        server.listen(1)
        server.settimeout(120)
        troubles: list[BaseException] = []

        def work() -> None:
            try:
                _follow(server, watch)
            except BaseException as error:  # noqa: BLE001 - raised below, in the test's own thread
                troubles.append(error)

        thread = threading.Thread(target=work, name="syscalls", daemon=True)
        thread.start()
        try:
            yield
        finally:
            join(thread)
            socket_path.unlink()
    if troubles:
        raise troubles[0]


def _follow(server: socket.socket, watch: Watch) -> None:
    connection, _ = server.accept()
    with connection:
        connection.settimeout(120)
        _, (listener, *_), _, _ = socket.recv_fds(connection, 1, 1)
    try:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        # POLLHUP: nobody is left that could announce anything.
        while poll.poll()[0][1] & select.POLLIN:
            notice = bytearray(_NOTICE.size)
            try:
                fcntl.ioctl(listener, _RECV, notice)
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.EINTR}:
                    continue  # it is dead already
                raise
            identifier, pid, _, number, _, _, *arguments = _NOTICE.unpack(notice)
            call = _describe(watch.folder, pid, number, arguments)
            if call is not None:
                watch.calls.append(call)
                # A test may set it while the process works.
                if watch.kill_at is not None and len(watch.calls) >= watch.kill_at:
                    watch.killed_before = call
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    continue
            # ENOENT: it died meanwhile.
            with suppress(FileNotFoundError):
                fcntl.ioctl(listener, _SEND, _ANSWER.pack(identifier, 0, 0, _CONTINUE))
    finally:
        os.close(listener)


def _describe(folder: Path, pid: int, number: int, arguments: list[int]) -> Call | None:
    """Return the call, if it is one on something below the folder."""
    name, kind, index = CALLS.get(number, ("openat", "at", 0) if number == OPENAT else ("ioctl", "fd", 0))
    try:
        if kind == "fd":
            path = str(Path(f"/proc/{pid}/fd/{_signed(arguments[index])}").readlink())
        else:
            at = _signed(arguments[index]) if kind == "at" else -100
            written = _text(pid, arguments[index + 1 if kind == "at" else index])
            above = Path(f"/proc/{pid}/cwd" if at == -100 else f"/proc/{pid}/fd/{at}").readlink()
            path = os.path.join(above, written)  # noqa: PTH118 - the process's words, not looked up here
    except OSError:
        return None  # it is dead, or has no such descriptor
    relative = os.path.relpath(path, folder)
    return None if relative.startswith("..") else Call(name=name, path=relative)


def _signed(value: int) -> int:
    return ctypes.c_int(value & 0xFFFFFFFF).value


def _text(pid: int, address: int) -> str:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123 - unbuffered, at an address
        memory.seek(address)
        # A path may end right before a page that is not there: read only up to the page's end, and on if need be.
        body = b""
        while b"\0" not in body:
            piece = memory.read(4096 - (address + len(body)) % 4096)
            if not piece:
                break
            body += piece
    return body.partition(b"\0")[0].decode(errors="surrogateescape")
