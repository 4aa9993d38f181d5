"""The sandbox inside the container: prints what a client needs, as JSON, and adds a job at each SIGUSR1."""

from __future__ import annotations

import asyncio
import json
import signal
from datetime import UTC, datetime, timedelta

from dcsync.sandbox import Options, Sandbox, Synthetic, World

#: At 1 MiB/s far longer than the daemon waits for work under way when it is told to stop.
BIG: int = 24 << 20


async def serve() -> None:
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
    async with Sandbox(world, options=Options(quota_per_minute=None)) as sandbox:
        tokens = sandbox.tokens
        answer = {"base_url": sandbox.base_url, "hub": world.hub_id}
        answer |= {
            "refresh_token": tokens.issue_refresh_token("dcsync"),
            "access_token": tokens.issue_access_token("instance", 86400),
        }
        print(json.dumps(answer), flush=True)  # noqa: T201 - its answer
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
