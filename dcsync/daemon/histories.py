"""The row histories in the daemon: built after snapshots, by a task of their own that delays nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from dcsync.app.history import build_after_run
from dcsync.config import Config
from dcsync.ops.alerts.dispatch import AlertDispatcher
from dcsync.ops.context import SyncContext


@dataclass(slots=True, eq=False, kw_only=True)
class Histories:
    """Builds the row histories of a session, each time that they are due. Cancelling `run` ends it within a moment."""

    config: Config
    context: SyncContext
    dispatcher: AlertDispatcher
    #: Called when they are up to date, or cannot be.
    built: Callable[[], object] = lambda: None
    _due: asyncio.Event = field(default_factory=asyncio.Event)

    def build_soon(self) -> None:
        """Look for missing steps."""
        self._due.set()

    async def run(self) -> NoReturn:
        """Build until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            await build_after_run(self.config, self.context, self.dispatcher)
            self.built()
