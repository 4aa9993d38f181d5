"""API calls: token, rate limit and retries. Each response becomes JSON or one of dcsync's errors.

aiohttp's exceptions contain whole URLs. This module therefore replaces each of them with `from None`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp
import stamina
import structlog
from yarl import URL

from dcsync.api.limiter import Limiter, OnWait
from dcsync.clock import Clock
from dcsync.core import wire
from dcsync.core.model import Json
from dcsync.core.oauth import missing_scope
from dcsync.core.ports import TokenSource
from dcsync.core.quota import MAX_BACKOFF_S, backoff, parse_retry_after, skew
from dcsync.core.reasons import reason, with_request_id
from dcsync.core.waits import WaitReason
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
    Unconfirmed,
)
from dcsync.network import DIRECT, EXCHANGE_ERRORS, NOTHING_SENT, Network

log = structlog.get_logger(__name__)

#: Enough for a listing of 190,000 entries. A larger body could exhaust the memory (docs/project/faults.md A11).
MAX_BODY = 16 << 20
#: Attempts per call. With full jitter of up to a minute they outlast a short gateway failure, not an outage.
ATTEMPTS = 5
#: The API is down when all attempts of a call failed, other than one for a single job, and no other call was answered
#: in that time. Until it answers again, the next caller probes it once per this interval, without retries
#: (docs/project/faults.md A4).
PROBE_S = 60.0
#: A larger clock error puts 60 s URLs and 300 s assertions at risk, so dcsync warns (docs/project/faults.md C4).
MAX_SKEW_S = 120.0
#: The rate limit of calls asks for a minute at most. A longer wait, or none, means the daily limit of jobs.
_SHORT_WAIT_S = 120.0
_DAILY_HINT = "Autodesk runs at most 24 jobs in 24 hours for each user and account. Try again later"
_SCOPE_OF = {"GET": "data:read", "POST": "data:create", "PATCH": "data:write", "DELETE": "data:write"}
_SCOPE_HINT = "sign in with the scopes data:create and data:write, and run the command again"
_DONE = frozenset({200, 201, 204})
_TIMEOUT = aiohttp.ClientTimeout(total=180, connect=30, sock_read=30)


@dataclass(slots=True, kw_only=True)
class CallWatch:
    """Counts calls. `on_wait` gets their waits."""

    on_wait: OnWait = lambda _reason, _seconds: None
    calls: int = 0

    def add(self) -> None:
        """Count one more call."""
        self.calls += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One call. `path` is for messages."""

    method: str
    url: URL
    path: str
    body: Json = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def secrets(self) -> list[str]:
        """The secrets in its body, which a refusal may repeat."""
        url = self.body.get("callbackUrl") if isinstance(self.body, Mapping) else None
        return [url] if isinstance(url, str) else []


class ApiTransport:
    """Calls to the API. The session stores no cookies and follows no redirects. Only `base_url` gets the token."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        base_url: str,
        tokens: TokenSource,
        limiter: Limiter,
        clock: Clock,
        headers: Mapping[str, str] | None = None,
        network: Network = DIRECT,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.limiter = limiter
        self.tokens = tokens
        self.skew_s: float | None = None
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._clock = clock
        self._headers = dict(headers or {})
        self._network = network
        self._draw = draw
        self._throttled = 0
        self._answered = 0
        #: Time of the next probe while the API is down, None while it is up.
        self._probe_at: float | None = None

    async def get(
        self,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        watch: CallWatch | None = None,
        attempts: int = ATTEMPTS,
        of_job: bool = False,
        on_headers: Callable[[Mapping[str, str]], None] = lambda _: None,
    ) -> Json:
        """Return the JSON of `GET path`. `path` is already percent-encoded, `params` are not.

        Transient failures are retried within the rate limit, up to that many attempts. `watch` counts every call,
        including retries. `on_headers` gets the lower-case headers of the answer. With `of_job`, the path belongs to
        one job, and its failure does not mean that the API is down. Raises an `ApiError` or `AuthError`. Cancelling
        is safe.
        """
        url = URL(self._base_url + path, encoded=True).with_query(dict(params or {}))
        call = _Call(method="GET", url=url, path=path)
        watch = watch or CallWatch()
        is_probe = await self._is_down(watch)
        answered = self._answered
        try:
            value, headers = await self._get_with_retries(call, 1 if is_probe else attempts, watch)
        except (ApiFault, ApiUnreachable):
            if is_probe or (self._answered == answered and not of_job):
                self._probe_at = self._clock.monotonic() + PROBE_S
            raise
        except ApiError:
            self._note_answer()
            raise
        self._note_answer()
        on_headers(headers)
        return value

    async def send(self, method: str, path: str, body: Json = None, *, watch: CallWatch | None = None) -> Json:
        """Return the JSON of a call that changes something: POST, PATCH or DELETE. None if the answer has no body.

        It is repeated only if nothing was sent, or if the rate limit refused it. Raises `Unconfirmed` if it may have
        been carried out, and other `ApiError`s or `AuthError`s if it was not. If it is cancelled, it may have been
        carried out as well.
        """
        call = _Call(method=method, url=URL(self._base_url + path, encoded=True), path=path, body=body)
        watch = watch or CallWatch()
        failures = 0

        def wait_after(error: Exception) -> bool | float:
            nonlocal failures
            failures += 1
            if failures >= ATTEMPTS:
                return False
            if isinstance(error, RateLimited):
                return 0.0 if error.retry_after_s is not None else False
            return backoff(failures, base_s=1.0, cap_s=60.0, draw=self._draw()) if _is_unsent(error) else False

        async for attempt in stamina.retry_context(on=wait_after, attempts=None, timeout=None):
            with attempt:
                value = await self._send(call, watch)
                self._note_answer()
                return value
        raise AssertionError  # the loop returns or raises

    def _note_answer(self) -> None:
        self._answered += 1
        self._probe_at = None

    async def _is_down(self, watch: CallWatch) -> bool:
        """Return False if the API is up. If it is down, wait for the caller's turn to probe it and return True."""
        while self._probe_at is not None:
            now = self._clock.monotonic()
            if now >= self._probe_at:
                self._probe_at = now + PROBE_S
                return True
            watch.on_wait(WaitReason.API, self._probe_at - now)
            await self._clock.sleep(self._probe_at - now)
        return False

    async def _get_with_retries(self, call: _Call, attempts: int, watch: CallWatch) -> tuple[Json, Mapping[str, str]]:
        failures = 0

        def wait_after(error: Exception) -> bool | float:
            nonlocal failures
            failures += 1
            if not isinstance(error, ApiError) or not error.transient:
                return False
            # A 429 says nothing about the call, and the limiter has already paused all of them.
            if failures >= (ATTEMPTS if isinstance(error, RateLimited) else attempts):
                return False
            if self._probe_at is not None:
                # Another call found that the API is down.
                return False
            if isinstance(error, RateLimited):
                # A wait here would only add to that of the limiter.
                return 0.0
            wait = backoff(failures, base_s=1.0, cap_s=60.0, draw=self._draw())
            watch.on_wait(WaitReason.API, wait)
            return wait

        async for attempt in stamina.retry_context(on=wait_after, attempts=None, timeout=None):
            with attempt:
                return await self._get(call, watch)
        raise AssertionError  # the loop returns or raises

    async def _get(self, call: _Call, watch: CallWatch) -> tuple[Json, Mapping[str, str]]:
        status, headers, body, words = await self._call(call, watch)
        if status != 200:
            raise await self._error(status, headers, words, call)
        try:
            return wire.decode_json(body), headers
        except wire.WireError as error:
            message = with_request_id(f"{call} returned {error}", headers)
            raise BadAnswer(message, status=status) from None

    async def _send(self, call: _Call, watch: CallWatch) -> Json:
        try:
            status, headers, body, words = await self._call(call, watch)
            if status in _DONE:
                return wire.decode_json(body) if body else None
        except (BadAnswer, wire.WireError) as error:
            message = f"{call} returned {error}" if isinstance(error, wire.WireError) else error.message
            raise Unconfirmed(message) from None
        if status >= 500:
            # A gateway may answer so while the call is carried out behind it.
            raise Unconfirmed(_refusal(call, status, words), status=status)
        if status == 429 and not _is_short(parse_retry_after(headers.get("retry-after"), self._clock.now())):
            # Not the limit of calls, which names a wait of at most a minute, so the other calls are not paused.
            raise RateLimited(_refusal(call, status, words), status=status, hint=_DAILY_HINT)
        raise await self._error(status, headers, words, call)

    async def _call(self, call: _Call, watch: CallWatch) -> tuple[int, Mapping[str, str], bytes, str]:
        """Return status, headers and body of an answer, and the words of a refusal. Renews a rejected token once."""
        token = await self.tokens.access_token()
        status, headers, body = await self._exchange(call, token, watch)
        if status == 401:
            # Only one retry: a 401 for a fresh token does not go away with time (docs/project/faults.md A5).
            words = reason(headers, body, secrets=[token, *call.secrets])
            try:
                token = await self.tokens.access_token(rejected=token)
            except LoginRequired as error:
                raise (error.with_message(f"{error.message}. The API said: {words}") if words else error) from None
            status, headers, body = await self._exchange(call, token, watch)
            if status == 401:
                words = reason(headers, body, secrets=[token, *call.secrets])
                message = "the API rejected the access token"
                raise self.tokens.refused(f"{message}. It said: {words}" if words else message)
        if status < 400:
            return status, headers, body, ""
        words = reason(headers, body, secrets=[token, *call.secrets])
        missing = missing_scope(token, _SCOPE_OF[call.method])
        if status == 403 and missing is not None:
            message = f"{_refusal(call, status, words)}. The access token lacks the scope {missing}"
            raise AccessRefused(message, status=status, hint=_SCOPE_HINT)
        return status, headers, body, words

    async def _exchange(self, call: _Call, token: str, watch: CallWatch) -> tuple[int, Mapping[str, str], bytes]:
        await self.limiter.acquire(watch.on_wait)
        watch.add()
        try:
            async with self._session.request(
                call.method,
                call.url,
                json=call.body,
                headers={**self._headers, "Authorization": f"Bearer {token}", "Accept": "application/json"},
                allow_redirects=False,
                timeout=_TIMEOUT,
                **self._network.route(self._base_url),
            ) as response:
                headers = {key.lower(): value for key, value in response.headers.items()}
                self._note_date(headers.get("date"))
                body = await _read_capped(response, str(call))
                return response.status, headers, body
        except EXCHANGE_ERRORS as error:
            failure = self._network.explain(error, self._base_url)
            message = f"{call} failed: {failure.reason}"
            if call.method != "GET" and not isinstance(error, NOTHING_SENT):
                raise Unconfirmed(message) from None
            raise ApiUnreachable(message, hint=failure.hint) from None

    async def _error(self, status: int, headers: Mapping[str, str], words: str, call: _Call) -> DcsyncError:
        message = _refusal(call, status, words)
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
                # An API call is redirected to a sign-in page, never to data.
                return BadAnswer(message, status=status)

    async def _pause_all(self, headers: Mapping[str, str]) -> float:
        """Pause all calls, because all share the rate limit. Returns the length of the pause in seconds."""
        self._throttled += 1
        asked = parse_retry_after(headers.get("retry-after"), self._clock.now())
        # Up to one second of jitter keeps the processes that share the rate limit from resuming at the same moment.
        seconds = (
            backoff(self._throttled, base_s=5.0, cap_s=MAX_BACKOFF_S, draw=self._draw()) if asked is None else asked
        )
        seconds += self._draw()
        await self.limiter.pause(seconds)
        log.debug("api rate limit reached", pause_seconds=round(seconds, 1), asked=asked is not None)
        return seconds

    def _note_date(self, value: str | None) -> None:
        skew_s = skew(value, self._clock.now())
        if skew_s is None:
            return
        if abs(skew_s) > MAX_SKEW_S and (self.skew_s is None or abs(self.skew_s) <= MAX_SKEW_S):
            log.warning("this machine's clock is wrong", seconds=round(skew_s), hint="synchronize the clock with NTP")
        self.skew_s = skew_s


def _refusal(call: _Call, status: int, words: str) -> str:
    return f"{call} returned {status}: {words}" if words else f"{call} returned {status}"


def _is_unsent(error: Exception) -> bool:
    return isinstance(error, ApiUnreachable)


def _is_short(seconds: float | None) -> bool:
    return seconds is not None and seconds <= _SHORT_WAIT_S


async def _read_capped(response: aiohttp.ClientResponse, call: str) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_BODY:
            # Leaving the response unread closes its connection.
            message = f"{call} returned more than {MAX_BODY >> 20} MiB of JSON"
            raise BadAnswer(message, status=response.status)
    return bytes(body)
