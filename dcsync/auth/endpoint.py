"""The token endpoint: one refresh, and what its answer means.

The whole difficulty is to know whether a token was spent. Before the request's body leaves, nothing is; after it, only
an answer tells. `TokenUndecided` says that none came.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace

import aiohttp

from dcsync.core import wire
from dcsync.core.quota import parse_retry_after
from dcsync.errors import ClientRejected, LoginRequired, TokenEndpointUnavailable, TokenUndecided

TOKEN_PATH = "/authentication/v2/token"  # noqa: S105 - a path
#: Our own time-out is what creates doubt about a token, so it is long (FAULTS rule T2).
READ_TIMEOUT_S = 90.0
_MAX_BODY = 1 << 20
_MIN_LIFE_S, _MAX_LIFE_S = 60.0, 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A successful answer. `refresh_token` is None when the server sent none: then the old one stays (RFC 6749 §6)."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    lifetime_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The application that asks. Without a secret it is a public one."""

    id: str
    secret: str | None = field(default=None, repr=False)


class TokenEndpoint:
    """Speaks OAuth 2 with `base_url`. Every refresh has a connection of its own: an idle one may be half dead."""

    def __init__(self, *, base_url: str, client: Client) -> None:
        self._url = base_url.rstrip("/") + TOKEN_PATH
        self._client = client

    async def refresh(self, refresh_token: str, *, before_spending: Callable[[], Awaitable[None]]) -> Granted:
        """Spend a refresh token. `before_spending` is awaited when the connection is up and nothing was sent yet.

        Raises `LoginRequired` (`invalid_grant`, and only that), `ClientRejected`, `TokenEndpointUnavailable` (not
        spent), `TokenUndecided` (no telling). Not to be cancelled: the caller runs it to its end.
        """
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        headers = {"Accept": "application/json"}
        if self._client.secret is None:
            form["client_id"] = self._client.id
        else:
            # Credentials in the header and in the body as well are refused with 400.
            pair = f"{self._client.id}:{self._client.secret}".encode()
            headers["Authorization"] = "Basic " + base64.b64encode(pair).decode("ascii")
        sent = False

        async def connected(*_: object) -> None:
            await before_spending()

        async def body_sent(_session: object, _context: SimpleNamespace, _params: object) -> None:
            nonlocal sent
            sent = True

        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(connected)
        # The headers go out with the first piece of the body or before it: from then on the token may be read.
        trace.on_request_headers_sent.append(body_sent)
        trace.on_request_chunk_sent.append(body_sent)
        timeout = aiohttp.ClientTimeout(
            total=READ_TIMEOUT_S + 60, connect=30, sock_connect=30, sock_read=READ_TIMEOUT_S
        )
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(force_close=True),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=timeout,
                    trace_configs=[trace],
                ) as session,
                session.post(self._url, data=form, headers=headers, allow_redirects=False) as response,
            ):
                body = await _read(response)
                status, retry_after = response.status, response.headers.get("Retry-After")
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            words = type(error).__name__
            if sent:
                message = f"the token endpoint gave no answer to a refresh ({words})"
                raise TokenUndecided(message) from None
            message = f"the token endpoint cannot be reached ({words}); the refresh token was not spent"
            raise TokenEndpointUnavailable(message) from None
        return _meaning(status, body, retry_after)


def _meaning(status: int, body: bytes, retry_after: str | None) -> Granted:
    if status == 200:
        return _granted(body)
    words = wire.error_text(body)
    error = _error_code(body)
    message = f"the token endpoint answered with {status}: {words}"
    if status in {400, 401, 403} and error == "invalid_grant":
        raise LoginRequired(message)
    if status in {400, 401, 403} and error in {"invalid_client", "unauthorized_client", "invalid_request"}:
        raise ClientRejected(message)
    if status == 429:
        # Refused at the door: the token was not looked at.
        raise TokenEndpointUnavailable(message, retry_after_s=parse_retry_after(retry_after, datetime.now(UTC)))
    if status in {401, 403}:
        raise ClientRejected(message)
    # 5xx may come from a gateway after the server behind it has rotated; other 4xx say nothing definite of the token.
    raise TokenUndecided(message)


def _granted(body: bytes) -> Granted:
    try:
        entry = json.loads(body)
        access_token = entry["access_token"]
        refresh_token = entry.get("refresh_token")
        if not isinstance(access_token, str) or not access_token:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        message = "the token endpoint answered with 200 and no usable tokens"
        raise TokenUndecided(message) from None
    return Granted(
        access_token=access_token,
        refresh_token=refresh_token if isinstance(refresh_token, str) and refresh_token else None,
        lifetime_s=_lifetime(entry.get("expires_in")),
    )


def _lifetime(value: object) -> float:
    """Clamp `expires_in` to 60 s to 1 h whatever it is (FAULTS T9): an access token lives 60 minutes."""
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return _MAX_LIFE_S
    if seconds != seconds:  # noqa: PLR0124 - NaN
        return _MAX_LIFE_S
    return min(_MAX_LIFE_S, max(_MIN_LIFE_S, seconds))


def _error_code(body: bytes) -> str | None:
    """Return OAuth's error code, also where it comes in the API's own shape."""
    try:
        entry = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    known = {"invalid_grant", "invalid_client", "unauthorized_client", "invalid_request"}
    for key in ("error", "errorCode", "developerMessage"):
        value = entry.get(key)
        if isinstance(value, str) and value in known:
            return value
    return None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > _MAX_BODY:
            break
    return bytes(body)
