"""A process that waits for a disk that does not answer ends in time all the same, and status says what is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Dcsync
from tests.cli.test_run import end, launched, running
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
            await asyncio.to_thread(until, lambda: waits_in_a_call(process.pid), "a call that hangs")
            process.send_signal(signal.SIGTERM)

            async with asyncio.timeout(120):
                assert await process.wait() == 0


def test_an_interrupt_ends_a_sync_although_the_disk_hangs(side: Served) -> None:
    with hung(side.root):
        process = start(side, "sync")
        until(lambda: waits_in_a_call(process.pid), "a call that hangs")
        process.send_signal(signal.SIGINT)

        _, errors = process.communicate(timeout=120)

    assert process.returncode == 130
    assert "without waiting for the disk" in errors


def test_status_does_not_wait_for_the_mirrors_disk(side: Served, dcsync: Dcsync) -> None:
    assert dcsync("sync").status == 0

    with hung(side.root):
        process = start(side, "status", "--check", "--json")
        out, _ = process.communicate(timeout=120)

    disk = json.loads(out)["disk"]
    assert process.returncode == 14
    assert (disk["free_bytes"], disk["alert"]["code"]) == (None, "F-HUNG")
    assert "has not answered for 10 s" in disk["alert"]["message"]


def test_status_does_not_wait_for_the_state_folders_disk(side: Served, dcsync: Dcsync) -> None:
    assert dcsync("sync").status == 0

    with hung(side.state):
        process = start(side, "status", "--check")
        _, errors = process.communicate(timeout=200)

    assert process.returncode == 14
    assert "the disk of state.dir does not answer" in errors
