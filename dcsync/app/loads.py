"""The loads of the configuration: databases of the user, updated after each snapshot."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import open_existing_manifest
from dcsync.app.stores import Stores
from dcsync.app.sync import account_token_alert, stored_token
from dcsync.config import Config
from dcsync.config.sections import Load as Section
from dcsync.core.alerts import AlertCode
from dcsync.core.load_addresses import check_address, shown
from dcsync.core.load_settings import LoadSettings
from dcsync.core.load_state import LoadState
from dcsync.core.loads import LoadMode, NewColumn
from dcsync.errors import ConfigError
from dcsync.load import Target, opened
from dcsync.manifest.broken import BrokenParts
from dcsync.ops.alerts.boundary import Part, contain
from dcsync.ops.alerts.dispatch import AlertDispatcher
from dcsync.ops.context import MirrorContext, SyncContext
from dcsync.ops.integrity.content_reader import ReadingObserver
from dcsync.ops.loads.loading import Load
from dcsync.ops.loads.run import Chosen, LoadReport, WantedLoad, forget_other_loads, run_loads
from dcsync.ops.loads.states import load_state

_PART: Final = Part(
    code=AlertCode.R_LOAD,
    subject="",
    name="running the loads",
    next_try="it is tried again after the next snapshot",
)
#: The memory that DuckDB uses while it reads the file of a table.
_MEMORY: Final = 192 << 20
_BOTH: Final = frozenset(LoadMode)


def wanted_loads(
    config: Config, names: Sequence[str] = (), *, environ: Mapping[str, str] = os.environ
) -> list[WantedLoad]:
    """Return the configured loads, or only those in `names`. Raises `ConfigError` for an unknown name."""
    known = [load.name for load in config.loads]
    unknown = [name for name in names if name not in known]
    if unknown or not known:
        message = f"the configuration has no load {unknown[0]!r}" if unknown else "the configuration has no [[load]]"
        hint = f"the loads are: {', '.join(known)}" if known else "add one; `dcsync explain load` shows how"
        raise ConfigError(message, hint=hint)
    return [_wanted(load, environ) for load in config.loads if not names or load.name in names]


async def load_after_run(
    config: Config,
    context: SyncContext,
    dispatcher: AlertDispatcher,
    *,
    modes: Collection[LoadMode] = _BOTH,
    environ: Mapping[str, str] = os.environ,
) -> datetime | None:
    """Run the loads of these modes that are due, as the last thing after a run. What fails is an alert.

    Returns the time of the next attempt of a load that failed.
    """
    names = [load.name for load in config.loads]

    times: list[datetime] = []

    async def work() -> None:
        await forget_other_loads(context.manifest, names)
        loads = [load for load in wanted_loads(config, environ=environ) if load.settings.mode in modes] if names else []
        await _run(config, context, dispatcher, loads, Chosen(insists=False), None)
        states = [await load_state(context.manifest, name) for name in names]
        times.extend(state.next_try_at for state in states if state.next_try_at is not None)

    await contain(BrokenParts(context.manifest, None), _PART, work)
    return min(times, default=None)


async def load_now(
    config: Config,
    context: SyncContext,
    dispatcher: AlertDispatcher,
    *,
    names: Sequence[str],
    chosen: Chosen,
    environ: Mapping[str, str] = os.environ,
    observer: ReadingObserver | None = None,
) -> list[LoadReport]:
    """Run loads for a command, and send the alerts that this changes. Raises `ConfigError` for an unknown name."""
    loads = wanted_loads(config, names, environ=environ)
    return await _run(config, context, dispatcher, loads, chosen, observer)


async def load_alone(
    config: Config,
    context: MirrorContext,
    *,
    names: Sequence[str],
    chosen: Chosen,
    environ: Mapping[str, str] = os.environ,
    observer: ReadingObserver | None = None,
) -> list[LoadReport]:
    """Run loads without a daemon. The next run sends the alerts. Raises `ConfigError` for an unknown name."""
    loads = wanted_loads(config, names, environ=environ)
    return await run_loads(context, account_settings(config), loads, chosen=chosen, observer=observer)


async def _run(
    config: Config,
    context: SyncContext,
    dispatcher: AlertDispatcher,
    loads: Sequence[WantedLoad],
    chosen: Chosen,
    observer: ReadingObserver | None,
) -> list[LoadReport]:
    accounts = account_settings(config)
    reports = await run_loads(context, accounts, loads, chosen=chosen, observer=observer)
    if not reports:
        return reports
    token = await stored_token(config, context)
    for account in accounts:
        await dispatcher.update(account, token=account_token_alert(context, account, token))
    return reports


def _wanted(load: Section, environ: Mapping[str, str]) -> WantedLoad:
    settings = LoadSettings(
        name=load.name,
        dataset=load.dataset,
        mode=LoadMode(load.mode),
        on_new_column=NewColumn(load.on_new_column),
        tables=tuple(load.tables),
        accounts=tuple(load.accounts),
        requests=tuple(load.requests),
    )

    def prepare() -> Load:
        address = load.to.resolve(environ).get_secret_value()
        try:
            check_address(address)
            where = shown(address)
        except ValueError as error:
            raise ConfigError(f"load.to ({load.to.describe()}) {error}", hint="correct the address") from None

        def open_target(work: Path) -> AbstractContextManager[Target]:
            return opened(address, dataset=load.dataset, work=work, memory=_MEMORY)

        return Load(settings=settings, where=where, open_target=open_target)

    return WantedLoad(settings=settings, prepare=prepare)


async def read_states(config: Config, stores: Stores) -> dict[str, LoadState]:
    """Return the last attempt of each configured load by its name. Raises `ConfigError` without a load."""
    wanted_loads(config)
    async with AsyncExitStack() as stack:
        manifest = await open_existing_manifest(stack, stores)
        return {load.name: await load_state(manifest, load.name) for load in config.loads}


def ask_target(load: Section, environ: Mapping[str, str]) -> str:
    """Check that a load can write to its target, and return its address without secrets. Blocks.

    Raises `DcsyncError`s.
    """
    ready = _wanted(load, environ).prepare()
    with TemporaryDirectory(prefix="dcsync-") as folder, ready.open_target(Path(folder)) as target:
        target.shown()
        target.check_writable()
    return ready.where
