"""Hooks that run for events."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from dcsync.core.events import Event, EventKind
from dcsync.manifest import HookRun, HookRuns
from dcsync.ops.alerts.hooks import Hook, run_due
from tests.fakes import NOON, FakeClock

K = EventKind
MINUTE = timedelta(minutes=1)


@dataclass(slots=True, kw_only=True)
class Bench:
    """A place where hooks run."""

    runs: HookRuns
    folder: Path
    clock: FakeClock
    environ: dict[str, str]
    timeout: timedelta = MINUTE

    def fifo(self, name: str = "fifo") -> Path:
        """Return a pipe through which a program says that it has come so far."""
        path = self.folder / name
        os.mkfifo(path)
        return path

    async def due(self, script: str, *, kind: EventKind = K.SNAPSHOT, **data: Any) -> tuple[str, ...]:
        """Note an event for a shell script, and return its argv."""
        argv = ("/bin/sh", "-c", script)
        event = Event(kind=kind, account="acme", at=self.clock.now(), message="ü", job="job-1", data=data)
        await self.runs.add([(argv, event)])
        return argv

    async def run_due(self, *argvs: tuple[str, ...]) -> list[HookRun]:
        """Run what is due; these hooks are the configured ones, with the bench's time-out."""
        hooks = [Hook(on=frozenset(K), argv=argv, timeout=self.timeout) for argv in argvs]
        return await run_due(self.runs, self.clock, hooks, self.environ)

    async def run(self, script: str, **data: Any) -> HookRun:
        """Run a shell script as a hook once, and return how that went."""
        await self.run_due(await self.due(script, **data))
        return await self.last()

    async def last(self) -> HookRun:
        (found,) = await self.runs.latest(limit=1)
        return found


def make_event(kind: EventKind, code: str = "") -> Event:
    return Event(kind=kind, account="acme", at=NOON, message="m", code=code)
