"""Which hooks run for an event, and what becomes of those that fail."""

from __future__ import annotations

import json
import signal
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from dcsync.core.alerts import AlertCode
from dcsync.core.events import Event, EventKind
from dcsync.manifest import HookRun, HookState
from dcsync.ops.alerts.hooks import RETRY_AFTER, Hook, hooks_for
from tests.fakes import NOON
from tests.rigs.hooks import MINUTE, Bench, K, make_event

# --- which hooks ------------------------------------------------------------------------------------------------------


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
        ("hook succeeded", "debug"),
    ]
    assert lines[2]["hint"].endswith("To run it now: dcsync hooks rerun job-1")


async def test_one_that_nobody_can_run_again_has_another_hint(bench: Bench) -> None:
    argv = await bench.due("exit 1", kind=K.ALERT)
    with capture_logs() as lines:
        for wait in (0, 60, 600):
            bench.clock.advance(wait)
            await bench.run_due(argv)

    assert lines[2]["hint"] == "fix the hook. The next event runs it again"


async def test_a_hook_that_is_not_configured_any_more_still_runs(bench: Bench) -> None:
    await bench.due(f": > {bench.folder}/ran")

    await bench.run_due()

    assert (bench.folder / "ran").exists()
