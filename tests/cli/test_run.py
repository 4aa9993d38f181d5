"""`dcsync run` as a process: signals, pages, memory."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from dcsync.auth.token_store import TokenPair, TokenStore
from dcsync.sandbox import Fault, Options, Sandbox, Synthetic, World
from tests.rigs.ended import dying
from tests.rigs.mirror import assert_identical, tables

TOKEN = "RUN_TEST_TOKEN"


@dataclass(slots=True, kw_only=True)
class Daemon:
    process: asyncio.subprocess.Process
    sandbox: Sandbox
    folder: Path
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def until(self, condition: object, what: str, *, within_s: float = 120.0) -> None:
        """Wait until a condition is met by another process."""
        assert callable(condition)
        async with asyncio.timeout(within_s):
            while not condition():
                assert self.process.returncode is None, f"it ended before {what}: {self.log.read_text()[-2000:]}"
                await asyncio.sleep(0.01)  # noqa: TID251 - the same

    def polls(self) -> int:
        return sum(call.path.endswith("/jobs") for call in self.sandbox.calls)


def write_config(folder: Path, sandbox: Sandbox, *more: str) -> Path:
    path = folder / "config.toml"
    path.write_text(
        "\n".join(
            [
                f"[mirror]\nroot = {json.dumps(str(folder / 'mirror'))}\nmin_free = 0",
                f"[state]\ndir = {json.dumps(str(folder / 'state'))}",
                f'[api]\nbase_url = "{sandbox.base_url}"\nrequests_per_minute = 1000',
                f'[auth]\nmethod = "token"\naccess_token = "env:{TOKEN}"',
                f'[[account]]\nname = "acme"\nid = "{sandbox.world.hub_id}"',
                *more,
            ]
        )
    )
    return path


@asynccontextmanager
async def running(
    folder: Path, *more: str, world: World | None = None, options: Options | None = None
) -> AsyncIterator[Daemon]:
    (folder / "mirror").mkdir()
    async with Sandbox(world or World(), options=options or Options(quota_per_minute=None)) as sandbox:
        write_config(folder, sandbox, *more)
        async with launched(folder, sandbox) as daemon:
            yield daemon


@asynccontextmanager
async def launched(folder: Path, sandbox: Sandbox) -> AsyncIterator[Daemon]:
    """Start a daemon on the existing mirror."""
    log, polled = folder / "log.jsonl", sum(call.path.endswith("/jobs") for call in sandbox.calls)
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "dcsync", "--config", str(folder / "config.toml"), "--log-format", "json"),
            *("--log-level", "debug", "run"),
            env={**os.environ, TOKEN: sandbox.tokens.issue_access_token("tester", 86400)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
        )
    daemon = Daemon(process=process, sandbox=sandbox, folder=folder, log=log)
    async with dying(process):
        await daemon.until(lambda: daemon.polls() > polled, "its first poll")
        yield daemon


async def end(daemon: Daemon) -> int:
    async with asyncio.timeout(120):
        return await daemon.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_0(tmp_path: Path, number: signal.Signals) -> None:
    async with running(tmp_path) as daemon:
        daemon.send(number)

        assert await end(daemon) == 0
        assert "Traceback" not in daemon.log.read_text()


async def test_sigterm_in_a_download_keeps_the_data_and_the_next_start_resumes(tmp_path: Path) -> None:
    """docs/project/faults.md D7."""
    # Over all connections together, it takes longer than the daemon waits for it.
    big = 120 << 20
    world = World()
    job = world.add_job(world.add_request("Big"), files={"forms.csv": Synthetic(big)}, with_archive=False)
    async with running(tmp_path, world=world) as daemon:
        daemon.sandbox.faults.add(Fault(server="storage", kind="slow", amount=1 << 19, times=None))
        daemon.send(signal.SIGUSR1)
        parts = tmp_path / "mirror/.dcsync/staging"
        await daemon.until(lambda: any(path.stat().st_blocks for path in parts.rglob("*.part")), "its download")

        daemon.send(signal.SIGTERM)
        daemon.send(signal.SIGTERM)  # at once

        assert await end(daemon) == 0
        assert list(parts.rglob("*.part"))
        assert not list((tmp_path / "mirror").glob("acme/*/[0-9]*"))
        sent = sum(call.body_bytes_sent for call in daemon.sandbox.calls)
        assert sent < big

        daemon.sandbox.faults.clear()
        again = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "dcsync", "--config", str(tmp_path / "config.toml"), "sync"),
            env={**os.environ, TOKEN: daemon.sandbox.tokens.issue_access_token("tester", 86400)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with dying(again):
            await again.communicate()
        (snapshot,) = [path.parent for path in (tmp_path / "mirror").glob("acme/*/[0-9]*/**/_dcsync.json")]
        assert_identical(snapshot, world, job)


async def test_sigterm_in_a_token_refresh_waits_for_the_new_token_and_saves_it(tmp_path: Path) -> None:
    """docs/project/faults.md D8."""
    auth = '[auth]\nmethod = "login"\nclient_id = "sandbox"\nclient_secret = "sandbox-secret"'
    (tmp_path / "mirror").mkdir()
    async with Sandbox(World(), options=Options(quota_per_minute=None)) as sandbox:
        config = write_config(tmp_path, sandbox)
        config.write_text(re.sub(r"\[auth\]\n.*\n.*", auth, config.read_text()))
        config.chmod(0o600)
        (tmp_path / "state").mkdir()
        store = TokenStore(tmp_path / "state")
        store.save(TokenPair(refresh_token=sandbox.tokens.issue_refresh_token("anna")))
        sandbox.faults.add(Fault(server="token", kind="wait-after-commit", seconds=2))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "dcsync", "--config", str(config), "run"),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        async with dying(process), asyncio.timeout(120):
            while sandbox.tokens.refresh_count == 0:  # noqa: ASYNC110 - the sandbox has no event for it
                await asyncio.sleep(0.01)  # noqa: TID251 - another process's work
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)
            await process.communicate()

        assert process.returncode == 0
        saved = store.read()
        assert saved is not None
        assert saved.refresh_token in sandbox.tokens.live_refresh_tokens


async def test_a_second_daemon_is_refused_with_the_first_one_s_pid(tmp_path: Path) -> None:
    """docs/project/faults.md M7."""
    async with running(tmp_path) as daemon:
        second = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "dcsync", "--config", str(tmp_path / "config.toml"), "run"),
            env={**os.environ, TOKEN: "x"},
            stderr=asyncio.subprocess.PIPE,
        )
        async with dying(second):
            _, err = await second.communicate()

        assert second.returncode == 11
        assert f"pid {daemon.pid} (run)" in err.decode()


async def test_sighup_takes_a_good_configuration_and_keeps_a_bad_one_out(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        config = tmp_path / "config.toml"
        good = config.read_text()
        config.write_text(good + "\nbad = [")
        daemon.send(signal.SIGHUP)
        await daemon.until(lambda: any("not reloaded" in str(line["event"]) for line in daemon.said()), "its refusal")

        old_name = good.replace("[mirror]\n", '[mirror]\nstrategy = "archive"\n')
        config.write_text(old_name + '\n[poll]\ninterval = "1h"')
        daemon.send(signal.SIGHUP)
        await daemon.until(
            lambda: any(line["event"] == "configuration reloaded" for line in daemon.said()), "its reload"
        )
        (warning,) = [line for line in daemon.said() if line["event"] == "old name in the configuration"]
        assert (warning["level"], warning["key"], warning["line"]) == ("warning", "mirror.strategy", 2)

        daemon.send(signal.SIGTERM)
        assert await end(daemon) == 0


async def test_the_pages_are_there_and_a_callback_polls(tmp_path: Path, unused_tcp_port: int) -> None:
    world = World()
    request = world.add_request("Nightly")
    world.add_job(request, files=tables(2))
    async with running(tmp_path, f'[http]\nlisten = "127.0.0.1:{unused_tcp_port}"', world=world) as daemon:
        base = f"http://127.0.0.1:{unused_tcp_port}"
        snapshots = lambda: list((tmp_path / "mirror").glob("acme/*/[0-9]*/**/_dcsync.json"))  # noqa: E731
        await daemon.until(snapshots, "its first snapshot")
        await daemon.until((tmp_path / "state/daemon.json").exists, "its state")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{base}/metrics") as answer:
                figures = (await answer.read()).decode()
            assert re.search(
                r'^dcsync_last_poll_timestamp_seconds\{account="acme"\} 1\.\d+e\+09$', figures, re.MULTILINE
            )
            secret = (tmp_path / "state/callback.secret").read_text().strip()
            assert len(secret) >= 43
            body = {"accountId": world.account_id, "requestId": request, "jobId": "forged", "state": "complete"}
            before = daemon.polls()
            for _ in range(50):
                async with session.post(f"{base}/callback/{secret}", json=body) as answer:
                    assert answer.status == 204
            await daemon.until(lambda: daemon.polls() > before, "the poll that was asked for")
            async with session.post(f"{base}/callback/{secret}", json={**body, "requestId": "unknown"}) as answer:
                assert answer.status == 204
        # At most one extra poll in 30 s, however many callbacks arrive.
        assert daemon.polls() == before + 1
        assert secret not in daemon.log.read_text()


async def test_memory_after_thirty_polls_is_that_after_ten(tmp_path: Path) -> None:
    """The fault-injection tests do this with a thousand polls and a thousand jobs."""
    async with running(tmp_path) as daemon:
        sizes = {}
        for number in range(1, 31):
            before = daemon.polls()
            daemon.send(signal.SIGUSR1)
            await daemon.until(lambda: daemon.polls() > before, "a poll")  # noqa: B023 - called before the next round
            if number in {10, 30}:
                sizes[number] = resident(daemon.pid)

        assert sizes[30] < 1.1 * sizes[10], sizes
        assert descriptors(daemon.pid) < 60


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
