"""A system that starts no thread for dcsync: a message with a hint instead of a traceback, and the daemon waits."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.rigs.ended import ending
from tests.rigs.served import TOKEN, Served, served

#: A user without any other process, so that a limit of one is reached. Each worker of the tests has another one.
UID = str(64_000 + os.getpid() % 1000)
pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tool("setpriv"), pytest.mark.timeout(300)]


@pytest.fixture
def side() -> Iterator[Served]:
    with of_the_user() as ready:
        yield ready


@pytest.fixture(scope="module")
def synced() -> Iterator[Served]:
    """A mirror for the commands, none of which can change it. A run makes it, which may start threads."""
    with of_the_user() as ready:
        with ending(start(ready, "sync", limit=500)) as process:
            process.communicate(timeout=120)
        assert process.returncode == 0
        yield ready


@contextmanager
def of_the_user() -> Iterator[Served]:
    """Serve an empty sandbox, and make a configuration for a user who may start no thread."""
    # Not below tmp_path, which other users cannot enter.
    folder = Path(tempfile.mkdtemp())
    try:
        with served(folder) as ready:
            ready.root.mkdir(exist_ok=True)
            for path in (folder, *folder.rglob("*")):
                os.chown(path, int(UID), int(UID))
            yield ready
    finally:
        shutil.rmtree(folder)


def start(side: Served, *arguments: str, limit: int) -> subprocess.Popen[str]:
    """Start dcsync as a user who may have so many threads and processes, and who can read every file."""
    drop = ["setpriv", "--reuid", UID, "--regid", UID, "--clear-groups"]
    read = ["--inh-caps", "+dac_override,+dac_read_search", "--ambient-caps", "+dac_override,+dac_read_search"]
    command = [sys.executable, "-m", "dcsync", "--config", str(side.config), "--log-format", "json", *arguments]
    return subprocess.Popen(
        ["prlimit", f"--nproc={limit}:1000", *drop, *read, *command],
        env={**os.environ, TOKEN: side.token},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("command", ["sync", "status", "verify", "requests", "doctor", "prune"])
def test_a_command_says_what_to_do(synced: Served, command: str) -> None:
    with ending(start(synced, command, limit=1)) as process:
        _, errors = process.communicate(timeout=120)

    assert "Traceback" not in errors
    assert (process.returncode, "D-THREADS" in errors) == (3, True), errors
    assert "TasksMax=" in errors


def test_the_daemon_waits_and_works_as_soon_as_it_can(side: Served) -> None:
    with ending(start(side, "run", limit=1)) as process:
        assert process.stderr is not None
        assert "D-THREADS" in process.stderr.readline()

        raised = ["prlimit", "--pid", str(process.pid), "--nproc=500:1000"]
        subprocess.run(["setpriv", "--reuid", UID, "--regid", UID, "--clear-groups", *raised], check=True)
        deadline = time.monotonic() + 120
        while not (side.root / "index.html").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)  # noqa: TID251 - another process
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)

    assert process.returncode == 0
    assert "Traceback" not in errors


def test_a_few_threads_are_enough_for_a_sync(side: Served) -> None:
    with ending(start(side, "sync", limit=5)) as process:
        _, errors = process.communicate(timeout=120)

    assert "Traceback" not in errors
    assert process.returncode == 0, errors
