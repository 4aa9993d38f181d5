"""The checks of `dcsync doctor`: a configuration, and everything that it names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from dcsync import __version__
from dcsync.api.client import DataConnector
from dcsync.api.limiter import Limiter
from dcsync.app.api import open_api
from dcsync.app.from_config import account_settings, known_callback_secret, mirror_settings
from dcsync.app.loads import ask_target
from dcsync.app.network import network_of
from dcsync.app.state_dir import INSTANCE_NAME, LOCK_NAME
from dcsync.app.status import lock_holder
from dcsync.app.stores import Stores, StoresFor
from dcsync.auth.token_store import ChainStore
from dcsync.clock import Clock, SystemClock
from dcsync.config import Auth, Config, SecretRef, find, load
from dcsync.errors import ConfigError
from dcsync.ops.doctor.examine import Check, Outlets, Secret, Subject, examine, unconfigured
from dcsync.ops.doctor.outlets import Target
from dcsync.tasks import DiskThreads


async def diagnose(
    place: Path | None,
    stores_for: StoresFor,
    *,
    environ: Mapping[str, str],
    clock: Clock | None = None,
    report: Callable[[Check], None] = lambda _: None,
) -> list[Check]:
    """Check a configuration and everything that it names. A failure is one of the checks, and no written file stays.

    `report` gets each check at once.
    """
    try:
        found = find(place, environ=environ)
        config = load(found, environ=environ, accounts_needed=False)
        stores = stores_for(config, environ)
    except ConfigError as error:
        return unconfigured(error, report)
    clock = clock or SystemClock()
    auth, state = config.auth, Path(config.state.dir)
    chained = auth.method != "service-account" and (auth.method == "login" or auth.refresh_token is not None)
    needed = {
        "login": ("client_secret",),
        "service-account": ("client_secret", "private_key"),
        "token": ("client_secret",) if chained else ("access_token",),
    }[auth.method]
    with DiskThreads() as disk:

        @asynccontextmanager
        async def ask() -> AsyncIterator[tuple[DataConnector, Limiter]]:
            with ExitStack() as stack:
                used = config
                if not await disk.run(state.is_dir):
                    # The first run creates the state folder, as the user that it runs as.
                    folder = Path(stack.enter_context(TemporaryDirectory(prefix="dcsync-")))
                    used = config.model_copy(update={"state": config.state.model_copy(update={"dir": folder})})
                async with open_api(used, stores_for(used, environ), environ=environ, clock=clock, disk=disk) as opened:
                    yield opened.client, opened.limiter

        subject = Subject(
            place=found,
            old_names=[str(old) for old in config.old_names],
            version=__version__,
            root=Path(config.mirror.root),
            settings=mirror_settings(config),
            state=state,
            shown_manifest=stores.shown,
            open_manifest=stores.open_existing,
            open_store=lambda: _store_to_look(stores, disk),
            instance=state / INSTANCE_NAME,
            base_url=config.api.base_url,
            network=lambda: network_of(config, environ=environ),
            outlets=_outlets(config, environ),
            accounts=account_settings(config),
            method=auth.method,
            secrets=[secret for name in needed if (secret := _secret(auth, name, environ)) is not None],
            seed=_secret(auth, "refresh_token", environ) if chained else None,
            chained=chained,
            holder=lambda: lock_holder(state / LOCK_NAME),
            open_api=ask,
            callback_secret=partial(known_callback_secret, config, environ=environ),
        )
        return await examine(subject, clock=clock, disk=disk, report=report)


def _outlets(config: Config, environ: Mapping[str, str]) -> Outlets:
    def secret(key: str, reference: SecretRef) -> Secret:
        return Secret(
            key=key, where=reference.describe(), resolve=lambda: reference.resolve(environ).get_secret_value()
        )

    url = config.heartbeat.url
    return Outlets(
        hooks=[hook.run for hook in config.hooks],
        path=environ.get("PATH", os.defpath),
        notify=[secret(f"notify.urls, address {number}", ref) for number, ref in enumerate(config.notify.urls, 1)],
        heartbeat=None if url is None else secret("heartbeat.url", url),
        textfile=config.metrics.textfile,
        listen=config.http.address,
        history=config.history.tables,
        loads=[Target(load=load.name, ask=partial(ask_target, load, environ)) for load in config.loads],
    )


@asynccontextmanager
async def _store_to_look(stores: Stores, disk: DiskThreads) -> AsyncIterator[tuple[ChainStore, DiskThreads]]:
    async with AsyncExitStack() as stack:
        yield await stores.open_token_store(stack, disk, makes=False)


def _secret(auth: Auth, key: str, environ: Mapping[str, str]) -> Secret | None:
    reference: SecretRef | None = getattr(auth, key)
    if reference is None:
        return None
    where = "in the configuration" if reference.kind == "literal" else reference.describe()
    return Secret(key=key, where=where, resolve=lambda: reference.resolve(environ).get_secret_value())
