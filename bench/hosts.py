"""The throughput of three hosts against one host, measured alternately in one run: `python bench/hosts.py`.

There are two loads. The first waits for the network: each file takes a third of a second to arrive, as over a long
distance, and more hosts shorten it. The second waits only for this machine, whose processors all hosts share here.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dcsync.sandbox import Fault, Options, Sandbox, World
from tests.rigs.hosts import fleet
from tests.rigs.mirror import tables
from tests.rigs.postgres import Postgres, serving

TURNS = 2
EXTRACTS, REQUESTS, FILES = 48, 16, 8


async def throughput(server: Postgres, hosts: int, delay_s: float) -> float:
    """Return the extracts per second, from the first snapshot to the last."""
    world = World(seed=7)
    requests = [world.add_request(f"Request {number}") for number in range(REQUESTS)]
    now = datetime.now(UTC)
    for number in range(EXTRACTS):
        completed = now - timedelta(minutes=EXTRACTS - number)
        files = tables(FILES, seed=number)
        world.add_job(requests[number % REQUESTS], completed_at=completed, files=files, with_archive=False)
    with tempfile.TemporaryDirectory(prefix="dcsync-hosts-") as place:
        async with Sandbox(world, options=Options(quota_per_minute=None)) as sandbox:
            if delay_s:
                sandbox.faults.add(Fault(server="storage", kind="delay", seconds=delay_s, times=None))
            async with fleet(Path(place), sandbox, server, hosts=hosts, pace="usual") as ready:
                for host in ready.hosts:
                    await ready.start(host)
                await ready.published(1, within_s=120)
                there = ready.states()["published"]
                took = await ready.published(EXTRACTS, within_s=300)
                for host in ready.hosts:
                    await ready.stop(host)
    return (EXTRACTS - there) / took


async def main() -> None:
    with serving() as server:
        for load, delay_s in (("waiting for the network", 0.33), ("waiting for this machine", 0.0)):
            rates: dict[int, list[float]] = {1: [], 3: []}
            for _ in range(TURNS):
                for hosts, found in rates.items():
                    found.append(await throughput(server, hosts, delay_s))
            one, three = (statistics.median(rates[hosts]) for hosts in (1, 3))
            sys.stdout.write(
                f"three hosts against one, {load}: {three / one:.2f} ({three:.2f} and {one:.2f} extracts per second)\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
