"""The loads in the daemon: run after snapshots and row histories, by a task of their own that delays nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NoReturn

from dcsync.app.loads import load_after_run
from dcsync.config import Config
from dcsync.core.loads import LoadMode
from dcsync.ops.alerts.dispatch import AlertDispatcher
from dcsync.ops.context import SyncContext

#: Each host looks this often if a load is due, so that one that failed is retried when the host that tried it is gone.
_LOOK: Final = timedelta(hours=1)


@dataclass(slots=True, eq=False, kw_only=True)
class Loads:
    """Runs the loads of a session, each time that they are due. Cancelling `run` ends it within some seconds."""

    config: Config
    context: SyncContext
    dispatcher: AlertDispatcher
    environ: Mapping[str, str]
    _due: asyncio.Event = field(default_factory=asyncio.Event)
    _modes: set[LoadMode] = field(default_factory=set)

    def load_soon(self, *modes: LoadMode) -> None:
        """Run the loads of these modes."""
        self._modes.update(modes)
        self._due.set()

    async def run(self) -> NoReturn:
        """Load until cancelled."""
        async with asyncio.TaskGroup() as group:
            alarm: asyncio.Task[None] | None = None
            while True:
                await self._due.wait()
                self._due.clear()
                modes, self._modes = self._modes, set()
                next_try_at = await load_after_run(
                    self.config, self.context, self.dispatcher, modes=modes, environ=self.environ
                )
                if alarm is not None:
                    alarm.cancel()
                if self.config.loads:
                    alarm = group.create_task(self._look_at(next_try_at), name="loads later")

    async def _look_at(self, next_try_at: datetime | None) -> None:
        """Look for loads that are due at that time, or after an hour."""
        now = self.context.clock.now()
        wait = _LOOK if next_try_at is None else min(max(next_try_at - now, timedelta()), _LOOK)
        await self.context.clock.sleep(wait.total_seconds() + 1)
        self.load_soon(*LoadMode)
