"""A hook that records its events, and the schedules and times that the tests of alerts share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from dcsync.app.sync import open_dispatcher
from dcsync.ops.alerts.dispatch import AlertDispatcher
from dcsync.ops.context import SyncContext
from dcsync.sandbox import Fault
from tests.rigs.mirror import Mirror, tables

EVERYTHING = ["snapshot", "failure", "alert", "recovered"]
HOUR, DAY = 3600, 86400
#: Every API call fails.
NO_NETWORK = Fault(server="api", kind="status", status=503, times=None)


class Listener:
    """A hook that writes down each event."""

    def __init__(self, mirror: Mirror, *, on: Sequence[str] = EVERYTHING) -> None:
        self._mirror = mirror
        self._file = mirror.folder / "heard.jsonl"
        self._read = 0
        mirror.config["hook"] = [{"on": list(on), "run": ["/bin/sh", "-c", f"cat >> {self._file}"]}]

    def events(self) -> list[dict[str, Any]]:
        """Return the events since the last call."""
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        new, self._read = lines[self._read :], len(lines)
        return [json.loads(line) for line in new]

    def kinds(self) -> list[tuple[str, str]]:
        """Return kind and code of the events since the last call."""
        return [(event["event"], event["code"]) for event in self.events()]

    async def run(self, **options: Any) -> list[tuple[str, str]]:
        """Do a run and return kind and code of its events."""
        await self._mirror.run(**options)
        return self.kinds()


def add_schedule(mirror: Mirror, *, days: int = 3, at: timedelta = timedelta(hours=2)) -> str:
    """Add a daily data request with an extract on each of the last days, today included."""
    midnight = mirror.clock.now().replace(hour=0)
    request = mirror.world.add_request("Nightly", created_at=midnight - timedelta(days=60) + at)
    for number in reversed(range(days)):
        slot = midnight + at - timedelta(days=number)
        mirror.world.add_job(
            request,
            created_at=slot,
            completed_at=slot + timedelta(minutes=30),
            files=tables(1, seed=number),
            with_archive=False,
        )
    return request


async def pass_days(mirror: Mirror, listener: Listener, request: str, days: int = 1) -> None:
    """Let days pass on which the extracts arrive."""
    for _ in range(days):
        mirror.clock.advance(DAY)
        slot = mirror.clock.now().replace(hour=2)
        mirror.world.add_job(
            request, created_at=slot, completed_at=slot + timedelta(minutes=30), files=tables(1), with_archive=False
        )
        await mirror.run()
    listener.events()


async def make_dispatcher(mirror: Mirror, context: SyncContext) -> AlertDispatcher:
    """Return the dispatcher of an open mirror."""
    return await open_dispatcher(mirror.configuration(), mirror.stores(), context, environ=mirror.environ)
