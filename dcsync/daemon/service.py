"""`dcsync run`: opens the mirror and runs a session on it, again after a reload or after the mirror was lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NoReturn

import structlog

from dcsync import __version__
from dcsync.app.alerts import alert_settings
from dcsync.app.api import open_unattended
from dcsync.app.from_config import account_settings, callback_secret
from dcsync.app.renew import renewing
from dcsync.app.status import current_status, read_status
from dcsync.app.stores import Stores, StoresFor
from dcsync.app.sync import open_dispatcher, open_sync
from dcsync.auth.token_store import fingerprint
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config
from dcsync.core.alerts import AlertCode
from dcsync.core.events import Event, EventKind
from dcsync.core.model import AccountName, Json
from dcsync.daemon.listening import Listening, serving
from dcsync.daemon.open_order import Work
from dcsync.daemon.orders import ORDERS_HINT, Orders
from dcsync.daemon.pages import MAX_BODY, Pages
from dcsync.daemon.progress import SLOW_DISK_S, Progress
from dcsync.daemon.sd_notify import Notifier
from dcsync.daemon.session import Errand, Session, SessionFactory
from dcsync.daemon.session_parts import SessionParts, Signals
from dcsync.errors import (
    DatabaseUnreachable,
    DcsyncError,
    DiskError,
    DiskHung,
    ExitStatus,
    ManifestError,
    MirrorError,
    NoThreads,
)
from dcsync.manifest.broken import BrokenPart
from dcsync.ops.alerts import notify
from dcsync.ops.alerts.daemon_parts import daemon_part
from dcsync.ops.metrics import render
from dcsync.ops.recovery import recover
from dcsync.ops.status import Status
from dcsync.tasks import capture, oldest_disk_call_s, running

log = structlog.get_logger(__name__)

#: How often systemd is told that the start continues.
_OPENING_S = 30.0
#: The time after which a mirror that cannot be opened is tried again.
_REOPEN_S = 60.0
#: The same for a database and for threads, which are usually back soon and cheap to check.
_RECONNECT_S = 5.0
_PASSING = (DatabaseUnreachable, NoThreads)
#: How often the waiting daemon checks for a stop or a reload.
_WAITING_TICK_S = 1.0
#: The shortest time between two polls that callbacks asked for. Any client of the port can send callbacks.
_HINT_S = 30.0
#: How long a status is reused before it is read again, however many clients ask.
_STATUS_S = 5.0


class Service:
    """The daemon. `load` reads the configuration, again at each SIGHUP. `environ` has its secrets.

    `stores_for` chooses the stores of each configuration, and `make_session` the session of each open mirror. `works`
    has the commands that the daemon carries out.
    """

    def __init__(
        self,
        load: Callable[[], Config],
        stores_for: StoresFor,
        *,
        environ: Mapping[str, str],
        clock: Clock | None = None,
        notifier: Notifier | None = None,
        make_session: SessionFactory,
        works: Mapping[str, Work] | None = None,
    ) -> None:
        self._load = load
        self._stores_for = stores_for
        self._make_session = make_session
        self._environ = environ
        self._clock = clock or SystemClock()
        self._notifier = notifier or Notifier(environ)
        self._config = load()
        self._next_config: Config | None = None
        #: The previous configuration after a reload, until a mirror was opened with the new one.
        self._previous_config: Config | None = None
        self._is_stopping = False
        #: Whether a mirror was ever open. Before that, an error ends the start.
        self._has_started = False
        self._opener: asyncio.Task[object] | None = None
        self._signals = Signals()
        self._session: Session | None = None
        self._orders = Orders(works or {}, clock=self._clock)
        #: The state of the pages' address. None without one.
        self._listening: Listening | None = None
        #: Why the previous configuration is still in use, after a failed reload. Part of the status line.
        self._notice = ""
        self._mirror_error: DcsyncError | None = None
        self._status: tuple[float, Status] | None = None
        self._next_hint_at = float("-inf")
        #: The key that the session signs in with.
        self._key: tuple[str, str] | None = None

    # --- signals: record and wake up ----------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop. Running work has some seconds to finish before it is cancelled. A second call cancels it now."""
        if self._is_stopping:
            self._signals.hurry.set()
            return
        # Only here: a session also ends for a reload, and systemd kills a service that continues after STOPPING.
        self._notifier.stopping("stopping; downloads resume at the next start")
        self._is_stopping = True
        self._signals.end.set()
        if self._opener is not None:
            # Only once: a second cancellation during the clean-up would look like an unexpected one.
            self._opener.cancel()

    def reload(self) -> None:
        """Read the configuration again. If it is not valid, log the error and keep the current one."""
        self._notifier.reloading()
        try:
            config = self._load()
            alert_settings(config, self._stores_for(config, self._environ), environ=self._environ)
        except DcsyncError as error:
            self._next_config = None
            log.warning(
                "configuration not reloaded; the current one stays in use", code=error.code, error=error.message
            )
            self._notice = _previous_notice(error)
            if self._session is not None:
                self._session.notice = self._notice
            self._notifier.ready(self._notice)
            return
        self._next_config = config
        self._signals.end.set()

    def reload_key(self) -> None:
        """Reload if the key of the service account was replaced: `rotate-key` removes the old one."""
        try:
            key = _key_of(self._load(), self._environ)
        except DcsyncError as error:
            log.warning("the key was not read again", code=error.code, error=error.message)
            return
        if key != self._key:
            # Once for each key: the next session uses it, whether or not it is valid.
            log.info("the key of the service account has changed; reloading the configuration")
            self.reload()

    def poll_now(self) -> None:
        """Poll every account now."""
        if self._session is not None:
            self._session.poll_all()

    # --- running ------------------------------------------------------------------------------------------------------

    async def run(self) -> ExitStatus:
        """Run until stopped. Raises `ConfigError`, `MirrorLocked` and other `MirrorError`s when it cannot start."""
        async with self._orders.opened():
            while not self._is_stopping:
                try:
                    await self._run_configured(self._config)
                except DcsyncError as error:
                    if self._previous_config is None:
                        raise
                    self._fall_back(self._previous_config, error)
                else:
                    self._take_next_config()
        return ExitStatus.DONE

    def _take_next_config(self) -> None:
        if self._next_config is not None:
            self._notice = ""
            # It counts as working only after a mirror was opened with it.
            self._previous_config, self._config, self._next_config = self._config, self._next_config, None

    def _fall_back(self, previous: Config, error: DcsyncError) -> None:
        """Return to the previous configuration, because no mirror could be opened with the new one."""
        log.warning("new configuration rejected; running with the previous one", code=error.code, error=error.message)
        self._config, self._previous_config, self._next_config = previous, None, None
        self._notice = _previous_notice(error)

    async def _run_configured(self, config: Config) -> None:
        """Run with one configuration until stopped or reloaded."""
        async with AsyncExitStack() as stack:
            # The pages stay up while the mirror cannot be opened: you need them most then.
            if config.http.address is not None:
                secret = callback_secret(config, environ=self._environ)
                pages = Pages(self, secret=secret)
                server = serving(
                    pages.routes(),
                    *config.http.address,
                    clock=self._clock,
                    hosts=config.http.hosts,
                    max_body=MAX_BODY,
                )
                self._listening = await stack.enter_async_context(server)
            else:
                self._listening = None
            while not self._is_stopping and self._next_config is None:
                self._signals.end.clear()
                await self._run_session(config)

    async def _run_session(self, config: Config) -> None:
        """Open the mirror and work on it, or wait a while if it cannot be used."""
        progress = Progress(self._clock)
        stores = self._stores_for(config, self._environ)
        try:
            errand = await self._run_opened(config, stores, progress)
            if errand is not None and not self._is_stopping:
                # The mirror is closed, and the command waits for the result.
                await self._do_errand(errand)
        except asyncio.CancelledError:
            # `stop` cancelled the opening. A rebuild may take hours, and the next start continues it.
            task = asyncio.current_task()
            if not self._is_stopping or task is None or task.uncancel() > 0:
                raise
        except (MirrorError, DiskError, ManifestError, NoThreads) as error:
            # At boot the database may start later than this host. A restart of the daemon would not help.
            waits = self._has_started or isinstance(error, _PASSING)
            if not waits or self._previous_config is not None:
                raise
            await self._wait_for_mirror(config, error)

    async def _run_opened(self, config: Config, stores: Stores, progress: Progress) -> Errand | None:
        """Open the mirror and work on it. Return what to do after it is closed."""
        async with AsyncExitStack() as stack:
            # Before the adapters read it: a key that changes in between is one more reload.
            self._key = _key_of(config, self._environ)
            async with self._opening("opening the mirror; a rebuild of the manifest reads all files"):
                opener = partial(open_sync, environ=self._environ, observer=progress)
                context = await stack.enter_async_context(
                    renewing(opener, config, stores, role="run", clock=self._clock)
                )
                self._orders.mirror_locked(config)
                await recover(context, account_settings(config))
            dispatcher = await open_dispatcher(config, stores, context, environ=self._environ, runs_hooks=False)
            parts = SessionParts(
                config=config,
                context=context,
                dispatcher=dispatcher,
                progress=progress,
                notifier=self._notifier,
                signals=self._signals,
                environ=self._environ,
                problems=self._problems,
                key_refused=self.reload_key,
                opening=partial(open_unattended, config, stores, environ=self._environ, clock=self._clock),
            )
            session = self._session = self._make_session(parts)
            try:
                session.notice = self._notice
                self._note_opened()
                self._orders.session_opened(session, stores)
                await session.run()
            finally:
                # Before the mirror is closed, so that no page, signal or order uses a closed mirror.
                self._session = None
                self._orders.session_closed()
        return session.errand

    async def _do_errand(self, errand: Errand) -> None:
        """Do the work that a command asked for, while the mirror is closed."""
        async with self._opening("rebuilding the manifest for a command"), asyncio.TaskGroup() as group:
            task = group.create_task(capture(errand.work()), name="errand")
            # The command may be interrupted, which cancels the result.
            await asyncio.wait({task, errand.result}, return_when=asyncio.FIRST_COMPLETED)
            if errand.result.done():
                task.cancel()
            else:
                errand.result.set_result(task.result())

    @asynccontextmanager
    async def _opening(self, status: str) -> AsyncIterator[None]:
        """Report to systemd that the start continues, however long it takes. `stop` cancels it."""

        async def extend() -> NoReturn:
            while True:
                self._notifier.opening(status)
                await self._clock.sleep(_OPENING_S)

        self._opener = asyncio.current_task()
        try:
            async with running(extend()):
                yield
        finally:
            self._opener = None

    def _note_opened(self) -> None:
        """Record that the configuration and the mirror work."""
        if self._mirror_error is not None:
            log.info("the mirror is available again", after=self._mirror_error.code)
        if not self._has_started:
            log.info("daemon started", version=__version__, **_facts(self._config))
        if self._previous_config is not None:
            log.info("configuration reloaded", **_facts(self._config))
        self._mirror_error, self._has_started, self._previous_config = None, True, None

    def _problems(self) -> Sequence[BrokenPart]:
        """Return the parts of the daemon outside its session that do not work now."""
        found = []
        problem = None if self._listening is None else self._listening.problem
        if problem is not None:
            found.append(daemon_part(AlertCode.P_LISTEN, message=problem.message, hint=problem.hint))
        if self._orders.problem is not None:
            found.append(daemon_part(AlertCode.P_ORDERS, message=self._orders.problem, hint=ORDERS_HINT))
        return found

    async def _wait_for_mirror(self, config: Config, error: DcsyncError) -> None:
        """Wait a minute without a mirror, then return so that the caller tries again. The first time, notify."""
        if self._mirror_error is None or self._mirror_error.code != error.code:
            log.error("the mirror is not available", code=error.code, error=error.message, hint=error.advice)
            await self._notify(config, error)
        self._mirror_error = error
        self._orders.mirror_lost(error)
        self._notifier.ready(f"waiting: {error.message}")
        reopen_s = _RECONNECT_S if isinstance(error, _PASSING) else _REOPEN_S
        until = self._clock.monotonic() + reopen_s
        while not self._is_stopping and self._next_config is None and self._clock.monotonic() < until:
            self._notifier.watchdog()
            await self._clock.sleep(min(_WAITING_TICK_S, self._notifier.watchdog_interval_s or _WAITING_TICK_S))

    async def _notify(self, config: Config, error: DcsyncError) -> None:
        """Send a notification without the manifest, which is not open."""
        event = Event(
            kind=EventKind.ALERT,
            account="",
            at=self._clock.now(),
            code=error.code,
            message=error.message,
            hint=error.advice,
        )
        settings = alert_settings(config, self._stores_for(config, self._environ), environ=self._environ)
        if settings.urls and event.kind in settings.on:
            await notify.send(settings.urls, [event])

    # --- for the pages -------------------------------------------------------------------------------------------

    async def health(self) -> tuple[bool, dict[str, Json]]:
        """Return whether every data request is up to date and the daemon works, and the details, without secrets."""
        session, disk_s = self._session, oldest_disk_call_s()
        if session is None:
            code = "starting" if self._mirror_error is None else self._mirror_error.code
            slow = disk_s is not None and disk_s > SLOW_DISK_S
            more = {"message": f"a call to the disk has not returned for {disk_s:.0f} s"} if slow else {}
            return False, {"status": "not able", "problems": [code], **more}
        if session.hung_disk is not None:
            # Everything else that is read for a status may be on that disk.
            return False, {"status": "not ok", "problems": [DiskHung.code], "message": session.hung_disk}
        status = await self._read_status()
        problems = status.codes
        problems += [f"stale: {account.name}" for account in status.accounts if account.is_stale]
        problems += ["stuck"] if session.progress.is_stuck() else []
        able = status.check is ExitStatus.DONE and not session.progress.is_stuck()
        requests: list[Json] = [
            {"account": account.name, **request.json()} for account in status.accounts for request in account.requests
        ]
        return able, {"status": "ok" if able else "not ok", "problems": list(problems), "requests": requests}

    def is_alive(self) -> bool:
        """Return whether the daemon works, whatever the state of the data. A restart helps only if it does not."""
        return self._session is None or not self._session.progress.is_stuck()

    async def figures(self) -> bytes:
        """Return the metrics in the Prometheus text format."""
        return render(await self._read_status())

    async def report(self) -> bytes | None:
        """Return the report page from the mirror's root."""
        if self._session is None:
            return None
        try:
            async with self._session.context.disk.open(Path(self._config.mirror.root) / "index.html", "rb") as file:
                return await file.read()
        except OSError:
            # It is missing, or something else has its name: the alert about the report says so.
            return None

    async def hint(self, account_id: str, request_id: str) -> None:
        """Poll the account of a callback, at most once in 30 s. Ignore an unknown data request."""
        session = self._session
        wanted = account_id.removeprefix("b.").lower()
        names = [account.name for account in self._config.accounts if account.account_id == wanted]
        if session is None or not names:
            return
        known = await session.context.manifest.requests(AccountName(names[0]))
        if not any(request == request_id for request in known):
            return
        now = self._clock.monotonic()
        if now < self._next_hint_at:
            return  # a poll is planned already
        self._next_hint_at = max(now, self._next_hint_at + _HINT_S)
        session.poll_soon(names[0], timedelta(seconds=self._next_hint_at - now))

    async def _read_status(self) -> Status:
        now = self._clock.monotonic()
        if self._status is None or now - self._status[0] >= _STATUS_S:
            self._status = (now, await self._load_status())
        return self._status[1]

    async def _load_status(self) -> Status:
        if self._session is None:
            stores = self._stores_for(self._config, self._environ)
            return await read_status(self._config, stores, clock=self._clock)
        return await current_status(self._session.config, self._session.context)


def _facts(config: Config) -> dict[str, str | int]:
    """Return what the daemon mirrors, where to, and how often it polls."""
    return {
        "accounts": ", ".join(account.name for account in config.accounts),
        "mirror": str(config.mirror.root),
        "poll_seconds": round(config.poll.interval.total_seconds()),
    }


def _key_of(config: Config, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the ID and a fingerprint of the service account's key. Raises `SecretUnavailable`."""
    auth = config.auth
    if auth.method != "service-account" or auth.private_key is None or auth.key_id is None:
        return None
    return auth.key_id, fingerprint(auth.private_key.resolve(environ).get_secret_value())


def _previous_notice(error: DcsyncError) -> str:
    return f"running with the previous configuration: {error.message.splitlines()[0]}"
