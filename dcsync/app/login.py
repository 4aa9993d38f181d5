"""The chain of tokens, opened to sign in and out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from dcsync.app.api import token_endpoint
from dcsync.app.state_dir import manifest_place, state_folder
from dcsync.app.stores import open_store
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config
from dcsync.errors import ConfigError
from dcsync.ops.login import TokenChain
from dcsync.tasks import DiskThreads


@asynccontextmanager
async def open_chain(
    config: Config, *, environ: Mapping[str, str], clock: Clock | None = None
) -> AsyncIterator[TokenChain]:
    """Open what signing in and out works on; it takes no lock, so that it works while a daemon runs.

    Raises `ConfigError` for a method that nobody signs in with.
    """
    if config.auth.method == "service-account":
        message = "a service account signs in by itself, with its key: there is nothing to log in to or out of"
        raise ConfigError(message, hint="dcsync doctor shows whether its key works")
    if config.auth.method == "token" and config.auth.refresh_token is None:
        message = "auth.access_token is used as it is: there is nothing to log in to or out of"
        raise ConfigError(message, hint='set auth.method = "login"')
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(DiskThreads())
        await disk.run(state_folder, config)
        store, threads = await open_store(stack, config, manifest_place(config, environ=environ), disk)
        yield TokenChain(
            endpoint=token_endpoint(config, environ=environ), store=store, clock=clock or SystemClock(), disk=threads
        )
