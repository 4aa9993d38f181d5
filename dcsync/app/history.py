"""The row histories of the mirror, with the settings of the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dcsync.app.from_config import account_settings, history_settings
from dcsync.app.status import current_status
from dcsync.app.stores import Stores
from dcsync.app.sync import account_token_alert, stored_token
from dcsync.config import Config
from dcsync.core.alerts import AlertCode
from dcsync.core.model import AccountName
from dcsync.manifest import SqlManifest
from dcsync.manifest.broken import BrokenParts
from dcsync.ops.alerts.boundary import Part, contain
from dcsync.ops.alerts.dispatch import AlertDispatcher
from dcsync.ops.context import HistorySettings, SyncContext
from dcsync.ops.history.catch_up import Chosen, HistoryReport, catch_up
from dcsync.ops.history.unproved import record_unproved
from dcsync.ops.history.verify import Verified
from dcsync.ops.history.windows import window_tables
from dcsync.ops.integrity.content_reader import ReadingObserver
from dcsync.ops.integrity.window_tables import WindowTables
from dcsync.ops.page import write_report

_PART: Final = Part(
    code=AlertCode.R_HISTORY,
    subject="",
    name="building the row histories",
    next_try="it is tried again after the next snapshot",
)


def proving_windows(config: Config) -> WindowTables:
    """Return what proves window tables before a prune removes them: nothing, unless `[keep] proved_windows` is on."""
    # DuckDB need not be installed: the tables stay then.
    tables = config.history.tables if config.keep.proved_windows else ()
    return window_tables(HistorySettings(tables=tuple(tables), memory=config.history.memory))


async def build_after_run(config: Config, context: SyncContext, dispatcher: AlertDispatcher) -> None:
    """Bring all row histories up to date, as the last thing after a run. What fails is an alert."""

    async def build() -> None:
        report = await build_histories(config, context, dispatcher)
        if report.steps:
            # The report and views.sql show the histories.
            status = await current_status(config, context)
            await write_report(context, status.accounts, stale_after=config.poll.stale_after)

    await contain(BrokenParts(context.manifest, None), _PART, build)


async def build_histories(
    config: Config,
    context: SyncContext,
    dispatcher: AlertDispatcher,
    *,
    names: Sequence[str] = (),
    chosen: Chosen | None = None,
    observer: ReadingObserver | None = None,
) -> HistoryReport:
    """Bring row histories up to date, and send the alerts that this changes. Raises `ConfigError` without DuckDB."""
    accounts = account_settings(config, names)
    report = await catch_up(context, accounts, history_settings(config), chosen=chosen, observer=observer)
    token = await stored_token(config, context)
    for account in accounts:
        await dispatcher.update(account, token=account_token_alert(context, account, token))
    return report


async def record_proofs(
    stores: Stores,
    manifest: SqlManifest,
    verified: Sequence[Verified],
    accounts: Sequence[AccountName],
    *,
    is_all: bool,
) -> None:
    """Record the tables that do not prove, and resolve those that prove. A daemon may be running.

    `manifest` is open to read, and is only opened to write if something changed. `is_all` says that all data requests
    and tables of these accounts were verified. Raises `ManifestError`s.
    """
    found = {name: [item for item in verified if item.account == name] for name in accounts}

    async def record(where: SqlManifest, *, only_looks: bool) -> bool:
        changed = [
            await record_unproved(BrokenParts(where, name), found[name], is_all=is_all, only_looks=only_looks)
            for name in accounts
        ]
        return any(changed)

    if await record(manifest, only_looks=True):
        async with stores.open_manifest() as writable:
            await record(writable, only_looks=False)
