"""The token endpoint: refresh, code, assertion, revocation, and what an answer means.

The whole difficulty is to know whether a token was spent. Before the request's body leaves, nothing is; after it, only
an answer tells. `TokenUndecided` says that none came.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace

import aiohttp

from dcsync.core import wire
from dcsync.core.quota import parse_retry_after
from dcsync.errors import (
    AuthError,
    ClientRejected,
    LoginRefused,
    LoginRequired,
    ServiceAccountRejected,
    TokenEndpointUnavailable,
    TokenUndecided,
)

AUTHORIZE_PATH = "/authentication/v2/authorize"
TOKEN_PATH = "/authentication/v2/token"  # noqa: S105 - a path
REVOKE_PATH = "/authentication/v2/revoke"
#: All that the mirror does is reading; the lists are enough, so `data:write` is not asked for (API: GET jobs/:jobId).
SCOPES = ("data:read",)
#: Our own time-out is what creates doubt about a token, so it is long (FAULTS rule T2).
READ_TIMEOUT_S = 90.0
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"  # RFC 7523 §2.1
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    body: bytes = field(repr=False)
    retry_after: str | None


async def _nothing() -> None:
    """What is to be done before a grant that spends nothing of value."""


class TokenEndpoint:
    """Speaks OAuth 2 with `base_url`. Every grant has a connection of its own: an idle one may be half dead."""

    def __init__(self, *, base_url: str, client: Client) -> None:
        self._base_url = base_url.rstrip("/")
        self._client = client

    @property
    def url(self) -> str:
        """The token endpoint's full URL: an assertion names it as its audience."""
        return self._base_url + TOKEN_PATH

    @property
    def authorize_url(self) -> str:
        """Where a person signs in."""
        return self._base_url + AUTHORIZE_PATH

    @property
    def client_id(self) -> str:
        """The application's id."""
        return self._client.id

    async def refresh(self, refresh_token: str, *, before_spending: Callable[[], Awaitable[None]]) -> Granted:
        """Spend a refresh token. `before_spending` is awaited when the connection is up and nothing was sent yet.

        Raises `LoginRequired` (`invalid_grant`, and only that), `ClientRejected`, `TokenEndpointUnavailable` (not
        spent), `TokenUndecided` (no telling). Not to be cancelled: the caller runs it to its end.
        """
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return _meaning(await self._post(TOKEN_PATH, form, before_spending), on_invalid_grant=LoginRequired)

    async def exchange(self, code: str, *, verifier: str, redirect_uri: str) -> Granted:
        """Change an authorization code for the first pair of a chain. Codes live 5 minutes and work once.

        Raises `LoginRefused` for a code that is not good (any more), else as `refresh`.
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        return _meaning(await self._post(TOKEN_PATH, form, _nothing), on_invalid_grant=LoginRefused)

    async def mint(self, assertion: str) -> Granted:
        """Change a service account's assertion for an access token; there is no refresh token.

        Raises `ServiceAccountRejected` for an assertion that is not accepted, else as `refresh`.
        """
        form = {"grant_type": _JWT_BEARER, "assertion": assertion, "scope": " ".join(SCOPES)}
        return _meaning(await self._post(TOKEN_PATH, form, _nothing), on_invalid_grant=ServiceAccountRejected)

    async def revoke(self, refresh_token: str) -> None:
        """Tell the server to forget a refresh token. Raises `TokenEndpointUnavailable` and `ClientRejected`."""
        form = {"token": refresh_token, "token_type_hint": "refresh_token"}
        answer = await self._post(REVOKE_PATH, form, _nothing)
        if answer.status == 200:  # also for a token that it does not know (RFC 7009 §2.2)
            return
        message = f"the token was not revoked; the server answered with {answer.status}: {wire.error_text(answer.body)}"
        if answer.status in {400, 401, 403} and _error_code(answer.body) in _CLIENT_ERRORS:
            raise ClientRejected(message)
        raise TokenEndpointUnavailable(message)

    async def _post(
        self, path: str, form: Mapping[str, str], before_spending: Callable[[], Awaitable[None]]
    ) -> _Answer:
        form, headers = dict(form), {"Accept": "application/json"}
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
                session.post(self._base_url + path, data=form, headers=headers, allow_redirects=False) as response,
            ):
                body = await _read(response)
                return _Answer(status=response.status, body=body, retry_after=response.headers.get("Retry-After"))
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
            words = type(error).__name__
            if sent:
                message = f"the token endpoint gave no answer ({words})"
                raise TokenUndecided(message) from None
            message = f"the token endpoint cannot be reached ({words}); nothing was spent"
            raise TokenEndpointUnavailable(message) from None


#: OAuth's words for a client or a request that is wrong, whatever token it brings (RFC 6749 §5.2).
_CLIENT_ERRORS = frozenset(
    {"invalid_client", "unauthorized_client", "invalid_request", "invalid_scope", "unsupported_grant_type"}
)


def _meaning(answer: _Answer, *, on_invalid_grant: type[AuthError]) -> Granted:
    status = answer.status
    if status == 200:
        return _granted(answer.body)
    words = wire.error_text(answer.body)
    error = _error_code(answer.body)
    message = f"the token endpoint answered with {status}: {words}"
    if status in {400, 401, 403} and error == "invalid_grant":
        raise on_invalid_grant(message)
    if status in {400, 401, 403} and error in _CLIENT_ERRORS:
        raise ClientRejected(message)
    if status == 429:
        # Refused at the door: the token was not looked at.
        asked = parse_retry_after(answer.retry_after, datetime.now(UTC))
        raise TokenEndpointUnavailable(message, retry_after_s=asked)
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
    known = {"invalid_grant", *_CLIENT_ERRORS}
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
