"""The daemon as the parent of what hooks leave behind, and as PID 1 of a container."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cli.conftest import Dcsync
from tests.rigs.ended import ending
from tests.rigs.served import TOKEN, Served

pytestmark = [pytest.mark.needs_tool("setsid"), pytest.mark.timeout(300)]


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 150
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)  # noqa: TID251 - another process


def children(pid: int) -> dict[int, str]:
    """Return the children of a process with their states."""
    found = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found[int(place.parent.name)] = fields[0]
    return found


@contextmanager
def daemon(side: Served, *before: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon whose hook leaves a process behind that has a session of its own."""
    order = side.sandbox.world.add_request("Nightly")
    side.sandbox.world.add_job(order, completed_at=datetime.now(UTC), files={"a.csv": b"id\n"}, with_archive=False)
    # The hook ends when the process has its session and its name. Before that, it ends with the hook's group.
    # Another orphan has ended by then.
    left, ended = side.folder / "left", side.folder / "ended"
    script = f"setsid sh -c 'echo $$ > {left}; exec sleep 600' </dev/null >/dev/null 2>&1 & "
    script += f"until grep -qsx sleep /proc/$(cat {left})/comm; do sleep 0.05; done; (true & echo $! > {ended}); "
    script += f"while grep -qs 'State:.[^Z]' /proc/$(cat {ended})/status; do sleep 0.05; done"
    with side.config.open("a") as file:
        file.write(f'[[hook]]\non = ["snapshot"]\nrun = ["/bin/sh", "-c", "{script}"]\n')
    log = side.folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *before,
                sys.executable,
                "-m",
                "dcsync",
                "--config",
                str(side.config),
                "--log-format",
                "json",
                "--log-level",
                "debug",
                "run",
            ],
            env={**os.environ, TOKEN: side.token},
            stdout=output,
            stderr=output,
        )
    try:
        until(lambda: "hook succeeded" in log.read_text(), "the hook has run")
        yield process
    finally:
        for pid in children(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait(60)


def test_what_a_hook_left_running_is_named_and_reaped_when_it_ends(side: Served, dcsync: Dcsync) -> None:
    with daemon(side) as process:
        (left,) = children(process.pid)
        log = (side.folder / "log.txt").read_text()
        assert f"it left processes running: sleep (pid {left})" in log
        assert left == int((side.folder / "left").read_text())
        (run,) = dcsync("hooks", "list", "--json").json["hooks"]
        assert (run["state"], run["error"]) == ("done", f"it left processes running: sleep (pid {left})")

        os.kill(left, signal.SIGKILL)

        until(lambda: not children(process.pid), "the zombie is reaped")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.needs_root
@pytest.mark.needs_tool("unshare")
def test_as_pid_1_it_reaps_orphans_and_its_signals_work(side: Served) -> None:
    with daemon(side, "unshare", "--pid", "--fork", "--mount-proc", "--kill-child") as outer:
        (first,) = children(outer.pid)
        assert Path(f"/proc/{first}/status").read_text().split("NSpid:")[1].split()[1] == "1"
        (left,) = children(first)
        os.kill(left, signal.SIGKILL)
        # An orphan that no hook left, as that of a shell in the container.
        entered = ["nsenter", "--target", str(first), "--pid", "--mount", "sh", "-c", "(sleep 1 &)"]
        subprocess.run(entered, check=True)
        until(lambda: children(first), "the orphan has a new parent")

        until(lambda: not children(first), "both are reaped")
        os.kill(first, signal.SIGTERM)
        assert outer.wait(60) == 0
    log = (side.folder / "log.txt").read_text()
    assert "Traceback" not in log


#: A command that takes long before it handles signals.
_SLOW_START = """
import time
import dcsync.cli.group
from dcsync.cli import main
dcsync.cli.group.run = lambda _: print("started", flush=True) or time.sleep(600)
main()
"""


@pytest.mark.needs_root
@pytest.mark.needs_tool("unshare")
def test_as_pid_1_a_start_can_be_stopped() -> None:
    """The kernel gives PID 1 no signal that it does not handle."""
    entered = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", _SLOW_START]
    with ending(subprocess.Popen(entered, stdout=subprocess.PIPE)) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == b"started\n"
        (first,) = children(outer.pid)
        os.kill(first, signal.SIGTERM)
        assert outer.wait(60) == 130
