"""A process that waits for a disk that does not answer ends in time all the same, and status says what is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from dcsync.auth.token_store import TokenPair, TokenStore
from dcsync.sandbox import Fault, Options, Sandbox, World
from tests.cli.conftest import Dcsync
from tests.cli.test_run import Daemon, end, launched, running, write_config
from tests.rigs.ended import dying, ending
from tests.rigs.hung import hung
from tests.rigs.served import TOKEN, Served

pytestmark = [pytest.mark.needs_root, pytest.mark.timeout(300)]


def waits_in_a_call(pid: int) -> bool:
    """Say whether a thread of a process waits for FUSE."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            if "fuse" in (task / "wchan").read_text() or "request_wait_answer" in (task / "stack").read_text():
                return True
        except OSError:
            continue
    return False


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)  # noqa: TID251 - another process


def start(side: Served, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dcsync", "--config", side.config, *arguments],
        env={**os.environ, TOKEN: side.token},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_sigterm_ends_the_daemon_although_the_disk_hangs(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        await daemon.until((tmp_path / "mirror" / "views.sql").exists, "the end of its first poll", within_s=120)
        with hung(tmp_path / "mirror"):
            daemon.send(signal.SIGUSR1)
            await daemon.until(lambda: waits_in_a_call(daemon.pid), "a call that hangs", within_s=120)
            daemon.send(signal.SIGTERM)

            async with asyncio.timeout(120):
                assert await daemon.process.wait() == 0
        assert str(daemon.said()[-1]["event"]).startswith("stopped without waiting for the disk")

        async with launched(tmp_path, daemon.sandbox) as again:
            again.send(signal.SIGTERM)
            assert await end(again) == 0


async def test_sigterm_ends_a_daemon_that_starts_on_a_hung_disk(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.send(signal.SIGTERM)
        assert await end(daemon) == 0
        with hung(tmp_path / "mirror"):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "dcsync", "--config", str(tmp_path / "config.toml"), "run"),
                env={**os.environ, "RUN_TEST_TOKEN": "token"},
                stderr=asyncio.subprocess.DEVNULL,
            )
            async with dying(process):
                await asyncio.to_thread(until, lambda: waits_in_a_call(process.pid), "a call that hangs")
                process.send_signal(signal.SIGTERM)

                async with asyncio.timeout(120):
                    assert await process.wait() == 0


async def test_a_new_refresh_token_is_saved_although_the_disk_hangs(tmp_path: Path, unused_tcp_port: int) -> None:
    """docs/project/faults.md D8. The refresh takes longer than any other work may after SIGTERM."""
    (tmp_path / "mirror").mkdir()
    async with Sandbox(World(), options=Options(quota_per_minute=None)) as sandbox:
        config = write_config(tmp_path, sandbox, f'[http]\nlisten = "127.0.0.1:{unused_tcp_port}"')
        auth = '[auth]\nmethod = "login"\nclient_id = "sandbox"\nclient_secret = "sandbox-secret"'
        config.write_text(re.sub(r"\[auth\]\n.*\n.*", auth, config.read_text()))
        config.chmod(0o600)
        (tmp_path / "state").mkdir()
        store = TokenStore(tmp_path / "state")
        store.save(TokenPair(refresh_token=sandbox.tokens.issue_refresh_token("anna")))
        sandbox.faults.add(Fault(server="token", kind="wait-after-commit", seconds=20))
        async with started(tmp_path, sandbox) as daemon:
            await daemon.until(lambda: sandbox.tokens.refresh_count, "its refresh", within_s=120)
            with hung(tmp_path / "mirror"):
                async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
                    page = group.create_task(ask(session, f"http://127.0.0.1:{unused_tcp_port}/"))
                    await daemon.until(lambda: waits_in_a_call(daemon.pid), "a call that hangs", within_s=120)
                    daemon.send(signal.SIGTERM)
                    async with asyncio.timeout(120):
                        assert await daemon.process.wait() == 0
                    page.cancel()

        saved = store.read()
        assert saved is not None
        assert saved.refresh_token in sandbox.tokens.live_refresh_tokens


async def ask(session: aiohttp.ClientSession, address: str) -> None:
    with suppress(aiohttp.ClientError):
        await session.get(address)


@asynccontextmanager
async def started(folder: Path, sandbox: Sandbox) -> AsyncIterator[Daemon]:
    log = folder / "log.jsonl"
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dcsync", "--config", str(folder / "config.toml"), "--log-format", "json", "run"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
        )
    async with dying(process):
        yield Daemon(process=process, sandbox=sandbox, folder=folder, log=log)


def test_an_interrupt_ends_a_sync_although_the_disk_hangs(side: Served) -> None:
    with hung(side.root), ending(start(side, "sync")) as process:
        until(lambda: waits_in_a_call(process.pid), "a call that hangs")
        process.send_signal(signal.SIGINT)

        _, errors = process.communicate(timeout=120)

    assert process.returncode == 130
    assert "without waiting for the disk" in errors


def test_status_does_not_wait_for_the_mirrors_disk(side: Served, dcsync: Dcsync) -> None:
    assert dcsync("sync").status == 0

    with hung(side.root), ending(start(side, "status", "--check", "--json")) as process:
        out, _ = process.communicate(timeout=120)

    disk = json.loads(out)["disk"]
    assert process.returncode == 14
    assert (disk["free_bytes"], disk["alert"]["code"]) == (None, "F-HUNG")
    assert "has not answered for 10 s" in disk["alert"]["message"]


def test_status_does_not_wait_for_the_state_folders_disk(side: Served, dcsync: Dcsync) -> None:
    assert dcsync("sync").status == 0

    with hung(side.state), ending(start(side, "status", "--check")) as process:
        _, errors = process.communicate(timeout=200)

    assert process.returncode == 14
    assert "the disk of state.dir does not answer" in errors
