"""`dcsync run` on one of several hosts, which take their work from a shared queue.

The schedule and the waiting work are in the queue and in the manifest, not in memory as on a single host. Any host can
therefore fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NoReturn

import structlog

from dcsync.app.sync import account_token_alert, stored_token
from dcsync.cluster.fencing import Ticket
from dcsync.cluster.hosts import Hosts
from dcsync.cluster.peers import SeveralHosts
from dcsync.cluster.queue import HeldTask, Pace, Queue
from dcsync.core.model import AccountName, JobId
from dcsync.core.wire import parse_time
from dcsync.daemon import turns
from dcsync.daemon.chores import NIGHT, TURNS_OF
from dcsync.daemon.schedule import Kind
from dcsync.daemon.session import Session
from dcsync.daemon.session_parts import SessionParts
from dcsync.manifest import HookRuns, StoredValues
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.outcome import AccountOutcome
from dcsync.ops.mirroring.run import mirror_job, poll_account

log = structlog.get_logger(__name__)

#: The queue checks once a minute. A poll that is due within this time counts as due now.
_ROUNDING = timedelta(seconds=30)


class SharedSession(Session):
    """The work of one host on a mirror that several hosts share."""

    def __init__(self, parts: SessionParts, *, pace: Pace | None = None) -> None:
        """`pace` sets how soon hosts notice each other. None means the default."""
        super().__init__(parts)
        assert isinstance(parts.context.peers, SeveralHosts)  # noqa: S101 - this host is one of several
        pace = pace or Pace()
        self.tick_s = pace.heartbeat_s
        self._peers = parts.context.peers
        self._host = self._peers.number
        self._hosts = Hosts(parts.context.manifest)
        self._values = StoredValues(parts.context.manifest)
        self._hook_runs = HookRuns(parts.context.manifest)
        self._wanted: asyncio.Queue[tuple[AccountName, float]] = asyncio.Queue()
        self._queue = Queue(
            self._peers.database,
            self,
            pace=pace,
            arrived=lambda worker: self._hosts.works_as(self._host, worker),
            label=str(self._host),
        )
        self._working: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[NoReturn] | None = None

    def poll_all(self) -> None:
        """Poll every account now."""
        for name in self._accounts:
            self._wanted.put_nowait((name, 0.0))

    def poll_soon(self, account: str, wait: timedelta) -> None:
        """Poll an account once more after a wait."""
        self._wanted.put_nowait((AccountName(account), wait.total_seconds()))

    # --- begin and end ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        async with self._queue.opened():
            yield

    def _start_work(self, group: asyncio.TaskGroup) -> None:
        self._working = group.create_task(self._queue.work(), name="queue")
        self._asking = group.create_task(self._ask_queue(), name="ask")

    async def _end_work(self, group: asyncio.TaskGroup) -> None:
        assert self._working is not None  # noqa: S101 - started
        assert self._asking is not None  # noqa: S101 - the same
        self._queue.stop()
        hurried = group.create_task(self._hurry_queue(), name="hurry")
        await asyncio.wait({self._working})
        hurried.cancel()
        self._asking.cancel()

    async def _hurry_queue(self) -> None:
        await self._signals.hurry.wait()
        self._queue.hurry()

    # --- work from the queue --------------------------------------------------------------------------------------

    async def poll(self, account: str) -> None:
        """Poll an account and queue the jobs that are due, oldest first."""
        settings = self._accounts.get(AccountName(account))
        if settings is None:
            log.warning("an account is configured on another host but not on this host", account=account)
            return
        what = f"polling {account}"
        async with self.turns.take([turns.of_account(settings.name)], what, shares=True):
            with self.busy(what):
                await self._poll(settings)

    async def _poll(self, settings: AccountSettings) -> None:
        if not await self._is_mounted():
            return
        outcome, due = await poll_account(self.context, settings)
        for known in due:
            await self._queue.mirror(settings.name, known.job.request_id, known.job.id)
        await self._follow_up([outcome])
        self._note_outcome(outcome)
        await self._plan_next(settings, outcome)
        await self._queue.chore("hooks")

    async def mirror(self, account: str, job: str, held: HeldTask) -> None:
        """Mirror a job and send its events."""
        settings = self._accounts.get(AccountName(account))
        if settings is None:
            return
        what = f"mirroring {account}"
        async with self.turns.take([turns.of_account(settings.name)], what, shares=True):
            with self.busy(what):
                await self._mirror(settings, JobId(job), held)

    async def _mirror(self, settings: AccountSettings, job: JobId, held: HeldTask) -> None:
        if not await self._is_mounted():
            return
        ticket = Ticket(id=held.id, worker=held.worker, attempts=held.attempts)
        context = replace(self.context, peers=self._peers.with_ticket(ticket))
        outcome = await mirror_job(context, settings, job)
        if outcome.published or outcome.failed or outcome.error is not None:
            token = await stored_token(self.config, self.context)
            alert = account_token_alert(self.context, settings, token)
            await self.dispatcher.after_run(outcome, token=alert)
            self._note_outcome(outcome)
            await self._note_retry(outcome)
            await self._queue.chore("hooks")
            self.derived.update_soon()

    async def chore(self, kind: str) -> None:
        """Do a maintenance task of the whole mirror."""
        if kind == "hooks":
            async with self.turns.take([turns.HOOKS], "running hooks"):
                with self.busy("running hooks"):
                    await self.dispatcher.run_hooks()
            return
        async with self.turns.take(*TURNS_OF[Kind(kind)]):
            with self.busy(kind):
                await self._do_chore(kind)

    async def _do_chore(self, kind: str) -> None:
        if await self._is_mounted():
            if await self.chores.do(Kind(kind)):
                await self._queue.chore("hooks")
            await self._values.save(f"night:{kind}", self._today())

    async def run_hooks_soon(self) -> None:
        """Let the hooks that are due run."""
        await self._queue.chore("hooks")

    async def due(self) -> None:
        """Queue the polls and maintenance tasks that are due."""
        now = self.context.clock.now()
        for name in self._accounts:
            when = parse_time(await self._values.load(f"poll:{name}"))
            # A time later than any planned poll comes from a clock that was wrong.
            if when is None or when <= now + _ROUNDING or when > now + 2 * self.config.poll.interval:
                await self._queue.poll(name)
        hour = now.astimezone(self.config.mirror.zone).hour
        for kind, begins in NIGHT.items():
            if begins <= hour < begins + 6 and await self._values.load(f"night:{kind.value}") != self._today():
                await self._queue.chore(kind.value)
        if await self._hook_runs.due(now):
            await self._queue.chore("hooks")

    async def other_hosts(self) -> Sequence[str]:
        """Return the names of the other hosts that are alive."""
        return [host.name for host in await self._hosts.known() if host.is_alive and host.id != self._host]

    # --- details ------------------------------------------------------------------------------------------------------

    def _today(self) -> str:
        return f"{self.context.clock.now().astimezone(self.config.mirror.zone):%Y-%m-%d}"

    async def _plan_next(self, account: AccountSettings, outcome: AccountOutcome) -> None:
        """Store the time of the next poll: after the interval, when an extract is expected, or for a retry."""
        now = self.context.clock.now()
        when = now + await self._next_poll_in(account) + self.config.poll.jitter * self.context.draw()
        retries = [failed.next_try_at for failed in outcome.failed if failed.next_try_at is not None]
        jobs = await self.context.manifest.jobs(account.name)
        retries += [known.next_try_at for known in jobs.values() if known.next_try_at is not None]
        await self._remember_poll(account.name, min([when, *(max(retry, now + _ROUNDING) for retry in retries)]))

    async def _note_retry(self, outcome: AccountOutcome) -> None:
        """Move the next poll forward to the retry of a failed job, if that is earlier."""
        retries = [failed.next_try_at for failed in outcome.failed if failed.next_try_at is not None]
        when = parse_time(await self._values.load(f"poll:{outcome.account.name}"))
        if retries and (when is None or min(retries) < when):
            await self._remember_poll(outcome.account.name, min(retries))

    async def _remember_poll(self, account: str, when: datetime) -> None:
        await self._values.save(f"poll:{account}", when.isoformat())

    def _note_login(self, account: AccountSettings, *, is_needed: bool) -> None:
        if is_needed:
            log.info("waiting for a sign-in on any host", account=account.name)

    async def _ask_queue(self) -> NoReturn:
        """Queue the polls that a signal, a callback or the start asked for."""
        while True:
            name, wait = await self._wanted.get()
            if wait:
                await self._values.save(
                    f"poll:{name}", (self.context.clock.now() + timedelta(seconds=wait)).isoformat()
                )
            else:
                await self._queue.poll(name)

    async def _check_regularly(self) -> None:
        words = self.describe()
        self._notifier.status(words)
        await self._hosts.beat(self._host, words if self.progress.is_busy else "")

    def _describe_waiting(self) -> str:
        return "waiting for work"
