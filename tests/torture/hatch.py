"""Imports dcsync once, and forks off a process for each order on stdin (see `tests.rigs.hatchery`)."""

from __future__ import annotations

import codecs
import ctypes
import fcntl
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final, NoReturn

import aiosqlite
import alembic.command
import alembic.config
import isal.igzip_lib
import isal.isal_zlib
import jinja2
import rich.progress

import dcsync
from dcsync import tasks
from dcsync.api.transport import ApiTransport
from dcsync.auth.token_store import TokenPair, TokenStore
from dcsync.cli.group import run
from dcsync.daemon import service
from dcsync.manifest import SnapshotRows, SqlManifest
from dcsync.mirror import disk
from tests.rigs.disks import cut
from tests.torture import seeded

#: What is imported late otherwise: a fault is to hit dcsync's work, not an import.
LATE: Final = (aiosqlite, alembic.command, alembic.config, isal.igzip_lib, isal.isal_zlib, jinja2, rich.progress)
_PR_SET_PDEATHSIG: Final = 1
LATE_CODECS: Final = ("ascii", "cp437", "latin-1", "utf-8-sig", "idna")


def main() -> None:
    """Answer each line on stdin: {"start": order} with {"pid": …}, {"wait": pid} with {"status": …}."""
    _end_with_parent()
    for module in pkgutil.walk_packages(dcsync.__path__, "dcsync."):
        if "migrations" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for codec in LATE_CODECS:
        codecs.lookup(codec)
    for line in sys.stdin:
        question = json.loads(line)
        if "start" in question:
            pid = os.fork()
            if pid == 0:
                _hatch(json.loads(question["start"]))
            answer = {"pid": pid}
        else:
            _, status = os.waitpid(question["wait"], 0)
            answer = {"status": os.waitstatus_to_exitcode(status)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _end_with_parent() -> None:
    """End by SIGKILL when the parent is gone, whatever this process waits for then."""
    assert ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) == 0


def _hatch(order: dict[str, Any]) -> NoReturn:
    """Become the process that an order asks for."""
    _end_with_parent()
    folder = Path(order["folder"])
    output = os.open(folder / "output", os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(order["environ"])
    if order["stops_first"]:
        os.kill(os.getpid(), signal.SIGSTOP)
    status = 1
    try:
        # A mirror that is gone is looked for again each second, not each minute.
        service._REOPEN_S = 1.0
        if order["one_thread"]:
            tasks.DiskThreads.__init__.__defaults__ = (1,)
        if order["largest_file"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"], resource.RLIM_INFINITY))
        # The notes first: a bug that is seeded must not come between an event and its note.
        _Notes(order, os.open(folder / "events", os.O_WRONLY | os.O_APPEND)).take()
        if order["bug"] is not None:
            seeded.BUGS[order["bug"]]()
        status = run(order["argv"])
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class _Notes:
    """Notes what happens, and cuts the power where it was ordered."""

    def __init__(self, order: dict[str, Any], descriptor: int) -> None:
        self._order = order
        self._descriptor = descriptor
        self._write = os.write
        self._seen: dict[str, int] = {}

    def take(self) -> None:
        """Wrap what is to be noted."""
        _after(SqlManifest, "publish", lambda arguments: self.note("ack", arguments[2].job.id))
        _after(SnapshotRows, "restore", lambda arguments: self.note("ack", arguments[2].job.id))
        _before(SqlManifest, "publish", lambda arguments: self.note("commit", arguments[2].job.id))
        _after(ApiTransport, "_exchange", lambda _: self.note("used", ""))
        save = TokenStore.save

        def saved(store: TokenStore, pair: TokenPair) -> None:
            save(store, pair)
            self.note("saved", "")

        TokenStore.save = saved  # type: ignore[method-assign, assignment]
        if self._order["close_fails"] is not None:
            self._break_close(*self._order["close_fails"])
        self._step(os, "mkdir")
        self._step(os, "fsync")
        self._step(os, "rename")
        self._step(disk, "rename_noreplace")
        self._step(disk, "sync_file_system")

    def note(self, kind: str, about: str) -> None:
        """Write an event down; end here if that was ordered."""
        log = self._order["block_log"]
        position = 0 if log is None else Path(log).stat().st_size
        line = json.dumps({"kind": kind, "about": about, "position": position})
        self._write(self._descriptor, line.encode() + b"\n")
        self._seen[kind] = self._seen.get(kind, 0) + 1
        if self._order["cut_on"] == kind and self._seen[kind] == self._order["cut_at"]:
            cut(*self._order["cuts"])
            os.kill(os.getpid(), signal.SIGKILL)

    def _break_close(self, at: int, number: int) -> None:
        """Let the `at`-th close of a file that was opened for writing below the broken folder fail.

        The descriptor is closed, as Linux does it even then; strace would leave it open, and the lock on it held.
        """
        close, seen = os.close, 0
        below = self._order["close_below"]

        def failing(descriptor: int) -> None:
            nonlocal seen
            path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            # What was only read has nothing left to fail.
            matters = path.startswith(below) and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            close(descriptor)
            seen += matters
            if matters and seen == at:
                self.note("closed", path)
                raise OSError(number, os.strerror(number))

        os.close = failing  # type: ignore[assignment]

    def _step(self, module: Any, name: str) -> None:
        """Note each call of what makes a change visible or durable, once it is done."""
        function = getattr(module, name)

        @wraps(function)
        def noted(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            self.note("step", name)
            return result

        setattr(module, name, noted)


def _after(owner: type, name: str, tell: Callable[[tuple[Any, ...]], None]) -> None:
    method: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def noted(*arguments: Any, **options: Any) -> Any:
        result = await method(*arguments, **options)
        tell(arguments)
        return result

    setattr(owner, name, noted)


def _before(owner: type, name: str, tell: Callable[[tuple[Any, ...]], None]) -> None:
    method: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def noted(*arguments: Any, **options: Any) -> Any:
        tell(arguments)
        return await method(*arguments, **options)

    setattr(owner, name, noted)


if __name__ == "__main__":
    main()
