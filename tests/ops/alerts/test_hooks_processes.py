"""The process of a hook: what it is given, how it is stopped, and that it leaves nothing running."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dcsync.app.alerts import alert_settings
from dcsync.app.from_config import hidden_names
from dcsync.app.stores import FileStores
from dcsync.config import Config
from dcsync.manifest import HookState
from tests.fakes import NOON
from tests.rigs.hooks import Bench, K, make_event

#: Longer than any test: what lives so long was not ended.
FOR_EVER = "sleep 600"


@dataclass(slots=True)
class Process:
    """A process that a program started, watched by a descriptor: its number may be another's when it is gone."""

    pid: int
    watch: int

    def has_ended(self) -> bool:
        """Say whether it ends."""
        return bool(select.select([self.watch], [], [], 120)[0])

    def end(self) -> None:
        signal.pidfd_send_signal(self.watch, signal.SIGKILL)


async def said(fifo: Path) -> Process:
    """Wait until a program says its number."""
    descriptor, heard = os.open(fifo, os.O_RDWR | os.O_NONBLOCK), asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, heard.set)
    try:
        async with asyncio.timeout(120):
            await heard.wait()
        pid = int(os.read(descriptor, 100))
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
    return Process(pid, os.pidfd_open(pid))


# --- what a program is given ------------------------------------------------------------------------------------------


async def test_it_reads_the_event_as_one_line_of_json(bench: Bench) -> None:
    run = await bench.run(f"cat > {bench.folder}/event", folder="/srv/ü", size=3)

    text = (bench.folder / "event").read_text("utf-8")
    assert text.count("\n") == 1
    assert json.loads(text) == run.event
    assert run.event["folder"] == "/srv/ü"
    assert (run.state, run.exit_status, run.error, run.attempts) == (HookState.DONE, 0, None, 1)
    assert (run.ended_at, run.next_try_at) == (NOON, None)


async def test_its_arguments_go_through_no_shell(bench: Bench) -> None:
    argv = ("/bin/sh", "-c", 'printf "%s" "$1" > "$2"', "-", "$(id) ; *", str(bench.folder / "said"))
    await bench.runs.add([(argv, make_event(K.FAILURE))])

    await bench.run_due(argv)

    assert (bench.folder / "said").read_text() == "$(id) ; *"


@pytest.mark.parametrize("script", ["true", "exec <&-; echo said", "head -c 10 > /dev/null"])
async def test_a_program_that_does_not_read_its_input_is_as_good_as_one_that_does(bench: Bench, script: str) -> None:
    assert (await bench.run(script)).state is HookState.DONE
    # Nor does it matter that the event is more than a pipe holds.
    assert (await bench.run(script, large="x" * 3_000_000)).state is HookState.DONE


async def test_a_large_event_and_an_answer_as_large_hold_each_other_up_never(bench: Bench) -> None:
    run = await bench.run(f"tee {bench.folder}/event", large="x" * 3_000_000)

    assert run.state is HookState.DONE
    assert json.loads((bench.folder / "event").read_text()) == run.event


async def test_it_gets_the_environment_without_our_secrets_and_systemd_s_business_with_us(bench: Bench) -> None:
    document = {
        "mirror": {"root": "/srv/dcsync"},
        "auth": {"method": "login", "client_id": "x", "client_secret": "env:OUR_SECRET"},
        "http": {"callback_secret": "env:OUR_CALLBACK"},
        "heartbeat": {"url": "env:OUR_BEAT"},
        "notify": {"urls": ["env:OUR_NOTIFY", "env:OUR_SECOND"]},
    }
    ours = ["OUR_SECRET", "OUR_CALLBACK", "OUR_BEAT", "OUR_NOTIFY", "OUR_SECOND"]
    systemds = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY"]
    config = Config.model_validate(document)
    environ = {**bench.environ, **dict.fromkeys([*ours, *systemds], "hunter2"), "HOME": "/home/ana"}
    bench.environ = dict(alert_settings(config, FileStores(bench.folder), environ=environ).environ)

    await bench.run(f"env > {bench.folder}/env")

    names = {line.partition("=")[0] for line in (bench.folder / "env").read_text().splitlines()}
    assert hidden_names(config) == {*ours, *systemds}
    assert names >= {"PATH", "HOME", "A"}
    assert "hunter2" not in (bench.folder / "env").read_text()


# --- that nothing is left of it ---------------------------------------------------------------------------------------


async def test_one_that_takes_too_long_is_stopped_with_all_it_started(bench: Bench) -> None:
    parent, child = bench.fifo("parent"), bench.fifo("child")
    # The child does not listen to the polite signal.
    stubborn = f"sh -c 'trap \"\" TERM; echo $$ > {child}; exec {FOR_EVER}'"
    # Long enough for it to begin on a busy machine.
    bench.timeout = timedelta(seconds=5)
    argv = await bench.due(f"{stubborn} & echo $$ > {parent}; echo loading; wait")

    async with asyncio.TaskGroup() as group:
        processes = [group.create_task(said(fifo)) for fifo in (parent, child)]
        await bench.run_due(argv)

    run = await bench.last()
    assert (run.state, run.exit_status, run.error) == (HookState.DUE, None, "stopped after 0:00:05: loading")
    assert [process.result().has_ended() for process in processes] == [True, True]


async def test_one_that_is_told_to_stop_may_say_its_last_words(bench: Bench) -> None:
    bench.timeout = timedelta(seconds=5)

    run = await bench.run(f"trap 'echo rolled back; exit 0' TERM; {FOR_EVER} & wait")

    assert (run.exit_status, run.error) == (None, "stopped after 0:00:05: rolled back")


async def test_what_it_left_running_ends_with_it_and_its_own_status_counts(bench: Bench) -> None:
    fifo = bench.fifo()
    argv = await bench.due(f"{FOR_EVER} & echo $! > {fifo}; exit 0")

    async with asyncio.TaskGroup() as group:
        left = group.create_task(said(fifo))
        await bench.run_due(argv)

    run = await bench.last()
    assert (run.state, run.error) == (HookState.DONE, "it left processes running, which dcsync ended")
    assert left.result().has_ended()


@pytest.mark.needs_tool("setsid")
async def test_what_left_its_group_and_holds_its_output_does_not_hold_us_up(bench: Bench) -> None:
    fifo, away = bench.fifo(), bench.fifo("away")
    argv = await bench.due(f"setsid sh -c 'echo $$ > {fifo}; echo > {away}; exec {FOR_EVER}' & read line < {away}")

    async with asyncio.TaskGroup() as group:
        escaped = group.create_task(said(fifo))
        next_one = await bench.due("true")
        async with asyncio.timeout(60):
            with capture_logs() as logged:
                await bench.run_due(argv, next_one)

    following, run = await bench.runs.latest()
    # Another test may have made this process the parent of orphans, as the daemon is. Then it knows their names.
    ways = ("it left a process running that holds its output", "it left processes running: ")
    assert run.state is HookState.DONE
    assert (run.error or "").startswith(ways)
    assert (following.state, following.error) == (HookState.DONE, None)
    (line,) = [line for line in logged if line["event"] == "a hook left processes behind"]
    assert line["left"] == run.error
    escaped.result().end()
    assert escaped.result().has_ended()


async def test_cancelled_it_leaves_the_run_due_and_no_process(bench: Bench) -> None:
    fifo = bench.fifo()
    argv = await bench.due(f"echo $$ > {fifo}; exec {FOR_EVER}")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(bench.run_due(argv))
        process = await said(fifo)
        task.cancel()

    assert task.cancelled()
    assert process.has_ended()
    (run,) = await bench.runs.due(NOON)
    assert (run.attempts, run.ended_at) == (0, None)


async def test_a_ctrl_c_at_our_terminal_is_not_its_own(bench: Bench) -> None:
    await bench.run(f"ps -o pgid=,sid= -p $$ > {bench.folder}/ids; echo $$ >> {bench.folder}/ids")

    group, session, own = (bench.folder / "ids").read_text().split()
    assert group == session == own
