"""System calls that fail on purpose: strace attached to a process before dcsync begins (docs/project/torture.md)."""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.rigs.ended import end
from tests.rigs.hatchery import Ended, Hatchling

#: By family: what writes, makes durable, opens, names and reserves.
CALLS = (
    *("write", "pwrite64", "fsync", "fdatasync", "close", "openat", "rename", "renameat", "renameat2"),
    *("mkdir", "mkdirat", "link", "linkat", "ftruncate", "fallocate", "unlink", "unlinkat", "fchmod"),
)
READS = ("read", "pread64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One system call as strace wrote it."""

    thread: str
    name: str
    line: str
    injected: bool

    def path(self) -> str:
        """Return the path that the descriptor in the first argument leads to, or that a result does."""
        match = re.search(r"<([^>]*)>", self.line)
        return match[1] if match else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A process that was traced to its end."""

    ended: Ended
    calls: list[Call]

    def injected(self) -> list[Call]:
        """Return the calls that were made to fail."""
        return [call for call in self.calls if call.injected]


def trace(process: Hatchling, *injections: str, calls: Sequence[str] = CALLS, within: Sequence[Path] = ()) -> Traced:
    """Trace a process that stopped first. An injection is as strace takes it: `fsync:error=EIO:when=3`.

    With `within` only what concerns exactly these paths is traced, and so made to fail.
    """
    log = process.order.folder / "strace"
    # It has to stand still first: a signal to go on that comes too early is lost.
    _wait_until(lambda: "State:\tT" in _status(process), "the process did not stop")
    options = [word for injection in injections for word in ("-e", f"inject={injection}")]
    options += [word for place in within for word in ("-P", str(place))]
    tracer = subprocess.Popen(
        [
            *("strace", "-f", "-y", "-s", "0", "-o", str(log), "-e", f"trace={','.join(calls)}"),
            *(*options, "-p", str(process.pid)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _wait_until(
            lambda: tracer.poll() is not None or f"TracerPid:\t{tracer.pid}\n" in _status(process),
            "strace did not attach",
        )
        process.go_on()
        ended = process.wait()
        _, said = tracer.communicate(timeout=120)
        assert tracer.returncode in {0, ended.status % 256, -ended.status}, said
    finally:
        if tracer.poll() is None:
            end(tracer)
        process.kill()
    return Traced(ended=ended, calls=parse(log.read_text(errors="replace")))


def parse(text: str) -> list[Call]:
    """Return the calls of a log, each once, with those put together that another thread interrupted."""
    found: list[Call] = []
    open_ones: dict[tuple[str, str], str] = {}
    for line in text.splitlines():
        thread, _, rest = line.partition(" ")
        rest = rest.strip()
        if match := re.match(r"<\.\.\. (\w+) resumed>(.*)", rest):
            rest = open_ones.pop((thread, match[1]), f"{match[1]}(") + match[2]
        elif match := re.match(r"(\w+)\(.*<unfinished \.\.\.>", rest):
            open_ones[thread, match[1]] = rest.partition(" <unfinished ...>")[0]
            continue
        if match := re.match(r"(\w+)\(", rest):
            found.append(Call(thread=thread, name=match[1], line=rest, injected="(INJECTED)" in rest))
    return found


def most(calls: Sequence[Call], below: Sequence[Path]) -> Counter[str]:
    """Return for each call by how far a thread counts that works below these folders."""
    counted: Counter[tuple[str, str]] = Counter()
    highest: Counter[str] = Counter()
    for call in calls:
        counted[call.thread, call.name] += 1
        if any(str(place) in call.line for place in below):
            highest[call.name] = max(highest[call.name], counted[call.thread, call.name])
    return highest


def _status(process: Hatchling) -> str:
    return Path(f"/proc/{process.pid}/status").read_text()


def _wait_until(is_so: Callable[[], bool], otherwise: str) -> None:
    """Wait for another process's work."""
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.002)  # noqa: TID251 - the same
