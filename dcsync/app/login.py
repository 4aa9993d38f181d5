"""The chain of tokens, opened to sign in or out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from dcsync.app.api import token_endpoint
from dcsync.app.state_dir import state_folder
from dcsync.app.stores import Stores
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config
from dcsync.errors import ConfigError
from dcsync.ops.login import TokenChain
from dcsync.tasks import DiskThreads


@asynccontextmanager
async def open_chain(
    config: Config, stores: Stores, *, environ: Mapping[str, str], clock: Clock | None = None
) -> AsyncIterator[TokenChain]:
    """Open the chain of tokens. It takes no lock, so that you can sign in while a daemon runs.

    Raises `ConfigError` for an `auth.method` without a sign-in.
    """
    if config.auth.method == "service-account":
        message = "a service account signs in automatically with its key: login and logout do not apply"
        raise ConfigError(message, hint="check the key with dcsync doctor")
    if config.auth.method == "token" and config.auth.refresh_token is None:
        message = "auth.access_token is used as it is: login and logout do not apply"
        raise ConfigError(message, hint='set auth.method = "login"')
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(DiskThreads())
        await disk.run(state_folder, config)
        store, threads = await stores.open_token_store(stack, disk)
        yield TokenChain(
            endpoint=token_endpoint(config, environ=environ), store=store, clock=clock or SystemClock(), disk=threads
        )
