"""`dcsync run`: opens the mirror, runs a session on it, and starts over after a reload or when the mirror was lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NoReturn

import structlog

from dcsync.app.from_config import account_settings, alert_settings, callback_secret
from dcsync.app.renew import renewing
from dcsync.app.status import current_status, read_status
from dcsync.app.sync import open_dispatcher, open_sync
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config
from dcsync.core.events import Event, EventKind
from dcsync.core.model import AccountName, Json
from dcsync.daemon.local_session import LocalSession
from dcsync.daemon.pages import Pages, serving
from dcsync.daemon.progress import Progress
from dcsync.daemon.sd_notify import Notifier
from dcsync.daemon.session import Session, SessionFactory, SessionParts, Signals
from dcsync.errors import (
    DatabaseUnreachable,
    DcsyncError,
    DiskError,
    ExitStatus,
    ManifestError,
    MirrorError,
)
from dcsync.ops.alerts import notify
from dcsync.ops.metrics import render
from dcsync.ops.recovery import recover
from dcsync.ops.status import Status
from dcsync.tasks import running

log = structlog.get_logger(__name__)

#: How often systemd is told that the start continues.
_OPENING_S = 30.0
#: A mirror that cannot be opened is tried again after this time.
_REOPEN_S = 60.0
#: A database that went away is most often back soon, and looking for it costs nothing.
_RECONNECT_S = 5.0
#: How often the daemon checks meanwhile whether it is to end or to use another configuration.
_WAITING_TICK_S = 1.0
#: The shortest time between two polls that callbacks asked for. Anybody who can reach the port can send callbacks.
_HINT_S = 30.0
#: How long a status is used before it is read again, however many clients ask.
_STATUS_S = 5.0


class Service:
    """The daemon. `load` reads the configuration, again at each SIGHUP; `environ` has its secrets.

    `make_session` makes the session for each mirror that is opened.
    """

    def __init__(
        self,
        load: Callable[[], Config],
        *,
        environ: Mapping[str, str],
        clock: Clock | None = None,
        notifier: Notifier | None = None,
        make_session: SessionFactory = LocalSession,
    ) -> None:
        self._load = load
        self._make_session = make_session
        self._environ = environ
        self._clock = clock or SystemClock()
        self._notifier = notifier or Notifier(environ)
        self._config = load()
        self._next_config: Config | None = None
        #: The configuration before the last reload, until a mirror was opened with the new one.
        self._previous_config: Config | None = None
        self._is_stopping = False
        #: Whether a mirror was ever open. Before that, an error ends the start.
        self._has_started = False
        self._opener: asyncio.Task[object] | None = None
        self._signals = Signals()
        self._session: Session | None = None
        #: What the status line says once, after a reload that failed.
        self._notice = ""
        self._mirror_error: DcsyncError | None = None
        self._status: tuple[float, Status] | None = None
        self._next_hint_at = float("-inf")

    # --- what signals do: note and wake up ----------------------------------------------------------------------------

    def stop(self) -> None:
        """End: work in progress has some seconds to finish, then it is cancelled. A second call cancels it at once."""
        if self._is_stopping:
            self._signals.hurry.set()
            return
        # Only here. A session also ends for a reload, and systemd kills a service that says STOPPING and continues.
        self._notifier.stopping("ending; downloads resume at the next start")
        self._is_stopping = True
        self._signals.end.set()
        if self._opener is not None:
            # Once: cancelled again while it cleans up, it would end as something that nobody asked for.
            self._opener.cancel()

    def reload(self) -> None:
        """Read the configuration again. When it is not valid, the error is logged and the current one stays in use."""
        self._notifier.reloading()
        try:
            config = self._load()
            alert_settings(config, environ=self._environ)
        except DcsyncError as error:
            self._next_config = None
            log.warning(
                "configuration not reloaded; the current one stays in use", code=error.code, error=error.message
            )
            self._notifier.ready(_previous_notice(error))
            return
        self._next_config = config
        self._signals.end.set()

    def poll_now(self) -> None:
        """Poll every account now."""
        if self._session is not None:
            self._session.poll_all()

    # --- running ------------------------------------------------------------------------------------------------------

    async def run(self) -> ExitStatus:
        """Run until told to stop. Raises what keeps it from starting: `ConfigError`, `MirrorLocked`, `MirrorError`s."""
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
            # It is proved when a mirror is open with it.
            self._previous_config, self._config, self._next_config = self._config, self._next_config, None

    def _fall_back(self, previous: Config, error: DcsyncError) -> None:
        """Return to the previous configuration: no mirror could be opened with the new one."""
        log.warning(
            "the new configuration cannot be used; back to the previous one", code=error.code, error=error.message
        )
        self._config, self._previous_config, self._next_config = previous, None, None
        self._notice = _previous_notice(error)

    async def _run_configured(self, config: Config) -> None:
        """Run with one configuration until told to stop or given another one."""
        async with AsyncExitStack() as stack:
            # The pages stay up while the mirror cannot be opened: that is when somebody looks at them.
            if config.http.address is not None:
                secret = callback_secret(config, environ=self._environ)
                pages = Pages(self, secret=secret)
                await stack.enter_async_context(serving(pages, *config.http.address, clock=self._clock))
            while not self._is_stopping and self._next_config is None:
                self._signals.end.clear()
                await self._run_session(config)

    async def _run_session(self, config: Config) -> None:
        """Open the mirror and work on it until told otherwise, or wait a while for a mirror that cannot be used."""
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
                dispatcher = await open_dispatcher(config, context, environ=self._environ, runs_hooks=False)
                parts = SessionParts(
                    config=config,
                    context=context,
                    dispatcher=dispatcher,
                    progress=progress,
                    notifier=self._notifier,
                    signals=self._signals,
                )
                self._session = self._make_session(parts)
                try:
                    await self._session.run(self._note_opened())
                finally:
                    # Before the mirror is closed: a page or a signal must not use what is closed.
                    self._session = None
        except asyncio.CancelledError:
            # `stop` cancelled the opening. A rebuild may take hours; the next start continues it.
            task = asyncio.current_task()
            if not self._is_stopping or task is None or task.uncancel() > 0:
                raise
        except (MirrorError, DiskError, ManifestError) as error:
            # At boot the database may come up later than this host; a restart would find the same.
            waits = self._has_started or isinstance(error, DatabaseUnreachable)
            if not waits or self._previous_config is not None:
                raise
            await self._wait_for_mirror(config, error)

    @asynccontextmanager
    async def _opening(self) -> AsyncIterator[None]:
        """Tell systemd that the start continues, however long it takes, and let `stop` cut it short."""

        async def extend() -> NoReturn:
            while True:
                self._notifier.opening("opening the mirror; rebuilding the manifest reads all of it")
                await self._clock.sleep(_OPENING_S)

        self._opener = asyncio.current_task()
        try:
            async with running(extend()):
                yield
        finally:
            self._opener = None

    def _note_opened(self) -> str:
        """Note that the configuration and the mirror can be used; return what the status line says first."""
        if self._mirror_error is not None:
            log.info("the mirror can be used again", after=self._mirror_error.code)
        if self._previous_config is not None:
            log.info("configuration reloaded")
        self._mirror_error, self._has_started, self._previous_config = None, True, None
        notice, self._notice = self._notice, ""
        return notice

    async def _wait_for_mirror(self, config: Config, error: DcsyncError) -> None:
        """Stay up without a mirror for a minute: the first time, notify; then let the caller try again."""
        if self._mirror_error is None or self._mirror_error.code != error.code:
            log.error("the mirror cannot be used", code=error.code, error=error.message, hint=error.advice)
            await self._notify(config, error)
        self._mirror_error = error
        self._notifier.ready(f"waiting: {error.message}")
        reopen_s = _RECONNECT_S if isinstance(error, DatabaseUnreachable) else _REOPEN_S
        until = self._clock.monotonic() + reopen_s
        while not self._is_stopping and self._next_config is None and self._clock.monotonic() < until:
            self._notifier.watchdog()
            await self._clock.sleep(min(_WAITING_TICK_S, self._notifier.watchdog_interval_s or _WAITING_TICK_S))

    async def _notify(self, config: Config, error: DcsyncError) -> None:
        """Send a notification past the manifest, which is not open."""
        event = Event(
            kind=EventKind.ALERT,
            account="",
            at=self._clock.now(),
            code=error.code,
            message=error.message,
            hint=error.advice,
        )
        settings = alert_settings(config, environ=self._environ)
        if settings.urls and event.kind in settings.on:
            await notify.send(settings.urls, [event])

    # --- what the pages ask -------------------------------------------------------------------------------------------

    async def health(self) -> tuple[bool, dict[str, Json]]:
        """Return whether every account is fresh and the daemon works, and the details; no secrets."""
        session = self._session
        if session is None:
            code = "starting" if self._mirror_error is None else self._mirror_error.code
            return False, {"status": "not able", "problems": [code]}
        status = await self._read_status()
        problems = status.codes
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
        try:
            async with self._session.context.disk.open(Path(self._config.mirror.root) / "index.html", "rb") as file:
                return await file.read()
        except FileNotFoundError:
            return None

    async def hint(self, account_id: str, request_id: str) -> None:
        """Poll the account of a callback, at most once in 30 s; a request that is not known is ignored."""
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
            self._status = (now, await self._look_at_status())
        return self._status[1]

    async def _look_at_status(self) -> Status:
        if self._session is None:
            return await read_status(self._config, clock=self._clock, environ=self._environ)
        return await current_status(self._session.config, self._session.context)


def _previous_notice(error: DcsyncError) -> str:
    return f"running with the previous configuration: {error.message.splitlines()[0]}"
