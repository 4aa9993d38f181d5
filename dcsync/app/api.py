"""The API of Autodesk, opened with its rate limit and its tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from dcsync import __version__
from dcsync.api.client import DataConnector
from dcsync.api.limiter import Limiter
from dcsync.api.transport import ApiTransport
from dcsync.app.network import network_of
from dcsync.app.state_dir import state_folder
from dcsync.app.stores import Stores
from dcsync.auth.endpoint import SCOPES, WRITE_SCOPES, Client, TokenEndpoint
from dcsync.auth.service_accounts import ServiceAccountAdmin
from dcsync.auth.source import FixedToken, RefreshingToken, ServiceAccountToken
from dcsync.auth.token_store import ChainStore
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config
from dcsync.core.ports import TokenSource
from dcsync.errors import ConfigError, ReadOnlySignIn
from dcsync.tasks import DiskThreads

if TYPE_CHECKING:
    from dcsync.ops.login import Person


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenApi:
    """The API, with the limiter that counts its calls and the store of its tokens."""

    client: DataConnector
    limiter: Limiter
    store: ChainStore
    #: The threads to use the store from: the lock of a database may block.
    store_threads: DiskThreads


@asynccontextmanager
async def open_api(
    config: Config,
    stores: Stores,
    *,
    environ: Mapping[str, str],
    clock: Clock | None = None,
    disk: DiskThreads | None = None,
    changer: Person | None = None,
    may_change: bool = False,
) -> AsyncIterator[OpenApi]:
    """Open the API without a mirror and without a lock. All processes on the same stores share the rate limit.

    With `changer`, the client may change data requests. A service account and a configured access token need nothing
    for that. Otherwise that person signs in for the block, and dcsync keeps no token that may change anything.
    With `may_change` instead, a stored sign-in only reads.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        disk = disk or stack.enter_context(DiskThreads())
        await disk.run(state_folder, config)
        limiter = Limiter(
            requests_per_minute=config.api.requests_per_minute,
            clock=clock,
            window=await stores.open_window(stack, disk),
        )
        store, threads = await stores.open_token_store(stack, disk)
        network = network_of(config, environ=environ)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=network.connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                headers={"User-Agent": f"dcsync/{__version__}"},
            )
        )
        # aiohttp would repeat a GET after a disconnect automatically, past the limiter, which would not count the call.
        session._retry_connection = False  # noqa: SLF001
        if changer is None or config.auth.method != "login":
            scopes = WRITE_SCOPES if may_change or changer is not None else SCOPES
            tokens = _token_source(config, store, environ=environ, clock=clock, disk=threads, scopes=scopes)
        else:
            # Imported here because it brings a web server, and most commands change nothing.
            from dcsync.ops.login import TokenChain, signed_in_once

            endpoint = token_endpoint(config, environ=environ)
            chain = TokenChain(endpoint=endpoint, store=store, clock=clock, disk=threads)
            token = await stack.enter_async_context(
                signed_in_once(chain, changer, redirect_uri=config.auth.redirect_uri)
            )
            tokens = FixedToken(token, what="the token of this sign-in", hint="run the command again")
        if isinstance(tokens, RefreshingToken):
            stack.push_async_callback(tokens.close)
        transport = ApiTransport(
            session,
            base_url=config.api.base_url,
            tokens=tokens,
            limiter=limiter,
            clock=clock,
            headers=config.api.headers,
            network=network,
        )
        yield OpenApi(client=DataConnector(transport), limiter=limiter, store=store, store_threads=threads)


@asynccontextmanager
async def open_unattended(
    config: Config, stores: Stores, *, environ: Mapping[str, str], clock: Clock
) -> AsyncIterator[DataConnector]:
    """Open the API to change data requests unattended. Raises `ReadOnlySignIn` if a sign-in cannot."""
    if config.auth.method == "login":
        message = "dcsync keeps a sign-in that only reads, so the daemon cannot change data requests"
        raise ReadOnlySignIn(message)
    async with open_api(config, stores, environ=environ, clock=clock, may_change=True) as opened:
        yield opened.client


def _token_source(
    config: Config,
    store: ChainStore,
    *,
    environ: Mapping[str, str],
    clock: Clock,
    disk: DiskThreads,
    scopes: Sequence[str],
) -> TokenSource:
    auth = config.auth
    if auth.method == "service-account":
        if auth.private_key is None or auth.service_account_id is None or auth.key_id is None:
            raise AssertionError  # the configuration refuses this
        return ServiceAccountToken(
            endpoint=token_endpoint(config, environ=environ),
            service_account_id=auth.service_account_id,
            key_id=auth.key_id,
            private_key=auth.private_key.resolve(environ).get_secret_value(),
            clock=clock,
            scopes=scopes,
        )
    if auth.method == "token" and auth.refresh_token is None:
        if auth.access_token is None:
            raise AssertionError  # it refuses this, too
        return FixedToken(auth.access_token.resolve(environ).get_secret_value())
    seed, problem = _seed(config, environ)
    return RefreshingToken(
        store=store,
        endpoint=token_endpoint(config, environ=environ),
        clock=clock,
        disk=disk,
        seed=seed,
        seed_problem=problem,
    )


def token_endpoint(config: Config, *, environ: Mapping[str, str]) -> TokenEndpoint:
    """Return the token endpoint as the configured client sees it. Raises `ConfigError`s."""
    auth = config.auth
    secret = None if auth.client_secret is None else auth.client_secret.resolve(environ).get_secret_value()
    client = Client(id=auth.client_id or "", secret=secret)
    return TokenEndpoint(base_url=config.api.base_url, client=client, network=network_of(config, environ=environ))


def service_account_admin(config: Config, *, environ: Mapping[str, str]) -> ServiceAccountAdmin:
    """Return the service accounts of the configured app. Raises `ConfigError`s."""
    endpoint = token_endpoint(config, environ=environ)
    network = network_of(config, environ=environ)
    return ServiceAccountAdmin(endpoint=endpoint, base_url=config.api.base_url, network=network)


def _seed(config: Config, environ: Mapping[str, str]) -> tuple[str | None, ConfigError | None]:
    """Return the seed, or the reason why it is missing: after the store took it over, its variable or file may go."""
    if config.auth.refresh_token is None:
        return None, None
    try:
        return config.auth.refresh_token.resolve(environ).get_secret_value(), None
    except ConfigError as problem:
        return None, problem
