"""Object storage: GETs of signed URLs, byte for byte, on a session that cannot hold a bearer token.

The sessions follow no redirects, decode no bodies and send only our headers. A direct connection goes only to an
address that the policy allows, and to exactly the address that was checked. A proxy resolves names itself, so with a
proxy the policy checks only the URL: scheme, port and host. No URL leaves this module in an error.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from dcsync.core.model import SignedFile
from dcsync.core.reasons import reason
from dcsync.core.urls import StoragePolicy, check_signed_url
from dcsync.errors import StorageUnreachable, UnsafeUrl
from dcsync.network import DIRECT, EXCHANGE_ERRORS, Network

#: A running transfer may take as long as it needs (docs/project/api.md §4), but a silence of 60 s ends it.
_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=30, sock_connect=30, sock_read=60)
#: S3 explains a refusal in some hundred bytes, at once.
_REFUSAL_BYTES, _REFUSAL_S = 4096, 5.0
#: Read-ahead per connection: enough to keep a fast network busy while a piece is written, and little memory when 16
#: connections are open.
_READ_AHEAD = 1 << 18


@dataclass(frozen=True, slots=True)
class Answer:
    """A storage response. `pieces` yields the body as it arrives and raises `StorageUnreachable` if it breaks off.

    The body of a refusal is already read as far as it explains the refusal. `words` is the reason in it.
    """

    status: int
    headers: Mapping[str, str]
    pieces: AsyncIterator[bytes]
    words: str = ""


class Storage:
    """Downloads from the hosts that signed URLs name, within the policy."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        policy: StoragePolicy,
        *,
        proxied: aiohttp.ClientSession | None = None,
        network: Network = DIRECT,
    ) -> None:
        # A default header would reach a foreign host: strict storage answers with 400, lax storage logs the token.
        assert "Authorization" not in session.headers  # noqa: S101 - a bug here leaks a secret
        self._session = session
        #: Connects to proxies only, which may have any address.
        self._proxied = proxied or session
        self._policy = policy
        self._network = network

    @asynccontextmanager
    async def get(self, signed: SignedFile, headers: Mapping[str, str]) -> AsyncIterator[Answer]:
        """Start a download. Raises `UnsafeUrl` or `StorageUnreachable`, and returns a response of any status."""
        check_signed_url(signed.url, self._policy)
        # Only the request itself is guarded: an error that the caller raises inside the block is not a storage error.
        async with await self._send(signed.url, headers) as response:
            lowered = {key.lower(): value for key, value in response.headers.items()}
            pieces = _pieces(response, self._network, signed.url)
            if response.status < 400:
                yield Answer(response.status, lowered, pieces)
                return
            body = await _beginning(pieces)
            words = reason(lowered, body, secrets=_secrets_in(signed.url))
            yield Answer(response.status, lowered, _more(body, pieces), words)

    async def _send(self, url: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        route = self._network.route(url)
        session = self._proxied if route else self._session
        try:
            # encoded=True, because yarl would turn %2F into / and break the signature.
            return await session.get(
                URL(url, encoded=True),
                headers=headers,
                skip_auto_headers=("Content-Type", "Accept", "User-Agent"),
                allow_redirects=False,
                timeout=_TIMEOUT,
                **route,
            )
        except EXCHANGE_ERRORS as error:
            if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.__cause__, _ForbiddenAddress):
                raise UnsafeUrl(str(error.__cause__)) from None
            raise _unreachable(error, self._network, url) from None


@asynccontextmanager
async def open_storage(policy: StoragePolicy, *, connections: int, network: Network = DIRECT) -> AsyncIterator[Storage]:
    """Open the sessions for object storage. They are separate from the API's."""
    direct = network.connector(limit=connections, resolver=PublicResolver(policy), ttl_dns_cache=60)
    async with _session(direct) as session, _session(network.connector(limit=connections)) as proxied:
        yield Storage(session, policy, proxied=proxied, network=network)


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=_READ_AHEAD,
    )


class _ForbiddenAddress(OSError):
    """A name resolved only to addresses that the policy forbids."""


class PublicResolver(AbstractResolver):
    """Resolves names to allowed addresses only. The checked address is the connected one (against DNS rebinding)."""

    def __init__(self, policy: StoragePolicy, inner: AbstractResolver | None = None) -> None:
        self._policy = policy
        self._inner = inner or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the allowed addresses of `host`. Raises an `OSError` if all addresses are forbidden."""
        found = await self._inner.resolve(host, port, family)
        allowed = [result for result in found if self._policy.allows_address(host, result["host"])]
        if found and not allowed:
            message = f"a signed URL points to {host}, whose address is not public"
            raise _ForbiddenAddress(message)
        return allowed

    async def close(self) -> None:
        """Close the inner resolver."""
        await self._inner.close()


async def _pieces(response: aiohttp.ClientResponse, network: Network = DIRECT, url: str = "") -> AsyncIterator[bytes]:
    try:
        async for piece in response.content.iter_any():
            yield piece
    except EXCHANGE_ERRORS as error:
        raise _unreachable(error, network, url) from None


async def _beginning(pieces: AsyncIterator[bytes]) -> bytes:
    """Return the beginning of a refusal's body. One that does not arrive explains nothing, and is not an error."""
    body = b""
    try:
        async with asyncio.timeout(_REFUSAL_S):
            async for piece in pieces:
                body += piece
                if len(body) >= _REFUSAL_BYTES:
                    break
    except (TimeoutError, StorageUnreachable):
        pass
    return body


async def _more(body: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield body
    async for piece in pieces:
        yield piece


def _secrets_in(url: str) -> list[str]:
    """Return the query of a signed URL and each of its values. A server or a proxy may repeat any of them."""
    query = url.partition("?")[2]
    return [query, *(pair.partition("=")[2] for pair in query.split("&"))]


def _unreachable(error: BaseException, network: Network, url: str) -> StorageUnreachable:
    failure = network.explain(error, url)
    return StorageUnreachable(f"storage: {failure.reason}", hint=failure.hint)
