"""The cost of a callback flood for a sync: the same work with and without an attacker, alternately, in one run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from dcsync.sandbox import Options, Sandbox, World
from tests.rigs.mirror import tables

TURNS = 5
#: The work of each turn. The extracts have ZIPs, so that the work takes the time and not the rate limit.
EXTRACTS, FILES = 12, 60
#: An attacker that opens connections and posts as fast as it can, for at most the given seconds.
ATTACK = """
import socket, sys, time
port, path, end = int(sys.argv[1]), sys.argv[2], time.monotonic() + float(sys.argv[3])
body = b'{"accountId": "a", "requestId": "r"}'
head = f"POST {path} HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n".encode()
count = 0
while time.monotonic() < end:
    held = []
    for _ in range(64):
        one = socket.socket()
        one.settimeout(0.2)
        try:
            one.connect(("127.0.0.1", port))
            one.sendall(head + body)
            held.append(one)
            count += 1
        except OSError:
            one.close()
    for one in held:
        one.close()
print(count)
"""


async def measure() -> float:
    """Return the ratio of the medians: with the flood to without."""
    with tempfile.TemporaryDirectory(prefix="dcsync-flood-") as place:
        folder = Path(place)
        (folder / "mirror").mkdir()
        world = World()
        request = world.add_request("Nightly")
        world.add_job(request, files=tables(2), with_archive=False)
        options = Options(quota_per_minute=None, latency_s=0.01)
        async with Sandbox(world, options=options) as sandbox:
            port = _free_port()
            config = folder / "config.toml"
            config.write_text(
                f"[mirror]\nroot = {json.dumps(str(folder / 'mirror'))}\nmin_free = 0\n"
                f"[state]\ndir = {json.dumps(str(folder / 'state'))}\n"
                f'[http]\nlisten = "127.0.0.1:{port}"\n'
                f'[api]\nbase_url = "{sandbox.base_url}"\nrequests_per_minute = 1000\n'
                '[auth]\nmethod = "token"\naccess_token = "env:FLOOD_TOKEN"\n'
                f'[[account]]\nname = "acme"\nid = "{world.hub_id}"\n'
            )
            token = sandbox.tokens.issue_access_token("bench", 86400)
            daemon = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "dcsync", "--config", str(config), "--log-level", "error", "run"),
                env={**os.environ, "FLOOD_TOKEN": token},
            )
            try:
                return await _measure(daemon, world, request, folder, port)
            finally:
                daemon.send_signal(signal.SIGTERM)
                await daemon.wait()


async def _measure(daemon: asyncio.subprocess.Process, world: World, request: str, folder: Path, port: int) -> float:
    await _until(folder, 1)
    secret = (folder / "state/callback.secret").read_text().strip()
    times: dict[bool, list[float]] = {True: [], False: []}
    done = 1
    for turn in range(2 * TURNS):
        attacked = turn % 2 == 1
        for number in range(EXTRACTS):
            world.add_job(request, files=tables(FILES, size=60_000, seed=turn * 100 + number))
        attacker = None
        if attacked:
            attacker = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-c", ATTACK, str(port), f"/callback/{secret}", "60"),
                stdout=asyncio.subprocess.PIPE,
            )
            await asyncio.sleep(0.5)
        began = time.perf_counter()
        daemon.send_signal(signal.SIGUSR1)
        done += EXTRACTS
        await _until(folder, done)
        times[attacked].append(time.perf_counter() - began)
        if attacker is not None:
            attacker.kill()
            await attacker.communicate()
    calm, flooded = (sorted(times[key])[TURNS // 2] for key in (False, True))
    return flooded / calm


async def _until(folder: Path, count: int) -> None:
    async with asyncio.timeout(120):
        while len(list((folder / "mirror").glob("acme/*/[0-9]*/*/*/*/_dcsync.json"))) < count:
            await asyncio.sleep(0.02)


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
