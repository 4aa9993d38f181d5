"""The sandbox inside the container: prints what a client needs, as JSON, and adds a job at each SIGUSR1.

With a folder as its argument it speaks TLS under names that only the container's proxy can resolve.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from dcsync.sandbox import Options, Sandbox, Synthetic, World
from tests.rigs.tls import make_authority, tls_front

#: At 1 MiB/s far longer than the daemon waits for work under way when it is told to stop.
BIG: int = 24 << 20
#: The names of the two servers with TLS.
API: Final = "api.dcsync.test"
STORAGE: Final = "storage.dcsync.test"


async def serve(folder: Path | None) -> None:
    """Serve two days of two requests, and one of a single large file, until the system ends."""
    now = datetime.now(UTC)
    world = World.demo(days=2, tables=8, first_day=(now - timedelta(days=2)).date())
    daily = next(iter(world.requests))
    world.add_job(
        world.add_request("Large"),
        completed_at=now - timedelta(hours=1),
        files={"large.csv": Synthetic(BIG)},
        with_archive=False,
    )

    def add_job() -> None:
        world.add_job(daily, completed_at=datetime.now(UTC), day=len(world.jobs))

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, add_job)
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(Sandbox(world, options=Options(quota_per_minute=None)))
        if folder is not None:
            certificate = make_authority(folder).issue(API, STORAGE)
            for name, host in (("base_url", API), ("storage_url", STORAGE)):
                port = await stack.enter_async_context(tls_front(certificate, getattr(sandbox, name)))
                setattr(sandbox, name, f"https://{host}:{port}")
        tokens = sandbox.tokens
        answer = {"base_url": sandbox.base_url, "hub": world.hub_id}
        answer |= {
            "refresh_token": tokens.issue_refresh_token("dcsync"),
            "access_token": tokens.issue_access_token("instance", 86400),
        }
        print(json.dumps(answer), flush=True)  # noqa: T201 - its answer
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]) if sys.argv[1:] else None))
