"""The file store: GETs of signed URLs, byte for byte, on a session that cannot hold a bearer token.

No redirect is followed, no body decoded, no header sent but ours; the connection goes only to addresses that the policy
allows, and to the very address that was checked. No URL leaves this module in an error.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from dcsync.api.transport import EXCHANGE_ERRORS, describe_failure
from dcsync.core.model import SignedFile
from dcsync.core.urls import StoragePolicy, check_signed_url
from dcsync.errors import StorageUnreachable, UnsafeUrl

#: A running transfer may take as long as it needs (API §4); what it may not is fall silent.
_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=30, sock_connect=30, sock_read=60)
#: Read ahead per connection: enough to keep a fast line busy while a piece is written, small times 16 in flight.
_READ_AHEAD = 1 << 18


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the file store; `pieces` gives the body as it comes and raises `StorageUnreachable` if it breaks."""

    status: int
    headers: Mapping[str, str]
    pieces: AsyncIterator[bytes]


class Storage:
    """Downloads from wherever signed URLs point, within the policy."""

    def __init__(self, session: aiohttp.ClientSession, policy: StoragePolicy) -> None:
        # A default header would go to a host that is not ours: a strict store answers 400, a lax one logs the token.
        assert "Authorization" not in session.headers  # noqa: S101 - a bug here leaks a secret
        self._session = session
        self._policy = policy

    @asynccontextmanager
    async def get(self, signed: SignedFile, headers: Mapping[str, str]) -> AsyncIterator[Answer]:
        """Start a download. Raises `UnsafeUrl` or `StorageUnreachable`; any status is an answer."""
        check_signed_url(signed.url, self._policy)
        # Only the request itself is guarded: an error of the caller's, while it has the answer, is not the store's.
        async with await self._ask(signed.url, headers) as response:
            lowered = {key.lower(): value for key, value in response.headers.items()}
            yield Answer(response.status, lowered, _pieces(response))

    async def _ask(self, url: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        try:
            # encoded=True: yarl would turn %2F into / and the signature would not fit any more.
            return await self._session.get(
                URL(url, encoded=True),
                headers=headers,
                skip_auto_headers=("Content-Type", "Accept", "User-Agent"),
                allow_redirects=False,
                timeout=_TIMEOUT,
            )
        except EXCHANGE_ERRORS as error:
            if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.__cause__, _ForbiddenAddress):
                raise UnsafeUrl(str(error.__cause__)) from None
            message = f"the file store: {describe_failure(error)}"
            raise StorageUnreachable(message) from None


@asynccontextmanager
async def open_storage(policy: StoragePolicy, *, connections: int) -> AsyncIterator[Storage]:
    """Open the session for the file store, apart from the API's."""
    connector = aiohttp.TCPConnector(limit=connections, resolver=PublicResolver(policy), ttl_dns_cache=60)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=_READ_AHEAD,
    ) as session:
        yield Storage(session, policy)


class _ForbiddenAddress(OSError):
    """A name resolved to nothing but addresses that must not be asked."""


class PublicResolver(AbstractResolver):
    """Resolves names and keeps only the allowed addresses: what is checked is what is connected to (DNS rebinding)."""

    def __init__(self, policy: StoragePolicy, inner: AbstractResolver | None = None) -> None:
        self._policy = policy
        self._inner = inner or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the allowed addresses of `host`; an `OSError` when there is none."""
        found = await self._inner.resolve(host, port, family)
        allowed = [result for result in found if self._policy.allows_address(host, result["host"])]
        if found and not allowed:
            message = f"a signed URL points to {host}, whose address is not public"
            raise _ForbiddenAddress(message)
        return allowed

    async def close(self) -> None:
        """Close the resolver within."""
        await self._inner.close()


async def _pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for piece in response.content.iter_any():
            yield piece
    except EXCHANGE_ERRORS as error:
        message = f"the file store: {describe_failure(error)}"
        raise StorageUnreachable(message) from None
