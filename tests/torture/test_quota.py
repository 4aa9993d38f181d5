"""One quota for all: daemon, command line and callbacks on one state folder, counted as the server counts."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from dcsync.api.limiter import PATIENCE_S, Limiter
from dcsync.api.window import FileWindow
from dcsync.app.api import open_api
from dcsync.core.model import AccountId
from dcsync.core.quota import usable
from dcsync.sandbox import Fault, Options, Sandbox, World
from dcsync.tasks import DiskThreads
from tests.fakes import FakeClock
from tests.rigs.daemon import running
from tests.rigs.ended import dying, end
from tests.rigs.mirror import Mirror, add_extract, tables
from tests.rigs.quota import most_in_a_minute
from tests.torture.conftest import Figure, pick

pytestmark = [pytest.mark.timeout(1200), pytest.mark.usefixtures("quiet")]

TOKEN: Final = "DCSYNC_QUOTA_TEST"


class Jumpy(FakeClock):
    """A clock that several read a little apart, as processes do that read it before they hold the lock."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance

    def monotonic(self) -> float:
        return super().monotonic() - self._chance.choice((0.0, 0.0, 0.001, 0.2, 0.9))


async def test_no_minute_of_any_load_holds_more_than_the_quota(
    memory_path: Path, chance: random.Random, figure: Figure
) -> None:
    """The window itself: bursts, trickles, pauses, several limiters on one file, clocks read a moment apart."""
    rounds, calls, most = pick(40, 4), 0, 0
    for number in range(rounds):
        limit = chance.choice((1, 2, 20, 60, 600))
        clock = Jumpy(chance)
        times: list[float] = []
        with DiskThreads(2) as disk:
            limiters = [
                Limiter(requests_per_minute=limit, clock=clock, window=FileWindow(memory_path / f"w{number}", disk))
                for _ in range(chance.randrange(1, 5))
            ]
            for _ in range(min(1200, 12 * limit + 30)):
                limiter = chance.choice(limiters)
                if chance.random() < 0.01:
                    until = FakeClock.monotonic(clock) + (pause := chance.choice((1.0, 30.0, PATIENCE_S - 5)))
                    await limiter.pause(pause)
                    await limiter.acquire()
                    # To what the clocks differ by.
                    assert FakeClock.monotonic(clock) >= until - 0.9
                else:
                    await limiter.acquire()
                times.append(FakeClock.monotonic(clock))
                clock.advance(chance.choice((0.0, 0.0, 0.0, 0.01, 0.5, 61.0 / limit)))
        assert most_in_a_minute(times) <= usable(limit)
        calls += len(times)
        most = max(most, most_in_a_minute(times))
    figure("the quota's window under any load", f"{calls:,} calls in {rounds} loads, never one too many")


async def test_contexts_that_share_a_state_folder_share_the_quota(
    memory_path: Path, chance: random.Random, figure: Figure
) -> None:
    """A daemon with a backlog, and others that ask as they please, against a server that counts and would refuse."""

    def prepare(mirror: Mirror) -> None:
        mirror.config["mirror"] = {"strategy": "files"}

    async with running(memory_path, quota_per_minute=60, prepare=prepare) as rig, AsyncExitStack() as stack:
        mirror, clock, sandbox = rig.mirror, rig.clock, rig.sandbox
        jobs = [add_extract(mirror, tables(70, seed=n, size=50), days_ago=n) for n in range(pick(12, 2))]
        config = mirror.configuration()
        disk = stack.enter_context(DiskThreads(2))
        others = [
            (
                await stack.enter_async_context(
                    open_api(config, mirror.stores(config), environ=mirror.environ, clock=clock, disk=disk)
                )
            ).client
            for _ in range(3)
        ]
        account, done = AccountId(config.accounts[0].account_id), asyncio.Event()

        async def ask(number: int) -> None:
            while not done.is_set():
                await others[number].requests(account)
                await clock.sleep(chance.uniform(0, 20))

        def is_stalled() -> bool:
            return rig.is_stalled() and disk.oldest_s() is None

        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(ask(number)) for number in range(len(others))]
            rig.service.poll_now()
            while len(mirror.snapshots()) < len(jobs):
                # Never taken for quiet: somebody always has a call under way that may wait for the clock.
                await clock.advance(timedelta(minutes=1), quiet=lambda: False, stalled=is_stalled)
            for task in asking:
                task.cancel()
        for job in jobs:
            mirror.assert_identical(job)
        calls = [call for call in sandbox.calls if call.server == "api"]
        assert not [call for call in calls if call.status == 429]
        most = most_in_a_minute([call.dated for call in calls])
        assert 50 < most <= 60
    figure("a daemon and three others on one state folder", f"{len(calls):,} calls, at most {most} in any minute")


def write_config(folder: Path, sandbox: Sandbox, port: int) -> Path:
    path = folder / "config.toml"
    path.write_text(
        "\n".join(
            [
                f'[mirror]\nroot = {json.dumps(str(folder / "mirror"))}\nmin_free = 0\nstrategy = "files"',
                f"[state]\ndir = {json.dumps(str(folder / 'state'))}",
                '[poll]\ninterval = "30s"\njitter = "0s"',
                f'[api]\nbase_url = "{sandbox.base_url}"',
                f'[auth]\nmethod = "token"\naccess_token = "env:{TOKEN}"',
                f'[http]\nlisten = "127.0.0.1:{port}"',
                f'[[account]]\nname = "acme"\nid = "{sandbox.world.hub_id}"',
            ]
        )
    )
    return path


@asynccontextmanager
async def process(config: Path, token: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start dcsync; it is ended with the block."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "dcsync", "--config", str(config), *arguments),
        env={**os.environ, TOKEN: token},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with dying(started):
        yield started


#: What the one 429 asks for, and how many calls a minute show that the quota holds the processes up.
PAUSE_S, ENOUGH = 10, 40


def times_of(sandbox: Sandbox) -> list[float]:
    return [call.at for call in sandbox.calls if call.server == "api"]


async def test_processes_that_share_a_state_folder_share_the_quota(
    tmp_path: Path, unused_tcp_port: int, figure: Figure
) -> None:
    """Real processes in real time: a daemon with a backlog, commands beside it, somebody at the callback, and a 429."""
    world = World(seed=21)
    request = world.add_request("Nightly")
    for number in range(6):
        world.add_job(request, files=tables(60, seed=number, size=50), with_archive=False)
    (tmp_path / "mirror").mkdir()
    async with Sandbox(world, options=Options(quota_per_minute=60)) as sandbox:
        config = write_config(tmp_path, sandbox, unused_tcp_port)
        token = sandbox.tokens.issue_access_token("tester", 86400)
        sandbox.faults.add(
            Fault(server="api", kind="status", status=429, headers={"Retry-After": f"{PAUSE_S}"}, skip=30)
        )
        until = time.monotonic() + pick(190, 16)
        commands = hints = 0

        def is_over() -> bool:
            # A busy machine takes longer until the quota is what holds them up.
            return time.monotonic() >= until and most_in_a_minute(times_of(sandbox)) >= ENOUGH

        async def command(*arguments: str) -> None:
            nonlocal commands
            while not is_over():
                async with process(config, token, *arguments) as started:
                    while started.returncode is None and not is_over():  # noqa: ASYNC110 - a process, and the end
                        await asyncio.sleep(0.05)  # noqa: TID251 - another process's work
                    commands += started.returncode == 0

        async def hint() -> None:
            nonlocal hints
            secret = tmp_path / "state/callback.secret"
            body = {"accountId": world.account_id, "requestId": request, "jobId": "x", "state": "complete"}
            async with aiohttp.ClientSession() as session:
                while not is_over():
                    await asyncio.sleep(0.2)  # noqa: TID251 - real time
                    try:
                        url = f"http://127.0.0.1:{unused_tcp_port}/callback/{secret.read_text().strip()}"
                        async with session.post(url, json=body) as answer:
                            hints += answer.status == 204
                    except (OSError, aiohttp.ClientError):
                        continue

        async with process(config, token, "run"), asyncio.TaskGroup() as group:
            group.create_task(command("jobs"))
            group.create_task(command("requests"))
            group.create_task(hint())
        calls = [call for call in sandbox.calls if call.server == "api"]
    refused = [call for call in calls if call.status == 429]
    # The one of the script; of its own the server had none to refuse.
    assert len(refused) == 1
    most = most_in_a_minute(times_of(sandbox))
    assert ENOUGH <= most <= 60
    # After it those may come that were on their way already, and then none until the pause is over.
    (at,) = [call.at for call in refused]
    assert not [call for call in calls if at + 0.6 * PAUSE_S < call.at < at + PAUSE_S]
    assert hints > 0
    figure(
        "a daemon, commands and callbacks in real time",
        f"{len(calls)} calls, at most {most} in any minute; {commands} commands, {hints} hints",
    )


HAMMER: Final = """
    import asyncio, sys
    from pathlib import Path
    from dcsync.api.limiter import Limiter
    from dcsync.api.window import FileWindow
    from dcsync.clock import SystemClock
    from dcsync.tasks import DiskThreads

    async def main():
        clock = SystemClock()
        with DiskThreads(2) as disk:
            limiter = Limiter(requests_per_minute=200, clock=clock, window=FileWindow(Path(sys.argv[1]), disk))
            try:
                async with asyncio.timeout(float(sys.argv[2])):
                    while True:
                        await limiter.acquire()
                        print(clock.monotonic(), flush=True)
            except TimeoutError:
                pass

    asyncio.run(main())
"""


def test_eight_processes_at_once_never_take_one_call_too_many(tmp_path: Path, figure: Figure) -> None:
    """All begin together, as fast as they can; one of them is killed while it may hold the lock."""
    script = tmp_path / "hammer.py"
    script.write_text(textwrap.dedent(HAMMER))
    seconds = pick(70, 8)
    started = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "window"), str(seconds)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    try:
        time.sleep(1.5)  # noqa: TID251 - real time
        started[0].kill()
        times = [float(line) for each in started for line in each.communicate(timeout=300)[0].splitlines()]
    finally:
        for each in started:
            end(each)

    most = most_in_a_minute(times)
    # The killed one may have been counted without having said so.
    assert usable(200) - 1 <= most <= usable(200)
    figure(
        "eight processes on the quota's window", f"{len(times)} calls, at most {most} of {usable(200)} in any minute"
    )
