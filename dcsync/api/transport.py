"""One API call: token, quota, retry, and every answer as JSON or as one of our errors.

aiohttp's exceptions carry whole URLs, so none leaves this module: each is replaced here, `from None`.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

import aiohttp
import stamina
import structlog
from yarl import URL

from dcsync.api.limiter import Limiter
from dcsync.clock import Clock
from dcsync.core import wire
from dcsync.core.model import Json
from dcsync.core.ports import TokenSource
from dcsync.core.quota import MAX_BACKOFF_S, backoff, parse_retry_after
from dcsync.errors import (
    AccessRefused,
    ApiError,
    ApiFault,
    ApiUnreachable,
    BadAnswer,
    BadRequest,
    DcsyncError,
    LoginRequired,
    NotFound,
    RateLimited,
)

log = structlog.get_logger(__name__)

#: A listing of 190,000 entries; more is no answer but an attack on memory (FAULTS A11).
MAX_BODY = 16 << 20
#: Attempts at one call: with full jitter up to a minute these outlast a gateway's hiccup, not an outage.
ATTEMPTS = 5
#: When such a call came to nothing and no other one was answered meanwhile, the API is down: from then on it is asked
#: once in this time, by whoever comes first and without a repeat, until it answers (FAULTS A4).
PROBE_S = 60.0
#: Beyond this a 60 s URL or a 300 s assertion is at risk, and a person should mend the clock (FAULTS C4).
MAX_SKEW_S = 120.0
_TIMEOUT = aiohttp.ClientTimeout(total=180, connect=30, sock_read=30)


#: What aiohttp raises when an exchange goes wrong. TimeoutError is an OSError; ValueErrors are malformed headers and
#: encodings; a RuntimeError is what reading from a connection gives that was lost between two pieces.
EXCHANGE_ERRORS = (aiohttp.ClientError, OSError, ValueError, RuntimeError)


class ApiTransport:
    """GET for the API. Its session holds no cookies and follows no redirect; the token goes only to `base_url`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        base_url: str,
        tokens: TokenSource,
        limiter: Limiter,
        clock: Clock,
        headers: Mapping[str, str] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.limiter = limiter
        self.tokens = tokens
        self.skew_s: float | None = None
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._clock = clock
        self._headers = dict(headers or {})
        self._draw = draw
        self._throttled = 0
        self._answered = 0
        #: When the API may be asked again while it is down.
        self._probe_at: float | None = None

    async def get(
        self, path: str, params: Mapping[str, str] | None = None, *, on_call: Callable[[], None] = lambda: None
    ) -> Json:
        """Return the JSON of `GET path`; `path` is already percent-encoded, `params` are not.

        `on_call` is called once for each call that goes out, retries included.
        Retries what may pass, within the quota. Raises an `ApiError` or `AuthError`. Cancelling is safe.
        """
        url = URL(self._base_url + path, encoded=True).with_query(dict(params or {}))
        attempts = 1 if await self._is_down() else ATTEMPTS
        answered = self._answered
        try:
            value = await self._tried(url, path, attempts, on_call)
        except (ApiFault, ApiUnreachable):
            if attempts == 1 or self._answered == answered:
                self._probe_at = self._clock.monotonic() + PROBE_S
            raise
        except ApiError:
            self._note_answer()
            raise
        self._note_answer()
        return value

    def _note_answer(self) -> None:
        self._answered += 1
        self._probe_at = None

    async def _is_down(self) -> bool:
        """Say whether the API is down, and if so return only when it is the caller's turn to see if it still is."""
        while self._probe_at is not None:
            now = self._clock.monotonic()
            if now >= self._probe_at:
                self._probe_at = now + PROBE_S
                return True
            await self._clock.sleep(self._probe_at - now)
        return False

    async def _tried(self, url: URL, path: str, attempts: int, on_call: Callable[[], None]) -> Json:
        failures = 0

        def wait_after(error: Exception) -> bool | float:
            nonlocal failures
            failures += 1
            if not isinstance(error, ApiError) or not error.transient or failures >= attempts:
                return False
            if self._probe_at is not None:
                # Another call has found out that the API is down.
                return False
            if isinstance(error, RateLimited):
                # The limiter holds everybody back already; a wait here would only add to it.
                return 0.0
            return backoff(failures, base_s=1.0, cap_s=60.0, draw=self._draw())

        async for attempt in stamina.retry_context(on=wait_after, attempts=None, timeout=None):
            with attempt:
                return await self._authorized(url, path, on_call)
        raise AssertionError  # the loop returns or raises

    async def _authorized(self, url: URL, path: str, on_call: Callable[[], None]) -> Json:
        token = await self.tokens.access_token()
        status, headers, body = await self._exchange(url, path, token, on_call)
        if status == 401:
            # Once: a second 401 with a fresh token is no matter of time (FAULTS A5).
            token = await self.tokens.access_token(rejected=token)
            status, headers, body = await self._exchange(url, path, token, on_call)
            if status == 401:
                message = f"the API does not accept the access token ({_words(headers, body)})"
                raise LoginRequired(message)
        if status == 200:
            try:
                return wire.decode_json(body)
            except wire.WireError as error:
                message = f"GET {path} brought {error}"
                raise BadAnswer(message, status=status) from None
        raise await self._error(status, headers, body, path)

    async def _exchange(
        self, url: URL, path: str, token: str, on_call: Callable[[], None]
    ) -> tuple[int, Mapping[str, str], bytes]:
        await self.limiter.acquire()
        on_call()
        try:
            async with self._session.get(
                url,
                headers={**self._headers, "Authorization": f"Bearer {token}", "Accept": "application/json"},
                allow_redirects=False,
                timeout=_TIMEOUT,
            ) as response:
                headers = {key.lower(): value for key, value in response.headers.items()}
                self._note_date(headers.get("date"))
                body = await _read_capped(response, path)
                return response.status, headers, body
        except EXCHANGE_ERRORS as error:
            message = f"GET {path} got no answer: {describe_failure(error)}"
            raise ApiUnreachable(message) from None

    async def _error(self, status: int, headers: Mapping[str, str], body: bytes, path: str) -> DcsyncError:
        words = _words(headers, body)
        message = (
            f"GET {path} was answered with {status}: {words}" if words else f"GET {path} was answered with {status}"
        )
        match status:
            case 400 | 405 | 406 | 410 | 415 | 422:
                return BadRequest(message, status=status)
            case 403:
                return AccessRefused(message, status=status)
            case 404:
                return NotFound(message, status=status)
            case 429:
                return RateLimited(message, status=status, retry_after_s=await self._pause_all(headers))
            case _ if status >= 500:
                return ApiFault(message, status=status)
            case _:
                # A redirect of an API call leads to a login page, not to an answer.
                return BadAnswer(message, status=status)

    async def _pause_all(self, headers: Mapping[str, str]) -> float:
        """The quota is shared, so a 429 for one call is one for all."""
        self._throttled += 1
        asked = parse_retry_after(headers.get("retry-after"), self._clock.now())
        # A second of jitter after what was asked keeps the processes that share the quota from coming back as one.
        seconds = (
            backoff(self._throttled, base_s=5.0, cap_s=MAX_BACKOFF_S, draw=self._draw()) if asked is None else asked
        )
        seconds += self._draw()
        await self.limiter.pause(seconds)
        log.warning("api quota used up", pause_seconds=round(seconds, 1), asked=asked is not None)
        return seconds

    def _note_date(self, value: str | None) -> None:
        moment = _parse_date(value)
        if moment is None:
            return
        skew = (self._clock.now() - moment).total_seconds()
        if abs(skew) > MAX_SKEW_S and (self.skew_s is None or abs(self.skew_s) <= MAX_SKEW_S):
            log.warning("this machine's clock is off", seconds=round(skew), hint="let NTP set the clock")
        self.skew_s = skew


def describe_failure(error: BaseException) -> str:
    """Return what went wrong with a connection, in words that hold no URL."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            cause = getattr(error, "certificate_error", None) or error.os_error
            words = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else type(cause).__name__
            return f"TLS with {error.host} failed ({words})"
        case aiohttp.ClientConnectorDNSError():
            return f"the name {error.host} could not be resolved"
        case aiohttp.ClientConnectorError():
            reason = error.os_error.strerror or type(error.os_error).__name__
            return f"no connection to {error.host}:{error.port} ({reason})"
        case TimeoutError():
            return "timed out"
        case aiohttp.ServerDisconnectedError() | ConnectionResetError() | RuntimeError():
            return "the connection was closed before the answer was complete"
        case aiohttp.ClientPayloadError():
            return "the answer broke off"
        case _:
            return type(error).__name__


async def _read_capped(response: aiohttp.ClientResponse, path: str) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_BODY:
            # Leaving the response unread closes its connection.
            message = f"GET {path} brought more than {MAX_BODY >> 20} MiB of JSON"
            raise BadAnswer(message, status=response.status)
    return bytes(body)


def _words(headers: Mapping[str, str], body: bytes) -> str:
    return wire.error_text(body, headers.get("content-type", ""))


def _parse_date(value: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value or "")
    except (ValueError, IndexError, TypeError):
        return None
    return None if moment.tzinfo is None else moment
