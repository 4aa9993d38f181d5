"""All that a run needs, and what follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from dcsync.api.storage import open_storage
from dcsync.app.alerts import alert_settings
from dcsync.app.api import open_api
from dcsync.app.from_config import account_settings, storage_policy
from dcsync.app.mirror import look_at_mirror, open_mirror
from dcsync.app.status import current_status, read_token
from dcsync.clock import Clock
from dcsync.config import Config
from dcsync.core.alerts import Alert
from dcsync.core.transfer import Throttle
from dcsync.errors import DcsyncError, ExitStatus
from dcsync.ops.alerts.dispatch import AlertDispatcher
from dcsync.ops.context import AccountSettings, MirrorContext, NullObserver, Observer, SyncContext
from dcsync.ops.metrics import write_textfile
from dcsync.ops.mirroring.run import AccountOutcome
from dcsync.ops.page import write_report
from dcsync.ops.status import Status, TokenState, token_alert

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_sync(
    config: Config,
    *,
    environ: Mapping[str, str],
    observer: Observer | None = None,
    clock: Clock | None = None,
    role: str = "sync",
) -> AsyncIterator[SyncContext]:
    """Open everything a run needs: the mirror as `open_mirror` does, and the network. Raises `ConfigError`s besides."""
    async with (
        open_mirror(config, clock=clock, role=role, environ=environ) as mirror,
        _open_network(config, mirror, environ=environ, observer=observer) as context,
    ):
        yield context


@asynccontextmanager
async def open_dry_run(
    config: Config, *, environ: Mapping[str, str], observer: Observer | None = None, clock: Clock | None = None
) -> AsyncIterator[SyncContext]:
    """Open what planning a run needs: the mirror as `look_at_mirror` does, and the network."""
    async with (
        look_at_mirror(config, clock=clock, environ=environ) as mirror,
        _open_network(config, mirror, environ=environ, observer=observer) as context,
    ):
        yield context


@asynccontextmanager
async def _open_network(
    config: Config, mirror: MirrorContext, *, environ: Mapping[str, str], observer: Observer | None
) -> AsyncIterator[SyncContext]:
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(open_api(config, environ=environ, clock=mirror.clock, disk=mirror.disk))
        storage = await stack.enter_async_context(
            open_storage(storage_policy(config), connections=config.transfer.concurrency)
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
            slots=asyncio.Semaphore(config.transfer.concurrency),
            throttle=Throttle(config.transfer.bandwidth),
            observer=observer or NullObserver(),
        )


async def open_dispatcher(
    config: Config, context: SyncContext, *, environ: Mapping[str, str], runs_hooks: bool = True
) -> AlertDispatcher:
    """Return what tells of the runs of `context`; snapshots from now on are news."""
    settings = alert_settings(config, environ=environ)
    dispatcher = AlertDispatcher(
        manifest=context.manifest, clock=context.clock, settings=settings, runs_hooks=runs_hooks
    )
    await dispatcher.begin(account_settings(config))
    return dispatcher


async def follow_up(
    config: Config, context: SyncContext, dispatcher: AlertDispatcher, outcomes: Sequence[AccountOutcome]
) -> Status | None:
    """Do what follows a run: tell what is new and amiss, write report and figures, tell a watchdog that all is fresh.

    Never fails for what it could not do; returns the status after the run, if it can be read.
    """
    token = await stored_token(config, context)
    for outcome in outcomes:
        if outcome.error is None:
            api = context.api.with_own_count()
            await dispatcher.check_requests(api, outcome.account)
            outcome.calls += api.calls
        await dispatcher.after_run(outcome, token=account_token_alert(context, outcome.account, token))
    try:
        status = await current_status(config, context)
    except DcsyncError as error:
        log.warning("the status after the run cannot be read", code=error.code, error=error.message)
        return None
    await write_report(context, status.accounts)
    if status.check is ExitStatus.DONE:
        await dispatcher.send_heartbeat()
    textfile = config.metrics.textfile
    if textfile is not None:
        try:
            await write_textfile(context.disk, textfile, status)
        except OSError as error:
            log.warning("the metrics file cannot be written", path=str(textfile), error=error.strerror)
    return status


def account_token_alert(context: SyncContext, account: AccountSettings, token: TokenState | None) -> Alert | None:
    """Return the alert about the stored token, for one of the accounts that use it."""
    return None if token is None else token_alert(account.name, token, context.clock.now())


async def stored_token(config: Config, context: SyncContext) -> TokenState | None:
    """Return the state of the stored token, where there is one. Never fails."""
    try:
        return (await context.token_threads.run(read_token, config, context.token_store))[1]
    except DcsyncError:
        # A store that cannot be read is what the run met, and says.
        return None
