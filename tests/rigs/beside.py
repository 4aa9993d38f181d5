"""A daemon as a process, for commands that run beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcsync.orders import SOCKET_NAME
from tests.rigs.served import TOKEN, Served


def until(is_so: Callable[[], object], what: str, *, within_s: float = 150.0) -> None:
    """Wait for the work of another process; a hang fails."""
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, f"it did not come to this: {what}"
        time.sleep(0.02)  # noqa: TID251 - another process


@contextmanager
def started(side: Served, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start `dcsync …`; it is dead at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dcsync", "--config", side.config, *arguments],
        env={**os.environ, TOKEN: side.token},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        **{"stderr": subprocess.PIPE, **options},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A daemon that takes orders and has polled."""

    process: subprocess.Popen[str]
    side: Served
    log: Path

    @property
    def socket(self) -> Path:
        return self.side.state / SOCKET_NAME

    def said(self, event: str) -> Sequence[dict[str, Any]]:
        """Return the lines of its log with this event."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def hears(self, event: str) -> None:
        """Wait for a line of its log."""
        until(lambda: self.said(event) or self.process.poll() is not None, event)
        assert self.said(event), self.log.read_text()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it, and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=150)


@contextmanager
def daemon_beside(side: Served) -> Iterator[Beside]:
    """Start a daemon; it is dead at the end of the block."""
    log = side.folder / "daemon.jsonl"
    polled = polls(side)
    with log.open("a") as errors, started(side, "--log-format", "json", "run", stderr=errors) as process:
        daemon = Beside(process=process, side=side, log=log)
        until(lambda: polls(side) > polled or process.poll() is not None, "its first poll")
        until(lambda: daemon.socket.exists() or process.poll() is not None, "its socket")
        assert process.poll() is None, log.read_text()
        yield daemon


def polls(side: Served) -> int:
    return sum(call.path.endswith("/jobs") for call in side.sandbox.calls)
