"""`dcsync run` on one host: workers for each account, hooks and maintenance, and a schedule that wakes them.

A trigger only sets an event, and the work runs in tasks of the session. An error of one worker is logged and does not
affect the others.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import structlog

from dcsync.core.model import AccountName, Json
from dcsync.core.wire import time_json
from dcsync.daemon import turns
from dcsync.daemon.chores import NIGHT, TURNS_OF
from dcsync.daemon.schedule import Kind, Schedule, Trigger
from dcsync.daemon.session import DRAIN_S, Session
from dcsync.daemon.session_parts import SessionParts
from dcsync.errors import DcsyncError
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.outcome import AccountOutcome
from dcsync.ops.mirroring.run import sync
from dcsync.tasks import DiskThreads

log = structlog.get_logger(__name__)

#: How often the ticker feeds the watchdog, checks the schedule, and checks for a new sign-in.
TICK_S = 30.0
#: How often the session looks for hooks that another process made due (`dcsync hooks rerun`).
_HOOKS_S = 300.0
_STATE_NAME = "daemon.json"


@dataclass(slots=True, kw_only=True)
class _Worker:
    """Repeats one kind of work, each time it is woken."""

    name: str
    #: Returns the name of the next work, for the status line.
    describe: Callable[[], str]
    work: Callable[[], Awaitable[None]]
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    is_idle: bool = False


class LocalSession(Session):
    """The work of the only host of a mirror. The schedule is in memory."""

    tick_s = TICK_S

    def __init__(self, parts: SessionParts) -> None:
        super().__init__(parts)
        self._schedule = Schedule(self._take_trigger, parts.context.clock)
        self._polls = {
            name: _Worker(
                name=name, describe=partial("polling {}".format, name), work=partial(self._poll_account, account)
            )
            for name, account in self._accounts.items()
        }
        self._hooks = _Worker(name="hooks", describe=lambda: "running hooks", work=self._run_hooks)
        self._nightly = _Worker(name="chores", describe=self._describe_chore, work=self._do_next_chore)
        self._due_chores: list[Kind] = []
        self._hooks_looked_at = parts.context.clock.monotonic()
        self._hooks_due_at: datetime | None = None
        self._login_needed = False
        self._token_mtime: int | None = None
        self._last_state: tuple[str, str | None] | None = None

    @property
    def workers(self) -> tuple[_Worker, ...]:
        """Return all workers: one for each account, one for hooks, one for maintenance."""
        return (*self._polls.values(), self._hooks, self._nightly)

    def poll_all(self) -> None:
        """Poll every account now."""
        for worker in self._polls.values():
            worker.wake.set()

    def poll_soon(self, account: str, wait: timedelta) -> None:
        """Poll an account once more after a wait."""
        self._schedule.poll_once(account, self.context.clock.now() + wait)

    # --- begin and end ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        self._plan_triggers()
        yield
        await _write_state(self.context.disk, self._state_path(), None)

    def _plan_triggers(self) -> None:
        poll, now = self.config.poll, self.context.clock.now()
        for name in self._accounts:
            self._schedule.poll(name, every=poll.interval, jitter=poll.jitter, first=now + poll.interval)
        for kind, hour in NIGHT.items():
            self._schedule.nightly(kind, hour=hour, zone=self.config.mirror.zone)

    def _start_work(self, group: asyncio.TaskGroup) -> None:
        for worker in self.workers:
            worker.task = group.create_task(self._run_worker(worker), name=worker.name)
        self._schedule.start()

    async def _end_work(self, group: asyncio.TaskGroup) -> None:
        self._schedule.stop()
        tasks = {worker.task: worker for worker in self.workers if worker.task is not None}
        for task, worker in tasks.items():
            if worker.is_idle:
                task.cancel()
        hurried = group.create_task(self._signals.hurry.wait(), name="hurry")
        waiting = {task for task in tasks if not task.done()}
        try:
            async with asyncio.timeout(DRAIN_S):
                while waiting and not hurried.done():
                    await asyncio.wait({*waiting, hurried}, return_when=asyncio.FIRST_COMPLETED)
                    waiting = {task for task in waiting if not task.done()}
        except TimeoutError:
            log.info("running work cancelled; staged files are kept", workers=len(waiting))
        finally:
            hurried.cancel()
            for task in waiting:
                task.cancel()
        if waiting:
            await asyncio.wait(waiting)

    # --- the workers --------------------------------------------------------------------------------------------------

    async def _run_worker(self, worker: _Worker) -> None:
        while not self._signals.end.is_set():
            worker.is_idle = True
            try:
                await worker.wake.wait()
            finally:
                worker.is_idle = False
            worker.wake.clear()
            with self.busy(worker.describe()):
                try:
                    await worker.work()
                except DcsyncError as error:
                    log.warning("work failed", worker=worker.name, code=error.code, error=error.message)
                except Exception:  # a bug in one worker must not stop the others
                    log.exception("a bug in dcsync; the worker continues with its next work", worker=worker.name)

    async def _poll_account(self, account: AccountSettings) -> None:
        # Check the disk even if there is nothing new: it alerts you to an unmounted disk before the next extract.
        async with self.turns.take([turns.of_account(account.name)], f"mirroring {account.name}"):
            if self._signals.end.is_set() or not await self._is_mounted():
                return
            (outcome,) = await sync(self.context, [account])
            await self._follow_up([outcome])
        self._hooks.wake.set()
        self._note_outcome(outcome)
        await self._plan_next(account, outcome)

    async def _plan_next(self, account: AccountSettings, outcome: AccountOutcome) -> None:
        """Poll once more when an extract is expected before the next poll, or when a failed job is due again."""
        clock, wait = self.context.clock, await self._next_poll_in(account)
        if wait < self.config.poll.interval:
            self._schedule.poll_once(account.name, clock.now() + wait)
        retry = min((failed.next_try_at for failed in outcome.failed if failed.next_try_at), default=None)
        if retry is not None:
            self._schedule.poll_once(account.name, max(retry, clock.now() + timedelta(seconds=TICK_S)))

    def _note_login(self, account: AccountSettings, *, is_needed: bool) -> None:  # noqa: ARG002 - all have one token
        self._login_needed = is_needed

    async def _run_hooks(self) -> None:
        """Run the hooks that are due. They have their own worker, so a slow hook does not delay polls."""
        self._hooks_looked_at = self.context.clock.monotonic()
        async with self.turns.take([turns.HOOKS], "running hooks"):
            self._hooks_due_at = await self.dispatcher.run_hooks()

    async def run_hooks_soon(self) -> None:
        """Let the hooks that are due run."""
        self._hooks.wake.set()

    def _hooks_are_due(self) -> bool:
        """Return whether a retry of a hook is due, or a check for hooks that another process queued."""
        clock = self.context.clock
        retry = self._hooks_due_at is not None and self._hooks_due_at <= clock.now()
        return retry or clock.monotonic() - self._hooks_looked_at >= _HOOKS_S

    def _take_trigger(self, trigger: Trigger) -> None:
        if trigger.kind is Kind.POLL:
            worker = self._polls.get(AccountName(trigger.account))
            if worker is not None:
                worker.wake.set()
        elif trigger.kind not in self._due_chores:
            self._due_chores.append(trigger.kind)
            self._nightly.wake.set()

    def _describe_chore(self) -> str:
        return self._due_chores[0].value

    async def _do_next_chore(self) -> None:
        kind = self._due_chores.pop(0)
        if self._due_chores:
            self._nightly.wake.set()
        async with self.turns.take(*TURNS_OF[kind]):
            is_ending = self._signals.end.is_set()
            if not is_ending and await self.chores.do(kind):
                self._hooks.wake.set()

    # --- the ticker ---------------------------------------------------------------------------------------------------

    async def _check_regularly(self) -> None:
        self._schedule.check()
        if self._hooks_are_due():
            self._hooks.wake.set()
        await self._notice_login()
        await self._publish_state()

    async def _notice_login(self) -> None:
        """Poll immediately after a new sign-in, which replaces the token file."""
        if not self._login_needed or self._slow_disk_s() is not None:
            return
        now = await self.context.disk.run(_mtime, Path(self.config.state.dir) / "token.json")
        if self._token_mtime is not None and now != self._token_mtime:
            self.poll_all()
        self._token_mtime = now

    async def _publish_state(self) -> None:
        """Report the current work to systemd and `dcsync status` when it has changed."""
        words, due = self.describe(), self._schedule.next_poll()
        if (words, time_json(due)) == self._last_state:
            return
        self._last_state = (words, time_json(due))
        self._notifier.status(words)
        if self._slow_disk_s() is None:
            state: dict[str, Json] = {"pid": os.getpid(), "status": words, "next_poll": time_json(due)}
            await _write_state(self.context.disk, self._state_path(), state)

    def _describe_waiting(self) -> str:
        due = self._schedule.next_poll()
        return (
            "waiting" if due is None else f"waiting; next poll at {due.astimezone(self.config.mirror.zone):%H:%M:%S %Z}"
        )

    def _state_path(self) -> Path:
        return Path(self.config.state.dir) / _STATE_NAME


async def _write_state(disk: DiskThreads, path: Path, state: Mapping[str, Json] | None) -> None:
    """Replace the file that `dcsync status` reads, or remove it for None.

    The file does not have to survive a power cut, and a full disk must not stop the daemon.
    """
    try:
        if state is None:
            await disk.run(path.unlink, missing_ok=True)
            return
        temporary = path.with_suffix(".new")
        async with disk.open(temporary, "wb") as file:
            await file.write(json.dumps(state).encode())
        await disk.run(temporary.replace, path)
    except OSError as error:
        log.debug("cannot write the state file of the daemon", path=str(path), error=error.strerror)


def _mtime(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
