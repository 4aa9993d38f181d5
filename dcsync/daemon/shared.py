"""`dcsync run` on one of several hosts: the work comes from the queue that they share.

What is done on one host in memory (what is due when, what waits for its turn) is in the queue and in the manifest here,
so that it does not matter which host goes away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import NoReturn

import structlog

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import shared_database
from dcsync.app.sync import follow_up, token_trouble
from dcsync.config import Config
from dcsync.core.freshness import next_poll
from dcsync.core.model import AccountName, JobId
from dcsync.core.wire import parse_time
from dcsync.daemon.chores import NIGHT, Chores
from dcsync.daemon.progress import SLOW_DISK_S, Progress
from dcsync.daemon.schedule import Kind
from dcsync.daemon.sd_notify import Notifier
from dcsync.errors import DcsyncError, ExitStatus, MirrorError
from dcsync.manifest import Notes, Ticket
from dcsync.manifest.hosts import Hosts
from dcsync.ops.alerts.dispatch import Teller
from dcsync.ops.context import AccountSettings, SyncContext
from dcsync.ops.mirroring.run import AccountOutcome, mirror_job, poll_account
from dcsync.queue.work import Ours, Pace, Queue
from dcsync.tasks import primary_error

log = structlog.get_logger(__name__)

#: The time between the last poll's end and when the next is due is kept to the minute in which the queue looks.
_ROUNDING = timedelta(seconds=30)


class SharedSession:
    """The work of one host on one open mirror that others work on, too."""

    def __init__(
        self,
        config: Config,
        context: SyncContext,
        teller: Teller,
        progress: Progress,
        *,
        notifier: Notifier,
        told: asyncio.Event,
        hurry: asyncio.Event,
        pace: Pace | None = None,
    ) -> None:
        assert context.peers.host is not None  # noqa: S101 - it is one of several
        self.config = config
        self.context = context
        self.progress = progress
        self._host = context.peers.host
        self._hosts = Hosts(context.manifest)
        self._notes = Notes(context.manifest)
        self._teller = teller
        self._notifier = notifier
        self._told = told
        self._hurry = hurry
        self._pace = pace or Pace()
        self._accounts = {account.name: account for account in account_settings(config)}
        self._nightly = Chores(
            config=config, context=context, teller=teller, progress=progress, accounts=list(self._accounts.values())
        )
        self._wanted: asyncio.Queue[tuple[AccountName, float]] = asyncio.Queue()
        self._gone: DcsyncError | None = None
        self._codes: list[str] = []
        self._last_words = ""
        self._queue = Queue(
            shared_database(context),
            self,
            pace=self._pace,
            arrived=lambda worker: self._hosts.works_as(self._host, worker),
            label=str(self._host),
        )

    def poll_all(self) -> None:
        """Poll every account now."""
        for name in self._accounts:
            self._wanted.put_nowait((name, 0.0))

    def poll_soon(self, account: str, wait: timedelta) -> None:
        """Poll an account once more after a wait."""
        self._wanted.put_nowait((AccountName(account), wait.total_seconds()))

    async def run(self, notice: str) -> None:
        """Work until told otherwise; `notice` is said first.

        Raises the `MirrorError` when the mirror went away, and the `ManifestError` when the database did.
        """
        try:
            async with self._queue.opened(), asyncio.TaskGroup() as group:
                work = group.create_task(self._queue.work(), name="queue")
                sides = [group.create_task(side(), name=side.__name__) for side in (self._tick, self._ask)]
                self.poll_all()
                self._notifier.ready(notice or self._words())
                await self._told.wait()
                self._queue.stop()
                hurried = group.create_task(self._hurry_up(), name="hurry")
                await asyncio.wait({work})
                for side in (*sides, hurried):
                    side.cancel()
        except BaseExceptionGroup as errors:
            raise primary_error(errors) from None
        if self._gone is not None:
            raise self._gone

    async def _hurry_up(self) -> None:
        await self._hurry.wait()
        self._queue.hurry()

    # --- what the queue asks for --------------------------------------------------------------------------------------

    async def poll(self, account: str) -> None:
        """Look for new jobs of an account and defer those that are due, oldest first."""
        settings = self._accounts.get(AccountName(account))
        if settings is None:
            log.warning("this host's configuration does not have an account that another one's has", account=account)
            return
        with self._busy(f"polling {account}"):
            if not await self._is_mounted():
                return
            outcome, due = await poll_account(self.context, settings)
            for known in due:
                await self._queue.mirror(account, known.job.request_id, known.job.id)
            status = await follow_up(self.config, self.context, self._teller, [outcome])
            if status is not None:
                self._codes = sorted({item.code for known in status.accounts for item in known.attention})
            self._note(outcome)
            await self._plan_next(settings, outcome)
            await self._queue.chore("hooks")

    async def mirror(self, account: str, job: str, ours: Ours) -> None:
        """Mirror a job, and tell of it."""
        settings = self._accounts.get(AccountName(account))
        if settings is None:
            return
        with self._busy(f"mirroring {account}"):
            if not await self._is_mounted():
                return
            ticket = Ticket(id=ours.id, worker=ours.worker, attempts=ours.attempts)
            outcome = await mirror_job(self.context, settings, JobId(job), ticket=ticket)
            if outcome.published or outcome.failed or outcome.error is not None:
                token = await token_trouble(self.config, self.context)
                await self._teller.after_run(outcome, token=token)
                self._note(outcome)
                await self._note_retry(outcome)
                await self._queue.chore("hooks")

    async def chore(self, kind: str) -> None:
        """Do a chore of the whole mirror."""
        if kind == "hooks":
            with self._busy("running hooks"):
                await self._teller.run_hooks()
            return
        with self._busy(kind):
            if await self._is_mounted():
                if await self._nightly.do(Kind(kind)):
                    await self._queue.chore("hooks")
                await self._notes.remember(f"night:{kind}", self._today())

    async def due(self) -> None:
        """Defer the polls and the chores whose time has come."""
        now = self.context.clock.now()
        for name in self._accounts:
            when = parse_time(await self._notes.recall(f"poll:{name}"))
            # A time further ahead than any poll is of a clock that was wrong.
            if when is None or when <= now + _ROUNDING or when > now + 2 * self.config.poll.interval:
                await self._queue.poll(name)
        hour = now.astimezone(self.config.mirror.zone).hour
        for kind, begins in NIGHT.items():
            if begins <= hour < begins + 6 and await self._notes.recall(f"night:{kind.value}") != self._today():
                await self._queue.chore(kind.value)
        if await self._notes.due_hooks(now):
            await self._queue.chore("hooks")

    # --- inside -------------------------------------------------------------------------------------------------------

    def _today(self) -> str:
        return f"{self.context.clock.now().astimezone(self.config.mirror.zone):%Y-%m-%d}"

    async def _plan_next(self, account: AccountSettings, outcome: AccountOutcome) -> None:
        """Note when the account is to be polled next: by the interval, when an extract is expected, or to try again."""
        now, interval = self.context.clock.now(), self.config.poll.interval
        expected = [item for _, item in await self._teller.expectations(account.name)]
        when = now + next_poll(expected, now, interval) + self.config.poll.jitter * self.context.draw()
        retries = [failed.next_try_at for failed in outcome.failed if failed.next_try_at is not None]
        jobs = await self.context.manifest.jobs(account.name)
        retries += [known.next_try_at for known in jobs.values() if known.next_try_at is not None]
        await self._remember_poll(account.name, min([when, *(max(retry, now + _ROUNDING) for retry in retries)]))

    async def _note_retry(self, outcome: AccountOutcome) -> None:
        """Let the next poll come no later than when a failed job is to be tried again."""
        retries = [failed.next_try_at for failed in outcome.failed if failed.next_try_at is not None]
        when = parse_time(await self._notes.recall(f"poll:{outcome.account.name}"))
        if retries and (when is None or min(retries) < when):
            await self._remember_poll(outcome.account.name, min(retries))

    async def _remember_poll(self, account: str, when: datetime) -> None:
        await self._notes.remember(f"poll:{account}", when.isoformat())

    async def _is_mounted(self) -> bool:
        try:
            await self.context.disk.run(self.context.root.check_still_there)
        except MirrorError as error:
            self._lose(error)
            return False
        return True

    def _note(self, outcome: AccountOutcome) -> None:
        error = outcome.error
        if isinstance(error, MirrorError):
            self._lose(error)
        if error is not None and error.exit_status is ExitStatus.LOGIN_REQUIRED:
            log.info("waiting for a login, on any host", account=outcome.account.name)

    def _lose(self, error: MirrorError) -> None:
        """End this session: unmounted or moved, everything that is open leads nowhere."""
        self._gone = error
        self._told.set()

    @contextmanager
    def _busy(self, what: str) -> Iterator[None]:
        self.progress.begin(what)
        self._notifier.status(self._words())
        try:
            yield
        finally:
            self.progress.end(what)
            if not self._told.is_set():
                self._notifier.status(self._words())

    async def _ask(self) -> NoReturn:
        """Put into the queue what a signal, a callback, or the start asked for."""
        while True:
            name, wait = await self._wanted.get()
            if wait:
                await self._notes.remember(
                    f"poll:{name}", (self.context.clock.now() + timedelta(seconds=wait)).isoformat()
                )
            else:
                await self._queue.poll(name)

    async def _tick(self) -> NoReturn:
        """Go round every few seconds: say that this host is there, and what it is doing."""
        interval = min(self._pace.heartbeat_s, self._notifier.watchdog_interval_s or self._pace.heartbeat_s)
        while True:
            if not self.progress.is_stuck() or self._slow_disk() is not None:
                self._notifier.watchdog()
            words = self._words()
            self._notifier.status(words)
            await self._hosts.beat(self._host, words if self.progress.is_busy else "")
            await self.context.clock.sleep(interval)

    def _words(self) -> str:
        slow = self._slow_disk()
        if slow is not None:
            return f"the disk does not answer for {slow:.0f} s"
        needs = f"; needs attention: {', '.join(self._codes)} (dcsync status)" if self._codes else ""
        return self.progress.words() or f"waiting for work{needs}"

    def _slow_disk(self) -> float | None:
        busy = self.context.disk.oldest_s()
        return busy if busy is not None and busy > SLOW_DISK_S else None
