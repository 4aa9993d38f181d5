"""`dcsync run`: one worker for each account, one for the chores, and a ticker that watches over them.

Triggers only set an event; the work runs in tasks that are owned here. A worker's error is its own: it is told, and the
next poll tries again.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from dcsync.app.from_config import account_settings, callback_secret, tell_settings
from dcsync.app.renew import renewing
from dcsync.app.status import current_status, read_status
from dcsync.app.sync import follow_up, open_sync, open_teller
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config
from dcsync.core.events import Event, EventKind
from dcsync.core.freshness import next_poll
from dcsync.core.model import AccountName, Json
from dcsync.core.wire import time_json
from dcsync.daemon.chores import NIGHT, Chores
from dcsync.daemon.pages import Pages, serving
from dcsync.daemon.progress import SLOW_DISK_S, Progress
from dcsync.daemon.schedule import Kind, Schedule, Trigger
from dcsync.daemon.sd_notify import Notifier
from dcsync.errors import (
    DatabaseUnreachable,
    DcsyncError,
    DiskError,
    ExitStatus,
    ManifestError,
    MirrorError,
)
from dcsync.ops.alerts import notify
from dcsync.ops.alerts.dispatch import Teller
from dcsync.ops.context import AccountSettings, SyncContext
from dcsync.ops.metrics import render
from dcsync.ops.mirroring.run import AccountOutcome, sync
from dcsync.ops.recovery import recover
from dcsync.ops.status import Status

if TYPE_CHECKING:
    from dcsync.daemon.shared import SharedSession
    from dcsync.queue.work import Pace

log = structlog.get_logger(__name__)

#: How often the ticker looks around: it feeds the watchdog, mends the schedule, and notices a new login.
TICK_S = 30.0
#: How long work under way may go on after SIGTERM before it is cancelled; what is staged is kept (DESIGN §7: 10 s).
DRAIN_S = 6.0
#: A mirror that cannot be opened is tried again after this.
_REOPEN_S = 60.0
#: A database that went away is most often back soon, and a look for it costs nothing.
_RECONNECT_S = 5.0
#: And so often it is looked at meanwhile whether to end or to read another configuration.
_PARKED_TICK_S = 1.0
#: How often hooks are looked for that another process made due.
_HOOKS_S = 300.0
#: The least time between two polls that a callback asked for (FAULTS S11).
_HINT_S = 30.0
#: A status is read anew at most this often, however many ask.
_STATUS_S = 5.0
_STATE_NAME = "daemon.json"
_CHORES, _HOOKS = "\0chores", "\0hooks"  # no account has such a name


class Service:
    """The daemon. `load` reads the configuration, anew at each SIGHUP; `environ` is where its secrets are.

    `pace` is how soon hosts that share a manifest notice each other; None is the usual one.
    """

    def __init__(
        self,
        load: Callable[[], Config],
        *,
        environ: Mapping[str, str],
        clock: Clock | None = None,
        notifier: Notifier | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._load = load
        self._pace = pace
        self._environ = environ
        self._clock = clock or SystemClock()
        self._notifier = notifier or Notifier(environ)
        self._config = load()
        self._next_config: Config | None = None
        self._stopping = False
        #: Whether a mirror was ever open: before that, what is wrong ends the start.
        self._started = False
        self._opener: asyncio.Task[object] | None = None
        self._hurry = asyncio.Event()
        self._told = asyncio.Event()
        self._session: _Session | SharedSession | None = None
        self._before: Config | None = None
        #: What the status line says once, after a reload that did not work out.
        self._notice = ""
        self._trouble: DcsyncError | None = None
        self._status: tuple[float, Status] | None = None
        self._last_hint = float("-inf")

    # --- what signals do: note, and wake up ---------------------------------------------------------------------------

    def stop(self) -> None:
        """End: let work under way come to an end for some seconds, then cancel it. A second call cancels at once."""
        if self._stopping:
            self._hurry.set()
            return
        # Only here: a session also ends for a reload, and systemd kills what says STOPPING and then goes on.
        self._notifier.stopping("ending; downloads are kept where they stand")
        self._stopping = True
        self._told.set()
        if self._opener is not None:
            # Once: cancelled again while it cleans up, it would end as something that nobody asked for.
            self._opener.cancel()

    def reload(self) -> None:
        """Read the configuration again; a bad one is said and the old one stays."""
        self._notifier.reloading()
        try:
            self._next_config = self._load()
            tell_settings(self._next_config, environ=self._environ)
        except DcsyncError as error:
            self._next_config = None
            log.warning(
                "the configuration was not reloaded; the one before stays", code=error.code, error=error.message
            )
            self._notifier.ready(f"running with the configuration from before: {error.message.splitlines()[0]}")
            return
        self._told.set()

    def poll_now(self) -> None:
        """Poll every account now."""
        if self._session is not None:
            self._session.poll_all()

    # --- running ------------------------------------------------------------------------------------------------------

    async def run(self) -> ExitStatus:
        """Run until told to stop. Raises what keeps it from starting: `ConfigError`, `MirrorLocked`, `MirrorError`s."""
        while not self._stopping:
            try:
                await self._run_configured(self._config)
            except DcsyncError as error:
                if self._before is None:
                    raise
                self._fall_back(self._before, error)
            else:
                self._adopt_next()
        return ExitStatus.DONE

    def _fall_back(self, before: Config, error: DcsyncError) -> None:
        """Go back to the configuration from before: the new one did not come to open a mirror."""
        log.warning(
            "the new configuration cannot be used; the one before comes back", code=error.code, error=error.message
        )
        self._config, self._before, self._next_config = before, None, None
        self._notice = f"running with the configuration from before: {error.message.splitlines()[0]}"

    async def _run_configured(self, config: Config) -> None:
        """Run with one configuration until told to stop or given another one."""
        async with AsyncExitStack() as stack:
            # The pages stay up while the mirror cannot be opened: that is when somebody looks.
            if config.http.address is not None:
                secret = callback_secret(config, environ=self._environ)
                pages = Pages(self, secret=secret)
                await stack.enter_async_context(serving(pages, *config.http.address, clock=self._clock))
            while not self._stopping and self._next_config is None:
                self._told.clear()
                await self._serve(config)

    def _adopt_next(self) -> None:
        if self._next_config is not None:
            # It is proved when a mirror is open with it.
            self._before, self._config, self._next_config = self._config, self._next_config, None

    async def _serve(self, config: Config) -> None:
        """Run on one open mirror until told otherwise or the mirror goes away."""
        progress = Progress(self._clock)
        try:
            async with AsyncExitStack() as stack:
                async with self._opening():
                    opening = partial(
                        open_sync, config, environ=self._environ, observer=progress, clock=self._clock, role="run"
                    )
                    context = await stack.enter_async_context(
                        renewing(opening, config, role="run", clock=self._clock, environ=self._environ)
                    )
                    await recover(context, account_settings(config))
                teller = await open_teller(config, context, environ=self._environ, runs_hooks=False)
                self._session = self._make_session(config, context, teller, progress)
                self._recovered()
                await self._session.run(self._opened())
        except asyncio.CancelledError:
            # Ours, while the mirror was being opened: a rebuild may take hours, and goes on at the next start.
            task = asyncio.current_task()
            if not self._stopping or task is None or task.uncancel() > 0:
                raise
        except (MirrorError, DiskError, ManifestError) as error:
            # A database that is not up yet, at boot say, is waited for: every start would only find the same.
            waits = self._started or isinstance(error, DatabaseUnreachable)
            if not waits or self._before is not None:
                raise
            await self._park(config, error)
        finally:
            self._session = None

    def _make_session(
        self, config: Config, context: SyncContext, teller: Teller, progress: Progress
    ) -> _Session | SharedSession:
        if context.peers.host is None:
            return _Session(
                config, context, teller, progress, notifier=self._notifier, told=self._told, hurry=self._hurry
            )
        # Imported for those who have several hosts.
        from dcsync.daemon.shared import SharedSession

        return SharedSession(
            config,
            context,
            teller,
            progress,
            notifier=self._notifier,
            told=self._told,
            hurry=self._hurry,
            pace=self._pace,
        )

    @asynccontextmanager
    async def _opening(self) -> AsyncIterator[None]:
        """Tell systemd that the start goes on, however long it takes, and let `stop` cut it short."""

        async def tell() -> None:
            while True:
                self._notifier.opening("opening the mirror; rebuilding the manifest reads all of it")
                await self._clock.sleep(TICK_S)

        self._opener = asyncio.current_task()
        telling = asyncio.get_running_loop().create_task(tell())
        try:
            yield
        finally:
            self._opener = None
            telling.cancel()
            with suppress(asyncio.CancelledError):
                await telling

    def _opened(self) -> str:
        """Note that the configuration is good; return what to say of it in the status line."""
        if self._before is not None:
            log.info("configuration reloaded")
        self._started, self._before = True, None
        notice, self._notice = self._notice, ""
        return notice

    async def _park(self, config: Config, error: DcsyncError) -> None:
        """Stay up without a mirror: say so once, and try again each minute."""
        if self._trouble is None or self._trouble.code != error.code:
            log.error("the mirror cannot be used", code=error.code, error=error.message, hint=error.advice)
            event = Event(
                kind=EventKind.ALERT,
                account="",
                at=self._clock.now(),
                code=error.code,
                message=error.message,
                hint=error.advice,
            )
            await self._send(config, event)
        self._trouble = error
        self._notifier.ready(f"waiting: {error.message}")
        reopen_s = _RECONNECT_S if isinstance(error, DatabaseUnreachable) else _REOPEN_S
        until = self._clock.monotonic() + reopen_s
        while not self._stopping and self._next_config is None and self._clock.monotonic() < until:
            self._notifier.watchdog()
            await self._clock.sleep(min(_PARKED_TICK_S, self._notifier.watchdog_interval_s or _PARKED_TICK_S))

    def _recovered(self) -> None:
        if self._trouble is not None:
            log.info("the mirror can be used again", after=self._trouble.code)
            self._trouble = None

    async def _send(self, config: Config, event: Event) -> None:
        settings = tell_settings(config, environ=self._environ)
        if settings.urls and event.kind in settings.on:
            await notify.send(settings.urls, [event])

    # --- what the pages ask -------------------------------------------------------------------------------------------

    async def health(self) -> tuple[bool, dict[str, Json]]:
        """Return whether every account is fresh and the daemon able to keep it so."""
        session = self._session
        if session is None:
            code = "starting" if self._trouble is None else self._trouble.code
            return False, {"status": "not able", "problems": [code]}
        status = await self._read_status()
        problems = sorted({item.code for account in status.accounts for item in account.attention})
        problems += [f"stale: {account.name}" for account in status.accounts if account.is_stale]
        problems += ["stuck"] if session.progress.is_stuck() else []
        able = status.health is ExitStatus.DONE and not session.progress.is_stuck()
        return able, {"status": "ok" if able else "not ok", "problems": list(problems)}

    async def figures(self) -> bytes:
        """Return the figures in Prometheus' text form."""
        return render(await self._read_status())

    async def report(self) -> bytes | None:
        """Return the report page from the mirror's root."""
        if self._session is None:
            return None
        return await self._session.context.disk.run(_read_or_none, Path(self._config.mirror.root) / "index.html")

    async def hint(self, account_id: str, request_id: str) -> None:
        """Poll the account of a callback, at most one in 30 s; of what nobody knows nothing is done."""
        session = self._session
        wanted = account_id.removeprefix("b.").lower()
        names = [account.name for account in self._config.accounts if account.account_id == wanted]
        if session is None or not names:
            return
        known = await session.context.manifest.requests(AccountName(names[0]))
        if not any(request == request_id for request in known):
            return
        now = self._clock.monotonic()
        if now < self._last_hint:
            return  # one is planned already
        self._last_hint = max(now, self._last_hint + _HINT_S)
        session.poll_soon(names[0], timedelta(seconds=self._last_hint - now))

    async def _read_status(self) -> Status:
        now = self._clock.monotonic()
        if self._status is None or now - self._status[0] >= _STATUS_S:
            self._status = (now, await self._look_at_status())
        return self._status[1]

    async def _look_at_status(self) -> Status:
        if self._session is None:
            return await read_status(self._config, clock=self._clock, environ=self._environ)
        return await current_status(self._session.config, self._session.context)


class _Session:
    """The workers on one open mirror."""

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
    ) -> None:
        self.config = config
        self.context = context
        self.progress = progress
        self.schedule = Schedule(self._put, context.clock)
        self._teller = teller
        self._notifier = notifier
        self._told = told
        self._hurry = hurry
        self._accounts = account_settings(config)
        self._wake = {account.name: asyncio.Event() for account in self._accounts}
        self._hooks_wake = asyncio.Event()
        self._hooks_looked_at = context.clock.monotonic()
        self._hooks_due_at: datetime | None = None
        self._nightly = Chores(
            config=config, context=context, teller=teller, progress=progress, accounts=self._accounts
        )
        self._chores: asyncio.Queue[Kind] = asyncio.Queue()
        self._queued: set[Kind] = set()
        self._idle: dict[str, asyncio.Task[None]] = {}
        self._gone: DcsyncError | None = None
        self._login_wanted = False
        self._codes: list[str] = []
        self._token_mtime: int | None = None
        self._last_words: tuple[str, str | None] | None = None

    def poll_all(self) -> None:
        """Poll every account now."""
        for wake in self._wake.values():
            wake.set()

    def poll_soon(self, account: str, wait: timedelta) -> None:
        """Poll an account once more after a wait."""
        self.schedule.poll_once(account, self.context.clock.now() + wait)

    async def run(self, notice: str) -> None:
        """Work until told otherwise; `notice` is said first. Raises the `MirrorError` when the mirror went away."""
        self._plan()
        workers: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            for account in self._accounts:
                workers[account.name] = group.create_task(self._poll_for_ever(account), name=account.name)
            workers[_CHORES] = group.create_task(self._do_chores(), name="chores")
            workers[_HOOKS] = group.create_task(self._run_hooks(), name="hooks")
            ticker = group.create_task(self._tick(), name="ticker")
            self.schedule.start()
            self.poll_all()
            self._notifier.ready(notice or self._words())
            await self._told.wait()
            self.schedule.stop()
            await self._drain(workers)
            ticker.cancel()
        await self.context.disk.run(_write_state, self._state_path(), None)
        if self._gone is not None:
            raise self._gone

    async def _drain(self, workers: Mapping[str, asyncio.Task[None]]) -> None:
        """Let work under way come to its end for some seconds, then cancel it; idle workers end at once."""
        for name, task in workers.items():
            if name in self._idle:
                task.cancel()
        hurried = asyncio.get_running_loop().create_task(self._hurry.wait())
        waiting = {task for task in workers.values() if not task.done()}
        try:
            async with asyncio.timeout(DRAIN_S):
                while waiting and not hurried.done():
                    await asyncio.wait({*waiting, hurried}, return_when=asyncio.FIRST_COMPLETED)
                    waiting = {task for task in waiting if not task.done()}
        except TimeoutError:
            log.info("work under way is cancelled; what is staged is kept", workers=len(waiting))
        finally:
            hurried.cancel()
            for task in waiting:
                task.cancel()

    def _plan(self) -> None:
        poll, now = self.config.poll, self.context.clock.now()
        for account in self._accounts:
            first = now + poll.interval
            self.schedule.poll(account.name, every=poll.interval, jitter=poll.jitter, first=first)
        for kind, hour in NIGHT.items():
            self.schedule.nightly(kind, hour=hour, zone=self.config.mirror.zone)

    def _put(self, trigger: Trigger) -> None:
        if trigger.kind is Kind.POLL:
            wake = self._wake.get(AccountName(trigger.account))
            if wake is not None:
                wake.set()
        elif trigger.kind not in self._queued:
            self._queued.add(trigger.kind)
            self._chores.put_nowait(trigger.kind)

    # --- the workers --------------------------------------------------------------------------------------------------

    async def _poll_for_ever(self, account: AccountSettings) -> None:
        wake = self._wake[account.name]
        while not self._told.is_set():
            await self._wait_idle(account.name, wake)
            wake.clear()
            with self._busy(f"polling {account.name}"):
                try:
                    await self._poll(account)
                except DcsyncError as error:
                    log.warning("a poll failed", account=account.name, code=error.code, error=error.message)
                except Exception:  # a bug in one account's work must not end the others'
                    log.exception("a bug in dcsync; the next poll tries again", account=account.name)

    @contextmanager
    def _busy(self, what: str) -> Iterator[None]:
        """Count as work under way, and let the status line say so."""
        self.progress.begin(what)
        self._notifier.status(self._words())
        try:
            yield
        finally:
            self.progress.end(what)
            if not self._told.is_set():
                self._notifier.status(self._words())

    async def _wait_idle(self, name: str, wake: asyncio.Event) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - we are in one
        self._idle[name] = task
        try:
            await wake.wait()
        finally:
            del self._idle[name]

    async def _poll(self, account: AccountSettings) -> None:
        clock = self.context.clock
        try:
            # Also when there is nothing new: an unmounted disk is to be heard of before the morning.
            await self.context.disk.run(self.context.root.check_still_there)
        except MirrorError as error:
            self._lose(error)
            return
        (outcome,) = await sync(self.context, [account])
        status = await follow_up(self.config, self.context, self._teller, [outcome])
        if status is not None:
            self._codes = sorted({item.code for known in status.accounts for item in known.attention})
        self._hooks_wake.set()
        self._note(outcome)
        expected = [item for _, item in await self._teller.expectations(account.name)]
        wait = next_poll(expected, clock.now(), self.config.poll.interval)
        if wait < self.config.poll.interval:
            self.schedule.poll_once(account.name, clock.now() + wait)
        retry = min((failed.next_try_at for failed in outcome.failed if failed.next_try_at), default=None)
        if retry is not None:
            self.schedule.poll_once(account.name, max(retry, clock.now() + timedelta(seconds=TICK_S)))

    def _note(self, outcome: AccountOutcome) -> None:
        error = outcome.error
        if isinstance(error, MirrorError):
            self._lose(error)
        self._login_wanted = error is not None and error.exit_status is ExitStatus.LOGIN_REQUIRED

    async def _run_hooks(self) -> None:
        """Run what is due, beside the polls: a hook that takes long holds nothing up."""
        while not self._told.is_set():
            await self._wait_idle(_HOOKS, self._hooks_wake)
            self._hooks_wake.clear()
            self._hooks_looked_at = self.context.clock.monotonic()
            with self._busy("running hooks"):
                try:
                    self._hooks_due_at = await self._teller.run_hooks()
                except Exception:  # the same as for a poll
                    log.exception("a bug in dcsync; the hooks are tried again")

    def _hooks_are_due(self) -> bool:
        """Whether one is to be tried again, or it is time to look for what `dcsync hooks rerun` asked for."""
        clock = self.context.clock
        retry = self._hooks_due_at is not None and self._hooks_due_at <= clock.now()
        return retry or clock.monotonic() - self._hooks_looked_at >= _HOOKS_S

    def _lose(self, error: MirrorError) -> None:
        """End this session: unmounted or moved, everything that is open leads nowhere."""
        self._gone = error
        self._told.set()

    async def _do_chores(self) -> None:
        while not self._told.is_set():
            await self._wait_chore()
            kind = self._chores.get_nowait()
            self._queued.discard(kind)
            with self._busy(kind.value):
                try:
                    await self._chore(kind)
                except DcsyncError as error:
                    log.warning("a chore failed", chore=kind.value, code=error.code, error=error.message)
                except Exception:  # the same as for a poll
                    log.exception("a bug in dcsync; the next night tries again", chore=kind.value)

    async def _wait_chore(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - we are in one
        self._idle[_CHORES] = task
        try:
            # Taken out only when it is begun: a cancelled get() must lose nothing.
            self._chores.put_nowait(await self._chores.get())
        finally:
            del self._idle[_CHORES]

    async def _chore(self, kind: Kind) -> None:
        if await self._nightly.do(kind):
            self._hooks_wake.set()

    # --- the ticker ---------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Go round every few seconds: where this does not come, the loop is blocked, and systemd may end it."""
        interval = min(TICK_S, self._notifier.watchdog_interval_s or TICK_S)
        while True:
            self.schedule.check()
            if self._hooks_are_due():
                self._hooks_wake.set()
            if not self.progress.is_stuck() or self._slow_disk() is not None:
                # A disk that does not answer cannot be mended by a kill: the kernel would not let go.
                self._notifier.watchdog()
            await self._notice_login()
            await self._say()
            await self.context.clock.sleep(interval)

    async def _notice_login(self) -> None:
        """Poll at once when somebody signed in: the store's file is another one then."""
        if not self._login_wanted or self._slow_disk() is not None:
            return
        now = await self.context.disk.run(_mtime, Path(self.config.state.dir) / "token.json")
        if self._token_mtime is not None and now != self._token_mtime:
            self.poll_all()
        self._token_mtime = now

    async def _say(self) -> None:
        """Tell systemd and `dcsync status` what is going on, when it is something else than before."""
        words, due = self._words(), self.schedule.next_poll()
        if (words, time_json(due)) == self._last_words:
            return
        self._last_words = (words, time_json(due))
        self._notifier.status(words)
        if self._slow_disk() is None:
            state: dict[str, Json] = {"pid": os.getpid(), "status": words, "next_poll": time_json(due)}
            await self.context.disk.run(_write_state, self._state_path(), state)

    def _words(self) -> str:
        slow = self._slow_disk()
        if slow is not None:
            return f"the disk does not answer for {slow:.0f} s"
        doing = self.progress.words()
        if doing:
            return doing
        due = self.schedule.next_poll()
        at = "" if due is None else f"; next poll at {due.astimezone(self.config.mirror.zone):%H:%M:%S %Z}"
        needs = f"; needs attention: {', '.join(self._codes)} (dcsync status)" if self._codes else ""
        return f"waiting{at}{needs}"

    def _slow_disk(self) -> float | None:
        """Return how long the disk has not answered, when that is long."""
        busy = self.context.disk.oldest_s()
        return busy if busy is not None and busy > SLOW_DISK_S else None

    def _state_path(self) -> Path:
        return Path(self.config.state.dir) / _STATE_NAME


def _write_state(path: Path, state: Mapping[str, Json] | None) -> None:
    """Replace the note for `dcsync status`; it need not survive a power cut, and a full disk does not matter."""
    try:
        if state is None:
            path.unlink(missing_ok=True)
            return
        aside = path.with_suffix(".new")
        aside.write_text(json.dumps(state))
        aside.replace(path)
    except OSError as error:
        log.debug("the daemon's state cannot be noted", error=error.strerror)


def _read_or_none(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _mtime(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
