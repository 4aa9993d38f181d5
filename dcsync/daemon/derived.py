"""Everything that the daemon makes from snapshots, in this order: row histories and loads."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from dcsync.config import Config
from dcsync.core.loads import LoadMode
from dcsync.daemon.histories import Histories
from dcsync.daemon.loads import Loads
from dcsync.ops.alerts.dispatch import AlertDispatcher
from dcsync.ops.context import SyncContext


class Derived:
    """The row histories and loads of a session, each in a task of its own. Cancelling `run` ends both soon."""

    def __init__(
        self, config: Config, context: SyncContext, dispatcher: AlertDispatcher, environ: Mapping[str, str]
    ) -> None:
        self.environ = environ
        self._loads = Loads(config=config, context=context, dispatcher=dispatcher, environ=environ)
        built = partial(self._loads.load_soon, LoadMode.HISTORY)
        self._histories = Histories(config=config, context=context, dispatcher=dispatcher, built=built)

    def update_soon(self) -> None:
        """Bring everything up to date. Loads of row histories follow those."""
        self._histories.build_soon()
        self._loads.load_soon(LoadMode.LATEST)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._histories.run(), name="histories")
            group.create_task(self._loads.run(), name="loads")
