"""Hooks, the operator's own programs. Each event starts one process, without a shell, with JSON on standard input."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from dcsync.clock import Clock
from dcsync.core.alerts import AlertCode
from dcsync.core.events import Event, EventKind
from dcsync.core.names import printable
from dcsync.manifest import HookRun, HookRuns, HookState
from dcsync.ops.alerts.collect import hook_hint
from dcsync.ops.alerts.orphans import ORPHANS, Child, children

log = structlog.get_logger(__name__)

#: The waits before each retry. After the last one the run has failed and becomes an alert.
RETRY_AFTER = (timedelta(minutes=1), timedelta(minutes=10))
#: Bytes that are kept of a hook's output. Its end is where programs say what failed.
_OUTPUT_TAIL = 2000
#: Processes that a message names.
_MOST_NAMED = 5
#: From SIGTERM to SIGKILL. Together with the daemon's drain it stays below the 10 s that a stop may take.
_TERM_S = 3.0
#: A killed process has ended after this, and its output is read.
_KILLED_S = 0.5
#: Finished runs are kept for this long.
KEEP_FOR = timedelta(days=90)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A `[[hook]]` of the configuration."""

    on: frozenset[EventKind]
    argv: tuple[str, ...]
    timeout: timedelta


def hooks_for(hooks: Sequence[Hook], events: Sequence[Event]) -> list[tuple[Sequence[str], Event]]:
    """Return which hooks run for which events, in the order of the events."""
    # The alert about a failed hook runs no hooks. Otherwise a failing hook would run for ever.
    return [
        (hook.argv, event)
        for event in events
        for hook in hooks
        if event.kind in hook.on and event.code != AlertCode.H_FAILED
    ]


async def run_due(runs: HookRuns, clock: Clock, hooks: Sequence[Hook], environ: Mapping[str, str]) -> list[HookRun]:
    """Run every hook that is due, one after another, and return those that failed for the last time.

    When a hook works that failed for earlier snapshots, it is run once more for each of these. A hook that is no longer
    configured runs with the default time-out. Cancelling ends the current process, and its run stays due.
    """
    limits = {hook.argv: hook.timeout for hook in hooks}
    failed, worked = await _run_each(await runs.due(clock.now()), runs, clock, limits, environ)
    again = [await runs.try_failed_again(account, argv, at=clock.now()) for account, argv in worked]
    if any(again):
        failed += (await _run_each(await runs.due(clock.now()), runs, clock, limits, environ))[0]
    return failed


async def _run_each(
    due: Sequence[HookRun],
    runs: HookRuns,
    clock: Clock,
    limits: Mapping[tuple[str, ...], timedelta],
    environ: Mapping[str, str],
) -> tuple[list[HookRun], list[tuple[str, tuple[str, ...]]]]:
    """Run these hooks. Return those that failed for the last time, and the accounts and hooks that worked."""
    failed: list[HookRun] = []
    worked: dict[tuple[str, tuple[str, ...]], None] = {}
    for run in due:
        try:
            outcome = await _run(run, limits.get(run.argv, timedelta(minutes=10)), environ)
        except Exception as error:  # one hook must not stop the others
            log.exception("a bug in dcsync; the other hooks run", hook=run.argv[0])
            outcome = _Outcome(exit_status=None, error=f"not run because of a bug in dcsync ({type(error).__name__})")
        now = clock.now()
        retry = None if outcome.succeeded else _next_try(run, now)
        state = HookState.DONE if outcome.succeeded else HookState.DUE if retry else HookState.FAILED
        await runs.finish(
            run, state=state, at=now, exit_status=outcome.exit_status, error=outcome.words, next_try_at=retry
        )
        _log_outcome(run, outcome, state, retry)
        failed.extend([run] if state is HookState.FAILED else [])
        if outcome.succeeded:
            worked[run.account, run.argv] = None
    return failed, list(worked)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    exit_status: int | None
    error: str | None
    #: What the hook left behind when it had ended.
    left: str | None = None

    @property
    def words(self) -> str | None:
        return "; ".join(text for text in (self.error, self.left) if text) or None

    @property
    def succeeded(self) -> bool:
        return self.exit_status == 0


def _next_try(run: HookRun, now: datetime) -> datetime | None:
    return now + RETRY_AFTER[run.attempts] if run.attempts < len(RETRY_AFTER) else None


class _Process(asyncio.SubprocessProtocol):
    """The end of a process's output, its exit, and when its output was closed by every process that holds it.

    `Process.wait()` also waits for the output. A background process that the hook started can hold it for days.
    """

    def __init__(self) -> None:
        self.tail = b""
        self.exited = asyncio.Event()
        self.output_closed = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - its signature
        self.tail = (self.tail + data)[-_OUTPUT_TAIL:]

    def process_exited(self) -> None:
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - its signature
        self.output_closed.set()


async def _run(run: HookRun, limit: timedelta, environ: Mapping[str, str]) -> _Outcome:
    ORPHANS.hooks += 1
    try:
        return await _run_process(run, limit, environ)
    finally:
        ORPHANS.hooks -= 1


async def _run_process(run: HookRun, limit: timedelta, environ: Mapping[str, str]) -> _Outcome:
    before = {child.pid for child in children()}
    try:
        # A session of its own. dcsync ends everything the hook starts, and Ctrl-C does not reach the hook.
        transport, process = await asyncio.get_running_loop().subprocess_exec(
            _Process,
            *run.argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env=dict(environ),
        )
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or type(error).__name__
        return _Outcome(exit_status=None, error=f"{printable(run.argv[0], 100)} cannot be started: {words}")
    in_time = True
    try:
        _write_event(transport, json.dumps(run.event, ensure_ascii=False).encode() + b"\n")
        async with asyncio.timeout(limit.total_seconds()):
            await process.exited.wait()
    except TimeoutError:
        in_time = False
    finally:
        # Zombies are members of the group too.
        ORPHANS.left_by(transport.get_pid(), before)
        # Also ends processes that the hook left running. They share its process group.
        was_left = await _end_group(transport, process)
    orphans = ORPHANS.left_by(transport.get_pid(), before)
    words = _printable_tail(process.tail)
    if not in_time:
        stopped = f"stopped after {limit}" + (f": {words}" if words else "")
        return _Outcome(exit_status=None, error=stopped, left=_left(orphans, process, was_ended=False))
    status = transport.get_returncode()
    left = _left(orphans, process, was_ended=was_left)
    return _Outcome(exit_status=status, error=None if status == 0 else words or f"exit status {status}", left=left)


def _left(orphans: Sequence[Child], process: _Process, *, was_ended: bool) -> str | None:
    """Say what a hook left behind."""
    if orphans:
        named = ", ".join(f"{printable(child.name, 50)} (pid {child.pid})" for child in orphans[:_MOST_NAMED])
        return f"it left processes running: {named}"
    if not process.output_closed.is_set():
        return "it left a process running that holds its output"
    return "it left processes running, which dcsync ended" if was_ended else None


def _write_event(transport: asyncio.SubprocessTransport, body: bytes) -> None:
    """Write the event to standard input while the output is read. A program that ignores its input is fine."""
    pipe = transport.get_pipe_transport(0)
    assert isinstance(pipe, asyncio.WriteTransport)  # noqa: S101 - requested above
    pipe.write(body)
    pipe.write_eof()


async def _end_group(transport: asyncio.SubprocessTransport, process: _Process) -> bool:
    """End the processes that are left of a hook's group, and read its output to the end. Return whether any were left.

    A process that left the group is not ended, because it may be meant to stay. It may still hold the output.
    """
    try:
        is_left = _signal_group(transport, signal.SIGTERM)
        if is_left:
            await _wait_for_output_end(process, _TERM_S)
    finally:
        _signal_group(transport, signal.SIGKILL)
        try:
            await _wait_for_output_end(process, _KILLED_S)
        finally:
            transport.close()
    return is_left


async def _wait_for_output_end(process: _Process, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await process.output_closed.wait()


def _signal_group(transport: asyncio.SubprocessTransport, number: signal.Signals) -> bool:
    try:
        os.killpg(transport.get_pid(), number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _printable_tail(tail: bytes) -> str:
    # Escapes make the text longer. Its end is kept.
    return printable(tail.decode("utf-8", "replace").strip(), 10 * _OUTPUT_TAIL)[-_OUTPUT_TAIL:]


def _log_outcome(run: HookRun, outcome: _Outcome, state: HookState, retry: datetime | None) -> None:
    facts = {"hook": run.argv[0], "kind": run.kind.value, "account": run.account, "job": run.job, "in_result": "rerun"}
    if outcome.left is not None:
        hint = "let the hook wait for everything that it starts, or start it as a service of its own"
        log.warning("a hook left processes behind", **facts, left=outcome.left, hint=hint)
    if outcome.succeeded:
        log.debug("hook succeeded", **facts)
    elif state is HookState.DUE:
        log.warning(
            "hook failed, will be retried", **facts, status=outcome.exit_status, error=outcome.error, next_try_at=retry
        )
    else:
        log.error(
            "hook failed",
            **facts,
            status=outcome.exit_status,
            error=outcome.error,
            hint=hook_hint(run),
        )
