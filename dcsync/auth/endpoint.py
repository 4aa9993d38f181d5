"""The token endpoint: refresh, code, assertion, revocation, and the meaning of each response.

The difficulty is to know whether a refresh token was used. It was not used if the request's body was never sent. After
the body was sent, only the response can tell. `TokenUndecided` means that no definite response came.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace

import aiohttp
import yarl

from dcsync.core.quota import parse_retry_after, skew
from dcsync.core.reasons import reason
from dcsync.errors import (
    AuthError,
    ClientRejected,
    LoginRefused,
    LoginRequired,
    ServiceAccountRejected,
    TokenEndpointUnavailable,
    TokenUndecided,
)
from dcsync.network import DIRECT, EXCHANGE_ERRORS, Network

AUTHORIZE_PATH = "/authentication/v2/authorize"
TOKEN_PATH = "/authentication/v2/token"  # noqa: S105 - a path
REVOKE_PATH = "/authentication/v2/revoke"
#: dcsync only reads, and the lists are enough for that. Only GET jobs/:jobId needs `data:write` (api.md §1).
SCOPES = ("data:read",)
#: What the commands that create and change data requests need.
WRITE_SCOPES = ("data:read", "data:create", "data:write")
#: Our own time-out leaves a refresh unconfirmed, so it is long (docs/project/design.md, Token protocol T3).
READ_TIMEOUT_S = 90.0
#: A 4xx without a code that OAuth defines. It may be about the token, and only `invalid_grant` may end a sign-in.
_UNCLEAR_HINT = (
    "you need not do anything now: dcsync keeps the refresh token and retries. If the message stays for a day, sign in "
    "again: `dcsync login`"
)
_SERVICE_CLIENT_HINT = "compare auth.client_id and auth.client_secret with the app's page on the developer portal"
_APPLICATION_HINT = (
    "use the client ID and the client secret of a server-to-server app (compare them with its page on the developer "
    "portal), which alone can have service accounts"
)
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"  # RFC 7523 §2.1
_MAX_BODY = 1 << 20
_MIN_LIFE_S, _MAX_LIFE_S = 60.0, 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A successful response. It has no `refresh_token` when the old one stays valid (RFC 6749 §6)."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    lifetime_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The registered application. Without a secret it is a public client."""

    id: str
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Response:
    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    #: The reason for a refusal, without the secrets of the request.
    words: str


async def _nothing() -> None:
    """Do nothing before a grant that uses no refresh token."""


class TokenEndpoint:
    """An OAuth 2 client for `base_url`. Every grant opens a new connection, because an idle one may be dead."""

    def __init__(self, *, base_url: str, client: Client, network: Network = DIRECT) -> None:
        self._base_url = base_url.rstrip("/")
        self._client = client
        self._network = network

    @property
    def url(self) -> str:
        """The full URL of the token endpoint, which is also the audience of an assertion."""
        return self._base_url + TOKEN_PATH

    @property
    def authorize_url(self) -> str:
        """The URL of the sign-in page."""
        return self._base_url + AUTHORIZE_PATH

    @property
    def client_id(self) -> str:
        """The application's client ID."""
        return self._client.id

    async def refresh(self, refresh_token: str, *, before_use: Callable[[], Awaitable[None]]) -> Granted:
        """Use a refresh token. `before_use` is awaited when the connection is up and nothing has been sent.

        Raises `LoginRequired` (only for `invalid_grant`), `ClientRejected`, `TokenEndpointUnavailable` (the token was
        not used) or `TokenUndecided` (unconfirmed). The caller must not cancel it.
        """
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return _parse_response(await self._post(TOKEN_PATH, form, before_use))

    async def exchange(self, code: str, *, verifier: str, redirect_uri: str) -> Granted:
        """Exchange an authorization code for the first token pair of a chain. Codes live 5 minutes and work once.

        Raises `ClientRejected`, `TokenEndpointUnavailable` if the code was not used, and otherwise `LoginRefused`:
        nothing retries with a code that may have been used.
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        try:
            return _parse_response(await self._post(TOKEN_PATH, form, _nothing))
        except (LoginRequired, TokenUndecided) as error:
            raise LoginRefused(error.message) from None

    async def application_token(self, scopes: Sequence[str]) -> Granted:
        """Return a token of the application itself, without a user (2-legged).

        Raises `ClientRejected`, and `TokenEndpointUnavailable` if a later call may succeed. It uses up no token.
        """
        form = {"grant_type": "client_credentials", "scope": " ".join(scopes)}
        try:
            answer = await self._post(TOKEN_PATH, form, _nothing)
            if 400 <= answer.status < 500 and answer.status not in _RETRYABLE:
                raise ClientRejected(_message(answer), hint=_APPLICATION_HINT)
            return _parse_response(answer)
        except TokenUndecided as error:
            raise TokenEndpointUnavailable(error.message) from None

    async def mint(self, assertion: str, *, now: datetime, scopes: Sequence[str] = SCOPES) -> Granted:
        """Exchange a service account's assertion for an access token, without a refresh token.

        `scopes` are those of the assertion, or some of them. `now` is the time at which it was signed. Raises
        `ServiceAccountRejected` for every definite refusal except that of the client (`ClientRejected`), and
        `TokenEndpointUnavailable` if a new assertion may be accepted later. An assertion uses up no token.
        """
        form = {"grant_type": _JWT_BEARER, "assertion": assertion, "scope": " ".join(scopes)}
        try:
            answer = await self._post(TOKEN_PATH, form, _nothing)
            if 400 <= answer.status < 500 and answer.status not in _RETRYABLE:
                raise _rejected_assertion(answer, now)
            return _parse_response(answer)
        except TokenUndecided as error:
            raise TokenEndpointUnavailable(error.message) from None

    async def revoke(self, refresh_token: str) -> None:
        """Revoke a refresh token. Raises `TokenEndpointUnavailable` and `ClientRejected`."""
        form = {"token": refresh_token, "token_type_hint": "refresh_token"}
        answer = await self._post(REVOKE_PATH, form, _nothing)
        if answer.status == 200:  # also for an unknown token (RFC 7009 §2.2)
            return
        message = _with_words(f"the token was not revoked: Autodesk returned {answer.status}", answer.words)
        if answer.status in {400, 401, 403} and _error_code(answer.body) in _CLIENT_ERRORS:
            raise ClientRejected(message)
        raise TokenEndpointUnavailable(message)

    async def page_refusal(self, url: str) -> str:
        """Return why Autodesk does not show the sign-in page at this address, or an empty text if it does.

        An unknown client ID or callback URL gets a 400, because no browser may be sent to an unknown address (RFC 6749
        §4.1.2.1). Raises `TokenEndpointUnavailable`.
        """
        timeout = aiohttp.ClientTimeout(total=READ_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=self._network.connector(force_close=True),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=timeout,
                ) as session,
                session.get(
                    yarl.URL(url, encoded=True), allow_redirects=False, **self._network.route(self._base_url)
                ) as response,
            ):
                if response.status != 400:
                    return ""
                lowered = {key.lower(): value for key, value in response.headers.items()}
                return reason(lowered, await _read(response)) or "status 400"
        except EXCHANGE_ERRORS as error:
            failure = self._network.explain(error, self._base_url)
            message = f"the sign-in page cannot be reached ({failure.reason})"
            raise TokenEndpointUnavailable(message, hint=failure.hint) from None

    async def _post(self, path: str, form: Mapping[str, str], before_use: Callable[[], Awaitable[None]]) -> _Response:
        form, headers = dict(form), {"Accept": "application/json"}
        if self._client.secret is None:
            form["client_id"] = self._client.id
        else:
            # Credentials in both the header and the body cause a 400 (docs/project/api.md §6).
            pair = f"{self._client.id}:{self._client.secret}".encode()
            headers["Authorization"] = "Basic " + base64.b64encode(pair).decode("ascii")
        sent = False

        async def connected(*_: object) -> None:
            await before_use()

        async def body_sent(_session: object, _context: SimpleNamespace, _params: object) -> None:
            nonlocal sent
            sent = True

        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(connected)
        # The headers are sent no later than the first piece of the body. From then on Autodesk may read the token.
        trace.on_request_headers_sent.append(body_sent)
        trace.on_request_chunk_sent.append(body_sent)
        timeout = aiohttp.ClientTimeout(
            total=READ_TIMEOUT_S + 60, connect=30, sock_connect=30, sock_read=READ_TIMEOUT_S
        )
        try:
            async with (
                aiohttp.ClientSession(
                    connector=self._network.connector(force_close=True),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=timeout,
                    trace_configs=[trace],
                ) as session,
                session.post(
                    self._base_url + path,
                    data=form,
                    headers=headers,
                    allow_redirects=False,
                    **self._network.route(self._base_url),
                ) as response,
            ):
                body = await _read(response)
                lowered = {key.lower(): value for key, value in response.headers.items()}
                secrets = [text for name, text in form.items() if name not in _PUBLIC]
                secrets += [text for text in (headers.get("Authorization"), self._client.secret) if text]
                words = reason(lowered, body, secrets=secrets)
                return _Response(status=response.status, headers=lowered, body=body, words=words)
        except EXCHANGE_ERRORS as error:
            failure = self._network.explain(error, self._base_url)
            if sent:
                message = f"the token endpoint did not respond ({failure.reason})"
                raise TokenUndecided(message) from None
            message = f"the token endpoint cannot be reached ({failure.reason}), and no token was used"
            raise TokenEndpointUnavailable(message, hint=failure.hint) from None


#: OAuth's error codes for a wrong client or request, independent of the token (RFC 6749 §5.2).
_CLIENT_ERRORS = frozenset(
    {"invalid_client", "unauthorized_client", "invalid_request", "invalid_scope", "unsupported_grant_type"}
)
#: Such a code, alone or in a sentence of the API's own format (`developerMessage`, docs/project/api.md §8).
_CODE = re.compile(rf"\b(?:invalid_grant|{'|'.join(sorted(_CLIENT_ERRORS))})\b")


#: OAuth's error codes for the client itself. The others can also be about the assertion.
_UNKNOWN_CLIENT = frozenset({"invalid_client", "unauthorized_client"})
#: An assertion is valid for 300 s (docs/project/api.md §6). The date has whole seconds, and the answer took some time.
_HARMLESS_SKEW_S = 20.0
#: 408 and 429 refuse a call before anything in it is checked (RFC 9110 §15.5.9, RFC 6585 §4).
_RETRYABLE = frozenset({408, 425, 429})
#: Fields of the forms that are not secret, so an answer may repeat their values.
_PUBLIC = frozenset({"grant_type", "scope", "token_type_hint"})


def _parse_response(answer: _Response) -> Granted:
    status = answer.status
    if status == 200:
        return _granted(answer.body)
    error = _error_code(answer.body)
    message = _message(answer)
    if status in {400, 401, 403} and error == "invalid_grant":
        raise LoginRequired(message)
    if status in {400, 401, 403} and error in _CLIENT_ERRORS:
        raise ClientRejected(message)
    if status == 429:
        # The rate limit refuses a call before the token is checked, so the token was not used.
        asked = parse_retry_after(answer.headers.get("retry-after"), datetime.now(UTC))
        raise TokenEndpointUnavailable(message, retry_after_s=asked)
    if status in {401, 403}:
        raise ClientRejected(message)
    # A 5xx may come from a gateway after Autodesk has rotated the token. Other 4xx do not say whether it was used.
    raise TokenUndecided(message, hint=_UNCLEAR_HINT if status < 500 else None)


def _rejected_assertion(answer: _Response, now: datetime) -> AuthError:
    if _error_code(answer.body) in _UNKNOWN_CLIENT:
        return ClientRejected(_message(answer), hint=_SERVICE_CLIENT_HINT)
    skew_s = skew(answer.headers.get("date"), now)
    if skew_s is None or abs(skew_s) <= _HARMLESS_SKEW_S:
        return ServiceAccountRejected(_message(answer))
    side = "ahead of" if skew_s > 0 else "behind"
    clock = f"This host's clock is {abs(skew_s):.0f} s {side} Autodesk's"
    return ServiceAccountRejected(f"{_message(answer)}. {clock}")


def _message(answer: _Response) -> str:
    return _with_words(f"the token endpoint returned {answer.status}", answer.words)


def _with_words(message: str, words: str) -> str:
    return f"{message}: {words}" if words else message


def _granted(body: bytes) -> Granted:
    try:
        entry = json.loads(body)
        access_token = entry["access_token"]
        refresh_token = entry.get("refresh_token")
        if not isinstance(access_token, str) or not access_token:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        message = "the token endpoint returned 200 without usable tokens"
        raise TokenUndecided(message) from None
    return Granted(
        access_token=access_token,
        refresh_token=refresh_token if isinstance(refresh_token, str) and refresh_token else None,
        lifetime_s=_lifetime(entry.get("expires_in")),
    )


def _lifetime(value: object) -> float:
    """Clamp any `expires_in` to between 60 s and 1 h (docs/project/faults.md T9). An access token lives 60 minutes."""
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return _MAX_LIFE_S
    if seconds != seconds:  # noqa: PLR0124 - NaN
        return _MAX_LIFE_S
    return min(_MAX_LIFE_S, max(_MIN_LIFE_S, seconds))


def _error_code(body: bytes) -> str | None:
    """Return OAuth's error code, from OAuth's format or from the API's own."""
    try:
        entry = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    for key in ("error", "errorCode", "developerMessage"):
        value = entry.get(key)
        if isinstance(value, Mapping):
            value = value.get("code") or value.get("message")
        found = _CODE.search(value) if isinstance(value, str) else None
        if found is not None:
            return found[0]
    return None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > _MAX_BODY:
            break
    return bytes(body)
