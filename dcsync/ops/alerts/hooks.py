"""The operator's own programs: one process for each event, argv without a shell, the event as JSON on its input."""

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
from dcsync.manifest import HookRun, HookState, Notes
from dcsync.ops.alerts.collect import hook_hint

log = structlog.get_logger(__name__)

#: An attempt that failed is made again after these; then the run is given up and said.
RETRY_AFTER = (timedelta(minutes=1), timedelta(minutes=10))
#: What is kept of a hook's output: its end, where programs say what went wrong.
_OUTPUT_TAIL = 2000
#: Between the polite signal and the other one. With the daemon's drain it stays below the 10 s that a stop may take.
_TERM_S = 3.0
#: What was killed is gone after this, and its output read.
_LAST_S = 0.5
#: Finished runs are shown for this long.
KEEP_FOR = timedelta(days=90)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A `[[hook]]` of the configuration."""

    on: frozenset[EventKind]
    argv: tuple[str, ...]
    timeout: timedelta


def hooks_for(hooks: Sequence[Hook], events: Sequence[Event]) -> list[tuple[Sequence[str], Event]]:
    """Return which hooks run for which events, in the order of the events."""
    # A hook that fails is no reason to run hooks: that would never end.
    return [
        (hook.argv, event)
        for event in events
        for hook in hooks
        if event.kind in hook.on and event.code != AlertCode.H_FAILED
    ]


async def run_due(notes: Notes, clock: Clock, hooks: Sequence[Hook], environ: Mapping[str, str]) -> list[HookRun]:
    """Run every hook that is due, one after another, and return those that were given up.

    A hook that is not configured any more runs with the default time-out. Cancelling ends the process under way; its
    run stays due.
    """
    limits = {hook.argv: hook.timeout for hook in hooks}
    given_up = []
    for run in await notes.due_hooks(clock.now()):
        outcome = await _run(run, limits.get(run.argv, timedelta(minutes=10)), environ)
        now = clock.now()
        retry = None if outcome.succeeded else _next_try(run, now)
        state = HookState.DONE if outcome.succeeded else HookState.DUE if retry else HookState.FAILED
        await notes.finish_hook(
            run, state=state, at=now, exit_status=outcome.exit_status, error=outcome.error, next_try_at=retry
        )
        _say(run, outcome, state, retry)
        if state is HookState.FAILED:
            given_up.append(run)
    return given_up


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    exit_status: int | None
    error: str | None

    @property
    def succeeded(self) -> bool:
        return self.exit_status == 0


def _next_try(run: HookRun, now: datetime) -> datetime | None:
    return now + RETRY_AFTER[run.attempts] if run.attempts < len(RETRY_AFTER) else None


class _Watch(asyncio.SubprocessProtocol):
    """Hears of a process: the end of its output, its exit, and when the last one that has its output let go of it.

    `Process.wait()` would wait for that last one, too, which may outlive the program by days.
    """

    def __init__(self) -> None:
        self.tail = b""
        self.exited = asyncio.Event()
        self.let_go = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - its signature
        self.tail = (self.tail + data)[-_OUTPUT_TAIL:]

    def process_exited(self) -> None:
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - its signature
        self.let_go.set()


async def _run(run: HookRun, limit: timedelta, environ: Mapping[str, str]) -> _Outcome:
    try:
        # A session of its own: what it starts is ended with it, and a Ctrl-C of ours is not its own.
        transport, watch = await asyncio.get_running_loop().subprocess_exec(
            _Watch,
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
        _feed(transport, json.dumps(run.event, ensure_ascii=False).encode() + b"\n")
        async with asyncio.timeout(limit.total_seconds()):
            await watch.exited.wait()
    except TimeoutError:
        in_time = False
    finally:
        # Also what it left running: the group is its own.
        await _end_group(transport, watch)
    words = _words(watch.tail)
    if not in_time:
        return _Outcome(exit_status=None, error=f"stopped after {limit}" + (f": {words}" if words else ""))
    status = transport.get_returncode()
    return _Outcome(exit_status=status, error=None if status == 0 else words or f"exit status {status}")


def _feed(transport: asyncio.SubprocessTransport, body: bytes) -> None:
    """Give the event, beside the reading of the output; a program that does not take it is as good as one that does."""
    pipe = transport.get_pipe_transport(0)
    assert isinstance(pipe, asyncio.WriteTransport)  # noqa: S101 - it was asked for
    pipe.write(body)
    pipe.write_eof()


async def _end_group(transport: asyncio.SubprocessTransport, watch: _Watch) -> None:
    """End what is left of a hook's process group, and read its output to the end."""
    try:
        if _signal_group(transport, signal.SIGTERM):
            await _let_go(watch, _TERM_S)
    finally:
        _signal_group(transport, signal.SIGKILL)
        try:
            await _let_go(watch, _LAST_S)
        finally:
            # One that left the group may still have the output.
            transport.close()


async def _let_go(watch: _Watch, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await watch.let_go.wait()


def _signal_group(transport: asyncio.SubprocessTransport, number: signal.Signals) -> bool:
    try:
        os.killpg(transport.get_pid(), number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _words(tail: bytes) -> str:
    # Escapes make it longer; the end is still what counts.
    return printable(tail.decode("utf-8", "replace").strip(), 10 * _OUTPUT_TAIL)[-_OUTPUT_TAIL:]


def _say(run: HookRun, outcome: _Outcome, state: HookState, retry: datetime | None) -> None:
    facts = {"hook": run.argv[0], "kind": run.kind.value, "account": run.account, "job": run.job}
    if outcome.succeeded:
        log.info("hook done", **facts)
    elif state is HookState.DUE:
        log.warning("hook failed", **facts, status=outcome.exit_status, error=outcome.error, next_try_at=retry)
    else:
        log.error(
            "hook given up",
            **facts,
            status=outcome.exit_status,
            error=outcome.error,
            hint=hook_hint(run),
        )
