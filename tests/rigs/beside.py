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
from tests.rigs.ended import end
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
        end(process)


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
        return lines_of(self.log, event)

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
    """Start a daemon whose first poll is over; it is dead at the end of the block."""
    log = side.folder / "daemon.jsonl"
    # Only a log for debugging has a line for a poll that found nothing.
    options = ("--log-format", "json", "--log-level", "debug")
    polled = len(lines_of(log, "run ended"))
    with log.open("a") as errors, started(side, *options, "run", stderr=errors) as process:
        daemon = Beside(process=process, side=side, log=log)
        until(lambda: len(daemon.said("run ended")) > polled or process.poll() is not None, "its first poll")
        until(lambda: daemon.socket.exists() or process.poll() is not None, "its socket")
        assert process.poll() is None, log.read_text()
        yield daemon


def lines_of(log: Path, event: str) -> list[dict[str, Any]]:
    """Return the lines of a log with an event; none while there is no log."""
    text = log.read_text() if log.exists() else ""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]
