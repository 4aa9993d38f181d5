"""The operator's programs: what they are given, how they may end, and that nothing is left of them."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from dcsync.app.alerts import alert_settings
from dcsync.app.from_config import hidden_names
from dcsync.app.stores import FileStores
from dcsync.config import Config
from dcsync.core.alerts import AlertCode
from dcsync.core.events import Event, EventKind
from dcsync.manifest import HookRun, HookRuns, HookState, open_manifest
from dcsync.ops.alerts.hooks import RETRY_AFTER, Hook, hooks_for, run_due
from tests.fakes import NOON, FakeClock

K = EventKind
MINUTE = timedelta(minutes=1)
#: Longer than any test: what lives so long was not ended.
FOR_EVER = "sleep 600"


@dataclass(slots=True, kw_only=True)
class Bench:
    """A place where hooks run."""

    runs: HookRuns
    folder: Path
    clock: FakeClock
    environ: dict[str, str]
    timeout: timedelta = MINUTE

    def fifo(self, name: str = "fifo") -> Path:
        """Return a pipe through which a program says that it has come so far."""
        path = self.folder / name
        os.mkfifo(path)
        return path

    async def due(self, script: str, *, kind: EventKind = K.SNAPSHOT, **data: Any) -> tuple[str, ...]:
        """Note an event for a shell script, and return its argv."""
        argv = ("/bin/sh", "-c", script)
        event = Event(kind=kind, account="acme", at=self.clock.now(), message="ü", job="job-1", data=data)
        await self.runs.add([(argv, event)])
        return argv

    async def run_due(self, *argvs: tuple[str, ...]) -> list[HookRun]:
        """Run what is due; these hooks are the configured ones, with the bench's time-out."""
        hooks = [Hook(on=frozenset(K), argv=argv, timeout=self.timeout) for argv in argvs]
        return await run_due(self.runs, self.clock, hooks, self.environ)

    async def run(self, script: str, **data: Any) -> HookRun:
        """Run a shell script as a hook once, and return how that went."""
        await self.run_due(await self.due(script, **data))
        return await self.last()

    async def last(self) -> HookRun:
        (found,) = await self.runs.latest(limit=1)
        return found


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_manifest(tmp_path / "manifest.sqlite") as manifest:
        yield Bench(
            runs=HookRuns(manifest), folder=tmp_path, clock=FakeClock(), environ={"PATH": os.environ["PATH"], "A": "1"}
        )


@dataclass(slots=True)
class Process:
    """A process that a program started, watched by a descriptor: its number may be another's when it is gone."""

    pid: int
    watch: int

    def has_ended(self) -> bool:
        """Say whether it ends, at the latest in some seconds."""
        return bool(select.select([self.watch], [], [], 10)[0])

    def end(self) -> None:
        signal.pidfd_send_signal(self.watch, signal.SIGKILL)


async def said(fifo: Path) -> Process:
    """Wait until a program says its number."""
    descriptor, heard = os.open(fifo, os.O_RDWR | os.O_NONBLOCK), asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, heard.set)
    try:
        async with asyncio.timeout(30):
            await heard.wait()
        pid = int(os.read(descriptor, 100))
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
    return Process(pid, os.pidfd_open(pid))


# --- which hooks ------------------------------------------------------------------------------------------------------


def make_event(kind: EventKind, code: str = "") -> Event:
    return Event(kind=kind, account="acme", at=NOON, message="m", code=code)


def test_a_hook_runs_for_the_events_it_is_for_in_their_order() -> None:
    load = Hook(on=frozenset({K.SNAPSHOT}), argv=("load",), timeout=MINUTE)
    page = Hook(on=frozenset({K.FAILURE, K.SNAPSHOT}), argv=("page",), timeout=MINUTE)
    events = [make_event(K.FAILURE), make_event(K.SNAPSHOT), make_event(K.RECOVERED)]

    assert hooks_for([load, page], events) == [(("page",), events[0]), (("load",), events[1]), (("page",), events[1])]


@pytest.mark.parametrize("kind", EventKind)
def test_a_hook_that_failed_for_good_and_is_mended_runs_no_hooks(kind: EventKind) -> None:
    hook = Hook(on=frozenset(K), argv=("page",), timeout=MINUTE)

    assert hooks_for([hook], [make_event(kind, AlertCode.H_FAILED)]) == []
    assert len(hooks_for([hook], [make_event(kind, "A-NETWORK")])) == 1


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


# --- how it may end ---------------------------------------------------------------------------------------------------


async def test_one_that_fails_is_tried_after_one_and_after_ten_minutes_and_then_given_up(bench: Bench) -> None:
    argv = await bench.due("echo tried >> tries; echo no such table >&2; exit 7".replace("tries", f"{bench.folder}/n"))
    seen: list[tuple[HookState, int, datetime | None]] = []
    given_up: list[HookRun] = []

    for wait in (timedelta(0), *RETRY_AFTER):
        if wait:
            bench.clock.advance(wait.total_seconds() - 1)
            assert await bench.run_due(argv) == []
            bench.clock.advance(1)
        given_up = await bench.run_due(argv)
        run = await bench.last()
        seen.append((run.state, run.attempts, run.next_try_at))
        assert (run.exit_status, run.error) == (7, "no such table")

    assert seen == [
        (HookState.DUE, 1, NOON + MINUTE),
        (HookState.DUE, 2, NOON + 11 * MINUTE),
        (HookState.FAILED, 3, None),
    ]
    assert [run.argv for run in given_up] == [argv]
    bench.clock.advance(10**6)
    assert await bench.run_due(argv) == []
    assert (bench.folder / "n").read_text() == "tried\n" * 3


async def test_one_that_works_at_last_is_done(bench: Bench) -> None:
    argv = await bench.due(f"test -e {bench.folder}/ready")
    await bench.run_due(argv)
    (bench.folder / "ready").touch()
    bench.clock.advance(60)

    assert await bench.run_due(argv) == []
    run = await bench.last()
    assert (run.state, run.attempts, run.exit_status, run.error) == (HookState.DONE, 2, 0, None)


async def test_one_that_works_again_makes_up_for_the_snapshots_for_which_it_failed(bench: Bench) -> None:
    """It took a person and a command for each of them."""
    argv = ("/bin/sh", "-c", f"test -e {bench.folder}/mended && cat >> {bench.folder}/heard")

    async def add(job: str, kind: EventKind = K.SNAPSHOT) -> None:
        event = Event(kind=kind, account="acme", at=bench.clock.now(), message="", job=job, data={})
        await bench.runs.add([(argv, event)])

    for job in ("one", "two"):
        await add(job)
    for _ in range(len(RETRY_AFTER) + 1):
        await bench.run_due(argv)
        bench.clock.advance(3600)
    assert len(await bench.runs.failed("acme")) == 2

    # As long as it fails, nothing is tried again.
    await add("three")
    await bench.run_due(argv)
    assert len(await bench.runs.failed("acme")) == 2
    assert await bench.runs.next_at() == bench.clock.now() + RETRY_AFTER[0]
    (bench.folder / "mended").touch()
    bench.clock.advance(3600)
    assert await bench.run_due(argv) == []

    heard = [json.loads(line)["job"] for line in (bench.folder / "heard").read_text().splitlines()]
    assert heard == ["three", "one", "two"]
    assert await bench.runs.failed("acme") == ()
    assert await bench.runs.next_at() is None


async def test_one_that_fails_for_one_snapshot_only_is_tried_once_with_each_success(bench: Bench) -> None:
    argv = ("/bin/sh", "-c", f"grep -q good || {{ echo >> {bench.folder}/tries; exit 1; }}")

    async def add(job: str) -> None:
        event = Event(kind=K.SNAPSHOT, account="acme", at=bench.clock.now(), message="", job=job, data={})
        await bench.runs.add([(argv, event)])

    await add("bad")
    for _ in range(len(RETRY_AFTER) + 1):
        await bench.run_due(argv)
        bench.clock.advance(3600)

    for number in range(1, 4):
        await add(f"good-{number}")
        await bench.run_due(argv)
        assert (bench.folder / "tries").read_text().count("\n") == len(RETRY_AFTER) + 1 + number
        assert [run.job for run in await bench.runs.failed("acme")] == ["bad"]
        assert await bench.runs.next_at() is None


async def test_one_that_fails_does_not_keep_the_others_from_running(bench: Bench) -> None:
    argvs = [await bench.due(script) for script in ("exit 1", "true", "exit 2", f": > {bench.folder}/last")]

    await bench.run_due(*argvs)

    assert [run.exit_status for run in reversed(await bench.runs.latest())] == [1, 0, 2, 0]
    assert (bench.folder / "last").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("/no/such/program",), "/no/such/program cannot be started: No such file or directory"),
        (("no-such-program",), "no-such-program cannot be started: No such file or directory"),
        (("/",), "/ cannot be started: Permission denied"),
        (("/bin/tr\0ue",), "/bin/tr\\x00ue cannot be started: ValueError"),
    ],
)
async def test_one_that_cannot_be_started_is_said(bench: Bench, argv: tuple[str, ...], words: str) -> None:
    await bench.runs.add([(argv, make_event(K.FAILURE))])

    await bench.run_due(argv)

    run = await bench.last()
    assert (run.state, run.exit_status, run.error) == (HookState.DUE, None, words)


async def test_a_bug_in_running_one_does_not_keep_the_others_from_running(bench: Bench) -> None:
    event = Event(kind=K.SNAPSHOT, account="acme", at=NOON, message="m", job="job-1")
    await bench.runs.add([(cast("Any", ["true", 5]), event), (["true"], event)])

    await bench.run_due()

    good, bad = await bench.runs.latest()
    assert (good.state, bad.state) == (HookState.DONE, HookState.DUE)
    assert bad.error == "not run because of a bug in dcsync (TypeError)"


async def test_of_its_output_the_end_is_kept_where_programs_say_what_went_wrong(bench: Bench) -> None:
    run = await bench.run("head -c 1000000 /dev/zero; printf 'ü%.0s' $(seq 500); printf '\\033[31m\\nlast'; exit 1")

    assert run.error is not None
    assert run.error.endswith("üü\\x1b[31m\\nlast")
    assert 1000 < len(run.error) <= 2000


async def test_without_a_word_its_exit_status_is_what_is_known(bench: Bench) -> None:
    assert (await bench.run("exit 3")).error == "exit status 3"
    assert (await bench.run("kill -KILL $$")).exit_status == -signal.SIGKILL


async def test_what_it_said_is_nothing_to_keep_when_it_worked(bench: Bench) -> None:
    assert (await bench.run("echo all is well")).error is None


async def test_what_became_of_it_is_logged_with_what_to_do(bench: Bench) -> None:
    with capture_logs() as lines:
        argv = await bench.due("exit 1")
        for wait in (0, 60, 600):
            bench.clock.advance(wait)
            await bench.run_due(argv)
        await bench.run("true")

    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("hook failed, will be retried", "warning"),
        ("hook failed, will be retried", "warning"),
        ("hook failed", "error"),
        ("hook succeeded", "info"),
    ]
    assert lines[2]["hint"].endswith("To run it now: dcsync hooks rerun job-1")


async def test_one_that_nobody_can_run_again_has_another_hint(bench: Bench) -> None:
    argv = await bench.due("exit 1", kind=K.ALERT)
    with capture_logs() as lines:
        for wait in (0, 60, 600):
            bench.clock.advance(wait)
            await bench.run_due(argv)

    assert lines[2]["hint"] == "fix the hook. The next event runs it again"


# --- that nothing is left of it ---------------------------------------------------------------------------------------


async def test_one_that_takes_too_long_is_stopped_with_all_it_started(bench: Bench) -> None:
    parent, child = bench.fifo("parent"), bench.fifo("child")
    # The child does not listen to the polite signal.
    stubborn = f"sh -c 'trap \"\" TERM; echo $$ > {child}; exec {FOR_EVER}'"
    bench.timeout = timedelta(seconds=2)
    argv = await bench.due(f"{stubborn} & echo $$ > {parent}; echo loading; wait")

    async with asyncio.TaskGroup() as group:
        processes = [group.create_task(said(fifo)) for fifo in (parent, child)]
        await bench.run_due(argv)

    run = await bench.last()
    assert (run.state, run.exit_status, run.error) == (HookState.DUE, None, "stopped after 0:00:02: loading")
    assert [process.result().has_ended() for process in processes] == [True, True]


async def test_one_that_is_told_to_stop_may_say_its_last_words(bench: Bench) -> None:
    bench.timeout = timedelta(seconds=1)

    run = await bench.run(f"trap 'echo rolled back; exit 0' TERM; {FOR_EVER} & wait")

    assert (run.exit_status, run.error) == (None, "stopped after 0:00:01: rolled back")


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
    ways = ("it left a process running that holds its output", "it left processes running: sleep (pid ")
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


async def test_a_hook_that_is_not_configured_any_more_still_runs(bench: Bench) -> None:
    await bench.due(f": > {bench.folder}/ran")

    await bench.run_due()

    assert (bench.folder / "ran").exists()
