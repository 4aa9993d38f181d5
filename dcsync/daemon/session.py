"""The daemon's work on one open mirror: the base class of the sessions for one host and for several."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NoReturn, TypeAlias, TypeVar

import structlog

from dcsync.api.transport import PROBE_S
from dcsync.app.from_config import account_settings
from dcsync.app.sync import Reports, follow_up
from dcsync.core.alerts import AlertCode
from dcsync.core.next_poll import next_poll
from dcsync.daemon.chores import Chores
from dcsync.daemon.derived import Derived
from dcsync.daemon.progress import SLOW_DISK_S, log_run
from dcsync.daemon.request_chores import RequestChores
from dcsync.daemon.session_parts import SessionParts
from dcsync.daemon.turns import Turns
from dcsync.errors import (
    DAEMON_ROLE,
    ApiFault,
    ApiUnreachable,
    DaemonGone,
    DcsyncError,
    DiskHung,
    ExitStatus,
    MirrorError,
    MirrorLocked,
    ServiceAccountRejected,
)
from dcsync.manifest.broken import BrokenPart
from dcsync.ops.alerts.daemon_parts import daemon_part, record_daemon_parts
from dcsync.ops.alerts.orphans import ORPHANS
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.outcome import AccountOutcome
from dcsync.tasks import Failure, Success, primary_error

log = structlog.get_logger(__name__)

#: How long work in progress may take after SIGTERM before it is cancelled. Closing takes some seconds more, and
#: the daemon ends within 10 s. Staged files are kept.
DRAIN_S = 6.0
#: How often the status line counts a wait down.
_COUNTDOWN_S = 5.0
#: How long a cancelled order may take to tell its command.
_TELL_S = 2.0

T = TypeVar("T")


@dataclass(slots=True, eq=False, kw_only=True)
class Visit:
    """An order that a session carries out. The session cancels `task` when it ends, unless the visit survives it."""

    session: Session
    task: asyncio.Task[object] | None = None
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    survives: bool = False


@dataclass(slots=True, eq=False, kw_only=True)
class Errand:
    """Work that needs the mirror closed. The daemon does it between two sessions. Cancelling `result` cancels it."""

    work: Callable[[], Coroutine[None, None, object]]
    result: asyncio.Future[Success[object] | Failure]


class Session(ABC):
    """The work of this host on one open mirror, until it is asked to end or the mirror is lost."""

    #: The longest time between two ticks.
    tick_s: float

    def __init__(self, parts: SessionParts) -> None:
        self.config = parts.config
        self.context = parts.context
        self.progress = parts.progress
        self.dispatcher = parts.dispatcher
        self._notifier = parts.notifier
        self._signals = parts.signals
        self._accounts = {account.name: account for account in account_settings(parts.config)}
        self.chores = Chores(
            config=parts.config,
            context=parts.context,
            dispatcher=parts.dispatcher,
            progress=parts.progress,
            accounts=tuple(self._accounts.values()),
        )
        self.derived = Derived(parts.config, parts.context, parts.dispatcher, parts.environ)
        self.request_chores = RequestChores(
            config=parts.config,
            context=parts.context,
            dispatcher=parts.dispatcher,
            accounts=tuple(self._accounts.values()),
            opening=parts.opening,
        )
        #: Precedes the status line while nothing is running.
        self.notice = ""
        #: Since when the disk of the mirror has not answered, as a message. None while it answers.
        self.hung_disk: str | None = None
        #: What may run at the same time.
        self.turns = Turns()
        #: What the daemon does next, before it opens the mirror again.
        self.errand: Errand | None = None
        self._visits: set[Visit] = set()
        self._problems = parts.problems
        self._key_refused = parts.key_refused
        self._recorded: Sequence[BrokenPart] = ()
        self._problems_changed = asyncio.Event()
        self._lost: MirrorError | None = None
        self._alert_codes: list[str] = []
        self._reports = Reports()

    # --- different on one host and on several -------------------------------------------------------------------------

    @abstractmethod
    def poll_all(self) -> None:
        """Poll every account now."""

    @abstractmethod
    def poll_soon(self, account: str, wait: timedelta) -> None:
        """Poll an account once more after a wait."""

    def _opened(self) -> AbstractAsyncContextManager[None]:
        """Return the context that is open while the session works."""
        return _nothing()

    @abstractmethod
    def _start_work(self, group: asyncio.TaskGroup) -> None:
        """Start the tasks that do the work."""

    @abstractmethod
    async def _end_work(self, group: asyncio.TaskGroup) -> None:
        """Let running work finish, within the drain time or until `hurry` is set. Return when every task has ended.

        `group` is for helper tasks.
        """

    @abstractmethod
    async def run_hooks_soon(self) -> None:
        """Let the hooks that are due run."""

    @abstractmethod
    async def _check_regularly(self) -> None:
        """Do the regular checks of one tick."""

    @abstractmethod
    def _describe_waiting(self) -> str:
        """Return the status line for times without work."""

    @abstractmethod
    def _note_login(self, account: AccountSettings, *, is_needed: bool) -> None:
        """Record whether the last work on an account failed because a sign-in is required."""

    async def other_hosts(self) -> Sequence[str]:
        """Return the names of the other hosts that work on the mirror now."""
        return ()

    @abstractmethod
    async def _plan_next(self, account: AccountSettings, outcome: AccountOutcome) -> None:
        """Plan the next poll of an account after a run."""

    # --- the same on one host and on several --------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until asked to end.

        Raises the `MirrorError` when the mirror is lost, and the `ManifestError` when its database is lost.
        """
        try:
            async with self._opened(), asyncio.TaskGroup() as group:
                self._start_work(group)
                ticker = group.create_task(self._tick(), name="ticker")
                recorder = group.create_task(self._record_problems(), name="problems")
                status = group.create_task(self._show_progress(), name="status")
                derived = group.create_task(self.derived.run(), name="derived")
                requests = group.create_task(self.request_chores.run(), name="requests")
                self.poll_all()
                self.derived.update_soon()
                self._notifier.ready(self.notice or self.describe())
                await self._signals.end.wait()
                derived.cancel()
                requests.cancel()
                visits = group.create_task(self._end_visits(group), name="orders")
                await self._end_work(group)
                await visits
                ticker.cancel()
                recorder.cancel()
                status.cancel()
        except BaseExceptionGroup as errors:
            error = primary_error(errors)
            raise error from (None if isinstance(error, DcsyncError) else errors)
        if self._lost is not None:
            raise self._lost

    def describe(self) -> str:
        """Return the status line."""
        slow_s = self._slow_disk_s()
        if slow_s is not None:
            return f"the disk has not responded for {slow_s:.0f} s"
        needs = f"; alerts: {', '.join(self._alert_codes)} (dcsync status)" if self._alert_codes else ""
        notice = f"{self.notice}; " if self.notice else ""
        return self.progress.describe() or f"{notice}{self._describe_waiting()}{needs}"

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Count the block as running work, and show it in the status line."""
        self.progress.begin(what)
        self._notifier.status(self.describe())
        try:
            yield
        finally:
            self.progress.end(what)
            self._show_status()

    async def _show_progress(self) -> NoReturn:
        """Report each snapshot and each wait to systemd as it begins, and the seconds that are left of a wait."""
        while True:
            await self.progress.has_changed.wait()
            self.progress.has_changed.clear()
            while self.progress.waits():
                self._show_status()
                await self.context.clock.sleep(_COUNTDOWN_S)
            self._show_status()

    def _show_status(self) -> None:
        if not self._signals.end.is_set():
            self._notifier.status(self.describe())

    async def _tick(self) -> NoReturn:
        """Do the regular checks every few seconds. If the event loop is blocked, systemd restarts the service."""
        interval_s = min(self.tick_s, self._notifier.watchdog_interval_s or self.tick_s)
        while True:
            if not self.progress.is_stuck() or self._slow_disk_s() is not None:
                # Killing the process does not help while a disk does not respond: the kernel keeps it until then.
                self._notifier.watchdog()
            ORPHANS.reap()
            if self._slow_disk_s() is not None or list(self._own_problems()) != list(self._recorded):
                self._problems_changed.set()
            try:
                await self._check_regularly()
            except DcsyncError:
                raise
            except Exception:  # the work and the watchdog do not depend on it
                log.exception("a bug in dcsync; the regular checks are repeated")
            await self.context.clock.sleep(interval_s)

    def _own_problems(self) -> Sequence[BrokenPart]:
        """Return the parts of this daemon that do not work now."""
        found = list(self._problems())
        if self.hung_disk is not None:
            found.append(daemon_part(AlertCode.F_HUNG, message=self.hung_disk, hint=DiskHung.hint))
        return found

    async def _examine_disk(self) -> None:
        """Find out whether a call that takes long is work, or the disk does not answer."""
        slow_s, found = self._slow_disk_s(), None
        if slow_s is not None:
            try:
                await self.context.disk.ask(self.context.root.try_to_write)
            except DiskHung:
                # Coarse, so that a disk that hangs for days is not recorded again in each round.
                least_s = int(SLOW_DISK_S) << int(slow_s // SLOW_DISK_S).bit_length() - 1
                found = f"the disk of {self.context.root.path} has not answered for more than {least_s} s"
            except (DcsyncError, FileNotFoundError):
                pass  # it answers
        self.hung_disk = found

    async def _record_problems(self) -> NoReturn:
        """Record the problems of this daemon as alerts when they change.

        A task of its own: the manifest may be on the disk that hangs, and the ticker must not wait for it.
        """
        while True:
            await self._problems_changed.wait()
            self._problems_changed.clear()
            try:
                await self._examine_disk()
                found = self._own_problems()
                await record_daemon_parts(self.context, found)
                self._recorded = found
                if await self.chores.update_alerts():
                    await self.run_hooks_soon()
            except DcsyncError as error:
                log.warning("problems of the daemon not recorded", code=error.code, error=error.message)
            except Exception:  # the work does not depend on it
                log.exception("a bug in dcsync; problems of the daemon were not recorded")

    # --- orders of commands -------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def visited(self) -> AsyncIterator[Visit]:
        """Count the block as an order, whose end the session waits for. Raises `DaemonGone` when the session ends."""
        self.refuse_at_end()
        visit = Visit(session=self)
        self._visits.add(visit)
        try:
            yield visit
        finally:
            self._visits.discard(visit)
            visit.is_over.set()

    def refuse_at_end(self) -> None:
        """Raise `DaemonGone` if the session ends: it begins no more work."""
        if self._signals.end.is_set():
            message = "the daemon stopped its work on the mirror before it had begun to carry out the command"
            raise DaemonGone(message)

    async def refuse_others(self, instead: str = "") -> None:
        """Raise `MirrorLocked` while other hosts work on the mirror. `instead` is what to do, if not to stop them."""
        others = ", ".join(await self.other_hosts())
        if others:
            message = f"this command works only while no other host is running, and these are: {others}"
            stop = f"stop the daemon on {others}, and run the command here again: the daemon of this host does it"
            raise MirrorLocked(message, pid=None, role=DAEMON_ROLE, hint=instead or stop)

    async def check_mirror(self) -> None:
        """Raise the `MirrorError` if the disk of the mirror is no longer mounted, which ends the session."""
        if not await self._is_mounted():
            assert self._lost is not None  # noqa: S101 - set for it
            raise self._lost

    async def complete(self, outcomes: Sequence[AccountOutcome]) -> None:
        """Do what follows a run that a command asked for."""
        await self._follow_up(outcomes)
        for outcome in outcomes:
            self._note_outcome(outcome)
            await self._plan_next(outcome.account, outcome)
        await self.run_hooks_soon()

    async def interlude(self, visit: Visit, work: Callable[[], Coroutine[None, None, T]]) -> T:
        """End the session, do `work` while the mirror is closed, and return its result."""
        result: asyncio.Future[Success[object] | Failure] = asyncio.get_running_loop().create_future()
        done: list[T] = []

        async def run() -> None:
            done.append(await work())

        self.errand = Errand(work=run, result=result)
        visit.survives = True
        self._signals.end.set()
        (await result).get()
        return done[0]

    async def _end_visits(self, group: asyncio.TaskGroup) -> None:
        """Let the orders finish within the drain time, then cancel them. Wait until each command has been told."""
        visits = [visit for visit in self._visits if not visit.survives]
        if not visits:
            return
        hurried = group.create_task(self._signals.hurry.wait(), name="hurry")
        over = group.create_task(_all_over(visits), name="orders end")
        await asyncio.wait({over, hurried}, timeout=DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        for visit in visits:
            if visit.task is not None:
                visit.task.cancel()
        await asyncio.wait({over}, timeout=_TELL_S)
        over.cancel()

    # --- details ------------------------------------------------------------------------------------------------------

    async def _is_mounted(self) -> bool:
        """Check that the disk of the mirror is still mounted. If it is not, the session ends."""
        try:
            await self.context.disk.run(self.context.root.check_still_there)
        except MirrorError as error:
            self._lose_mirror(error)
            return False
        return True

    async def _follow_up(self, outcomes: Sequence[AccountOutcome]) -> None:
        """Do what follows a poll, and keep the codes of the alerts for the status line."""
        status = await follow_up(self.config, self.context, self.dispatcher, outcomes, self._reports)
        if status is not None:
            self._alert_codes = status.codes
        self.request_chores.do_soon()
        if any(outcome.published for outcome in outcomes):
            self.derived.update_soon()

    async def _next_poll_in(self, account: AccountSettings) -> timedelta:
        """Return how long to wait until the next poll of an account: the interval, or less when an extract is due."""
        expected = [item for _, item in await self.dispatcher.expectations(account.name)]
        return next_poll(expected, self.context.clock.now(), self.config.poll.interval)

    def _note_outcome(self, outcome: AccountOutcome) -> None:
        """React to errors that affect the whole session: a lost mirror, an API that is down, or a required sign-in."""
        error = outcome.error
        log_run(outcome)
        if isinstance(error, MirrorError):
            self._lose_mirror(error)
        if isinstance(error, ServiceAccountRejected):
            self._key_refused()
        if isinstance(error, ApiFault | ApiUnreachable):
            # One call of all accounts a minute finds out whether it works again.
            self.poll_soon(outcome.account.name, timedelta(seconds=PROBE_S))
        is_needed = error is not None and error.exit_status is ExitStatus.LOGIN_REQUIRED
        self._note_login(outcome.account, is_needed=is_needed)

    def _lose_mirror(self, error: MirrorError) -> None:
        """End this session. After an unmount or a move, open descriptors no longer lead to the mirror."""
        self._lost = error
        self._signals.end.set()

    def _slow_disk_s(self) -> float | None:
        """Return how long the disk has not responded, or None below the limit."""
        busy_s = self.context.disk.oldest_s()
        return busy_s if busy_s is not None and busy_s > SLOW_DISK_S else None


#: Makes the session for an open mirror.
SessionFactory: TypeAlias = Callable[[SessionParts], Session]


async def _all_over(visits: Sequence[Visit]) -> None:
    for visit in visits:
        await visit.is_over.wait()


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield
