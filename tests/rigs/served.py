"""The sandbox in a thread of its own: for the command line, which runs its own event loop."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcsync.sandbox import Options, Sandbox, World

TOKEN = "DCSYNC_TEST_TOKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running sandbox and a folder with a configuration for it."""

    sandbox: Sandbox
    folder: Path
    token: str

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def root(self) -> Path:
        return self.folder / "mirror"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def write_config(self, *lines: str, mode: int = 0o600, auth: Sequence[str] = (), accounts: bool = True) -> Path:
        """Write the usual configuration; `lines` are put before it, where the top level ends with the first table.

        `auth` are other lines for [auth]; without `accounts` there is none yet.
        """
        account = ["[[account]]", 'name = "acme"', f'id = "{self.sandbox.world.hub_id}"']
        text = "\n".join(
            [
                *lines,
                "[mirror]",
                f"root = {json.dumps(str(self.root))}",
                "min_free = 0",
                "[state]",
                f"dir = {json.dumps(str(self.state))}",
                "[api]",
                f"base_url = {json.dumps(self.sandbox.base_url)}",
                "[auth]",
                *(auth or ['method = "token"', f'access_token = "env:{TOKEN}"']),
                *(account if accounts else []),
                "",
            ]
        )
        self.config.write_text(text)
        self.config.chmod(mode)
        return self.config


@contextmanager
def served(folder: Path, world: World | None = None, **options: Any) -> Iterator[Served]:
    """Serve a world from another thread until the end of the block, and write a configuration that works with it."""
    ready = threading.Event()
    sandbox = Sandbox(world or World(), options=Options(**{"quota_per_minute": None, **options}))
    stopping: list[Callable[[], object]] = []

    async def serve() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        stopping.append(lambda: loop.call_soon_threadsafe(stop.set))
        async with sandbox:
            ready.set()
            await stop.wait()

    # asyncio.run() ends what is still hanging when the servers are gone.
    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="sandbox", daemon=True)
    thread.start()
    try:
        assert ready.wait(120)
        ready_made = Served(sandbox=sandbox, folder=folder, token=sandbox.tokens.issue_access_token("tester", 86400))
        ready_made.root.mkdir(exist_ok=True)
        ready_made.write_config()
        yield ready_made
    finally:
        stopping[0]()
        thread.join(120)
