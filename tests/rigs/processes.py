"""Real processes of dcsync, cold ones and ones that are forked from a process that has imported everything."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.rigs.ended import dying, end_soon
from tests.rigs.syscalls import Watch, watching

#: Finds a hang. The time limit of a test is shorter.
_RUN_S = 600.0

_FORK_SERVER = Path(__file__).with_name("forkserver.py")


class Run(Protocol):
    """A run of dcsync. Its outputs are in `stdout` and `stderr` below the folder that the starter was given."""

    @property
    def pid(self) -> int:
        """Its number."""

    def send(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended gets none."""

    async def wait(self) -> int:
        """Return its exit status, negative for a signal."""


class Starter(Protocol):
    """What starts runs."""

    async def __call__(self, *argv: str, environ: Mapping[str, str] | None = None, closed: Sequence[int] = ()) -> Run:
        """Start `dcsync argv…` with `environ` besides this process's; the descriptors `closed` (1, 2) are closed."""


@asynccontextmanager
async def run_of(start: Starter, *argv: str, environ: Mapping[str, str] | None = None) -> AsyncIterator[Run]:
    """Start a run; it is dead at the end of the block."""
    run = await start(*argv, environ=environ)
    try:
        yield run
    finally:
        run.send(signal.SIGKILL)
        await run.wait()


@dataclass(slots=True, kw_only=True)
class _Cold:
    process: asyncio.subprocess.Process
    handle: int

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        # Not by the process's own method: it polls, and whoever waits then never hears of the status.
        _send(self.handle, number)

    async def wait(self) -> int:
        async with asyncio.timeout(_RUN_S):
            status = await self.process.wait()
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1
        return status


def _handle_of(pid: int) -> int:
    """Return a descriptor of a process, or -1 if it has ended already."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return -1


def _send(handle: int, number: signal.Signals) -> None:
    """Send a signal by a process's descriptor: its number may be another one's by now."""
    if handle >= 0:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)


@dataclass(frozen=True, slots=True)
class Cold:
    """Starts the interpreter anew for each run; in a control group, when its `cgroup.procs` is given."""

    folder: Path
    group: Path | None = None

    async def __call__(self, *argv: str, environ: Mapping[str, str] | None = None, closed: Sequence[int] = ()) -> Run:
        """Start a run."""
        command = [sys.executable, "-m", "dcsync", *argv]
        if closed:
            # Only a shell starts a program with a descriptor closed.
            command = ["sh", "-c", f'exec "$@" {" ".join(f"{number}>&-" for number in closed)}', "sh", *command]
        if self.group is not None:
            command = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.group), *command]
        # Not by open(): a pipe has no end to append to.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        outputs = [os.open(self.folder / name, flags, 0o600) for name in ("stdout", "stderr")]
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, **(environ or {})},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=outputs[0],
                stderr=outputs[1],
                start_new_session=True,
            )
        finally:
            for descriptor in outputs:
                os.close(descriptor)
        return _Cold(process=process, handle=os.pidfd_open(process.pid))


@dataclass(slots=True, kw_only=True)
class _Forked:
    pid: int
    handle: int
    server: Forking
    status: int | None = None

    def send(self, number: signal.Signals) -> None:
        _send(self.handle, number)

    async def wait(self) -> int:
        if self.status is None:
            self.status = int((await self.server.answer())["status"])
            self.server.running = None
            if self.handle >= 0:
                os.close(self.handle)
                self.handle = -1
        return self.status


@dataclass(slots=True)
class Forking:
    """Starts runs one after another from a process that has imported everything."""

    folder: Path
    process: asyncio.subprocess.Process
    #: The run that has not ended yet, and leads a group of its own.
    running: int | None = None

    async def __call__(self, *argv: str, environ: Mapping[str, str] | None = None, closed: Sequence[int] = ()) -> Run:
        """Start a run; the one before must have been waited for."""
        return await self._start(argv, environ=environ, closed=closed, watched_at=None)

    async def watched(
        self, watch: Watch, *argv: str, environ: Mapping[str, str] | None = None, terminal: str | None = None
    ) -> int:
        """Run to the end, or to where `watch` kills it, and return the exit status. `terminal` is the path of one."""
        place = self.folder / "watched.socket"
        with watching(place, watch):
            try:
                run = await self._start(argv, environ=environ, closed=(), watched_at=place, terminal=terminal)
                return await run.wait()
            finally:
                self.kill()

    async def _start(
        self,
        argv: Sequence[str],
        *,
        environ: Mapping[str, str] | None,
        closed: Sequence[int],
        watched_at: Path | None,
        terminal: str | None = None,
    ) -> Run:
        request = {
            "argv": argv,
            "env": {**os.environ, **(environ or {})},
            "outputs": [
                None if number in closed else str(self.folder / name) for number, name in ((1, "stdout"), (2, "stderr"))
            ],
            "terminal": terminal,
            "watch": None if watched_at is None else str(watched_at),
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.running = pid = int((await self.answer())["pid"])
        return _Forked(pid=pid, handle=_handle_of(pid), server=self)

    async def answer(self) -> dict[str, int]:
        """Return the server's next word."""
        assert self.process.stdout is not None
        async with asyncio.timeout(_RUN_S):
            line = await self.process.stdout.readline()
        assert line, f"the fork server has ended: {(self.folder / 'forkserver.err').read_text()}"
        answer: dict[str, int] = json.loads(line)
        return answer

    def kill(self) -> None:
        """Kill the run that has not ended, and what it has started."""
        if self.running is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.running, signal.SIGKILL)


@asynccontextmanager
async def forking(folder: Path) -> AsyncIterator[Forking]:
    """Start a process that has imported everything; it ends with the block, and a run that has not ended before."""
    with ExitStack() as stack:
        errors = stack.enter_context((folder / "forkserver.err").open("wb"))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.rigs.forkserver"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=_FORK_SERVER.parents[2],
            start_new_session=True,
        )
    assert process.stdin is not None
    server = Forking(folder, process)
    try:
        yield server
    finally:
        server.kill()
        process.stdin.close()
        async with dying(process):
            await end_soon(process)


def said(folder: Path) -> str:
    """Return what the runs so far have said on stderr."""
    path = folder / "stderr"
    return path.read_text(errors="replace") if path.exists() else ""
