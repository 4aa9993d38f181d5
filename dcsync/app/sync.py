"""Everything that a run needs, and the steps that follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta

from dcsync.api.storage import open_storage
from dcsync.app.alerts import alert_settings
from dcsync.app.api import open_api
from dcsync.app.from_config import account_settings, history_settings, storage_policy
from dcsync.app.mirror import open_mirror, open_mirror_unlocked
from dcsync.app.network import network_of
from dcsync.app.status import current_status, read_token
from dcsync.app.stores import Stores
from dcsync.clock import Clock
from dcsync.config import Config
from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.transfer import Throttle
from dcsync.errors import DcsyncError, ExitStatus
from dcsync.manifest.broken import BrokenParts
from dcsync.ops.alerts.boundary import Part, contain
from dcsync.ops.alerts.dispatch import AlertDispatcher
from dcsync.ops.connections import Connections
from dcsync.ops.context import AccountSettings, MirrorContext, NullObserver, Observer, SyncContext
from dcsync.ops.metrics import write_textfile
from dcsync.ops.mirroring.latest import retry_latest
from dcsync.ops.mirroring.outcome import AccountOutcome
from dcsync.ops.page import report_content, write_report
from dcsync.ops.status import Status, TokenState, token_alert


@asynccontextmanager
async def open_sync(
    config: Config,
    stores: Stores,
    *,
    environ: Mapping[str, str],
    observer: Observer | None = None,
    clock: Clock | None = None,
    role: str,
) -> AsyncIterator[SyncContext]:
    """Open everything that a run needs: the mirror, as `open_mirror` does, and the network. May raise `ConfigError`."""
    async with (
        open_mirror(config, stores, role=role, clock=clock) as mirror,
        _open_network(config, stores, mirror, environ=environ, observer=observer) as context,
    ):
        yield context


@asynccontextmanager
async def open_dry_run(
    config: Config,
    stores: Stores,
    *,
    environ: Mapping[str, str],
    observer: Observer | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[SyncContext]:
    """Open everything that the plan of a run needs: the mirror, as `open_mirror_unlocked` does, and the network."""
    async with (
        open_mirror_unlocked(config, stores, clock=clock) as mirror,
        _open_network(config, stores, mirror, environ=environ, observer=observer) as context,
    ):
        yield context


@asynccontextmanager
async def _open_network(
    config: Config, stores: Stores, mirror: MirrorContext, *, environ: Mapping[str, str], observer: Observer | None
) -> AsyncIterator[SyncContext]:
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(
            open_api(config, stores, environ=environ, clock=mirror.clock, disk=mirror.disk)
        )
        storage = await stack.enter_async_context(
            open_storage(
                storage_policy(config),
                connections=config.transfer.concurrency,
                network=network_of(config, environ=environ),
            )
        )
        yield SyncContext(
            api=api.client,
            limiter=api.limiter,
            token_store=api.store,
            token_threads=api.store_threads,
            storage=storage,
            manifest=mirror.manifest,
            root=mirror.root,
            clock=mirror.clock,
            disk=mirror.disk,
            settings=mirror.settings,
            peers=mirror.peers,
            is_new=mirror.is_new,
            connections=Connections(config.transfer.concurrency),
            throttle=Throttle(config.transfer.bandwidth),
            observer=observer or NullObserver(),
        )


async def open_dispatcher(
    config: Config, stores: Stores, context: SyncContext, *, environ: Mapping[str, str], runs_hooks: bool = True
) -> AlertDispatcher:
    """Return the dispatcher for the runs of `context`. It sends events for snapshots from now on.

    Raises `ConfigError` for a missing secret, or a package that is not installed.
    """
    settings = alert_settings(config, stores, environ=environ)
    history_settings(config)
    dispatcher = AlertDispatcher(
        manifest=context.manifest, clock=context.clock, settings=settings, runs_hooks=runs_hooks
    )
    await dispatcher.begin(account_settings(config))
    return dispatcher


#: So long a page may show an older time of the last poll, while nothing else on it changes.
_SAME_REPORT = timedelta(minutes=30)


class Reports:
    """Runs that end at the same time share a report: it covers all accounts, and may take a second.

    A report that would show the same is not written again before its time on the page is half an hour old.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._asked = self._written = 0
        self._status: Status | None = None
        #: What the files show, and since when. None if they could not be written.
        self._shown: tuple[Sequence[object], datetime] | None = None

    def is_due(self, content: Sequence[object], now: datetime, *, stale_after: timedelta) -> bool:
        """Return whether a report must be written. The page calls itself outdated after `stale_after`."""
        if self._shown is None:
            return True
        shown, written_at = self._shown
        # A poll comes within half of `stale_after` (config/sections.py), and may take a while.
        return shown != content or not timedelta(0) <= now - written_at < min(_SAME_REPORT, stale_after / 6)

    def note(self, content: Sequence[object], at: datetime, *, is_written: bool) -> None:
        """Record what a report shows."""
        self._shown = (content, at) if is_written else None

    async def write(self, work: Callable[[], Awaitable[Status | None]]) -> Status | None:
        """Write a report with `work`, unless another caller began one after this call. Return the status after it."""
        self._asked += 1
        mine = self._asked
        async with self._lock:
            if self._written < mine:
                asked = self._asked
                self._status = await work()
                self._written = asked
            return self._status


async def follow_up(
    config: Config,
    context: SyncContext,
    dispatcher: AlertDispatcher,
    outcomes: Sequence[AccountOutcome],
    reports: Reports | None = None,
) -> Status | None:
    """Do the steps that follow a run: send events and alerts, write the report and the metrics, send the heartbeat.

    A step that fails is an alert and stops no other step. Returns the status after the run, if it can be read.
    """
    token = await stored_token(config, context)
    for outcome in outcomes:
        await _retry_latest(context, outcome.account)
        if outcome.error is None:
            await _check_requests(context, dispatcher, outcome)
        await dispatcher.after_run(outcome, token=account_token_alert(context, outcome.account, token))
    reports = reports or Reports()
    return await reports.write(lambda: _report(config, context, dispatcher, reports))


async def _report(config: Config, context: SyncContext, dispatcher: AlertDispatcher, reports: Reports) -> Status | None:
    found: list[tuple[Status, Sequence[object]]] = []

    async def read() -> None:
        status = await current_status(config, context)
        found.append((status, await report_content(context, status.accounts)))

    shared = BrokenParts(context.manifest, None)
    if not await contain(shared, _STATUS, read):
        return None
    ((status, content),) = found
    now, stale_after = context.clock.now(), config.poll.stale_after
    if reports.is_due(content, now, stale_after=stale_after):
        is_written = await write_report(context, status.accounts, stale_after=stale_after)
        reports.note([True, *content[1:]], now, is_written=is_written)
    if status.check is ExitStatus.DONE:
        await dispatcher.send_heartbeat()
    await _write_metrics(config, context, status)
    return status


_STATUS = Part(
    code=AlertCode.P_REPORT,
    subject="status",
    name="reading the status for the report page and the metrics",
    next_try="the next poll tries it again",
)


async def _check_requests(context: SyncContext, dispatcher: AlertDispatcher, outcome: AccountOutcome) -> None:
    """List the data requests of an account if that is due, and add the names that match none to the outcome."""
    name, api = outcome.account.name, context.api.with_own_count(context.observer.waiting)

    async def check() -> None:
        outcome.unmatched.extend(await dispatcher.check_requests(api, outcome.account))

    part = Part(
        code=AlertCode.D_ALERTS,
        subject="requests",
        name=f"checking the data requests of {name}",
        next_try="the next poll tries it again",
    )
    await contain(BrokenParts(context.manifest, name), part, check)
    outcome.calls += api.calls


async def _write_metrics(config: Config, context: SyncContext, status: Status) -> None:
    """Write the metrics file, if one is configured. Without one, no earlier failure is left."""
    textfile = config.metrics.textfile

    async def write() -> None:
        if textfile is not None:
            await write_textfile(context.disk, textfile, status)

    part = Part(
        code=AlertCode.P_METRICS,
        subject="",
        name="writing the metrics file",
        next_try="the next poll writes it again",
    )
    await contain(BrokenParts(context.manifest, None), part, write)


async def _retry_latest(context: SyncContext, account: AccountSettings) -> None:
    part = Part(
        code=AlertCode.M_LATEST,
        subject="",
        name=f"moving latest of {account.name} again",
        next_try="the next run tries it again",
    )

    async def retry() -> None:
        await retry_latest(context, account)

    await contain(BrokenParts(context.manifest, account.name), part, retry)


def account_token_alert(context: SyncContext, account: AccountSettings, token: TokenState | None) -> Alert | None:
    """Return the alert about the stored token, for one of the accounts that use it."""
    return None if token is None else token_alert(account.name, token, context.clock.now())


async def stored_token(config: Config, context: SyncContext) -> TokenState | None:
    """Return the state of the stored token, where there is one. Never fails."""
    try:
        return (await context.token_threads.run(read_token, config, context.token_store))[1]
    except DcsyncError:
        # The run met the same error and reports it.
        return None
