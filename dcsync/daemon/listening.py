"""The address of the HTTP pages: tried until it can be used, and shared out among clients that are not trusted.

The mirror does not depend on the pages. An address that is missing or taken is a problem to report, not an error.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NoReturn

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from dcsync.clock import Clock
from dcsync.core.names import printable
from dcsync.network import bind_listener, listen_hint
from dcsync.tasks import running

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 64
#: Connections accepted per second during a flood: more than any monitor needs, and little work.
ACCEPTS_PER_S = 40.0
#: The time limit for the headers, and again for the body.
PATIENCE_S = 5.0
#: The time limit for a whole connection. Clients that do not read an answer would otherwise hold all connections.
ANSWER_S = 30.0
#: How often an address that cannot be used is tried again.
RETRY_S = 60.0
#: A client can send any number of bad requests. A line about them is logged no more often.
_LOG_EVERY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The time limits of a connection, in seconds."""

    patience_s: float = PATIENCE_S
    answer_s: float = ANSWER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenProblem:
    """Why the pages are not served now, and what to do."""

    message: str
    hint: str


class Listening:
    """The state of the address: where the pages are served, or why they are not."""

    def __init__(self) -> None:
        self.address: tuple[str, int] | None = None
        self.problem: ListenProblem | None = None


@asynccontextmanager
async def serving(
    routes: Collection[web.AbstractRouteDef],
    host: str,
    port: int,
    *,
    clock: Clock,
    hosts: Collection[str] = (),
    limits: Limits | None = None,
    max_body: int,
) -> AsyncIterator[Listening]:
    """Serve routes on an address during the block. An address that cannot be used is tried again each minute.

    `hosts` are the names that a request may have in its `Host` header, apart from this machine's own names. A POST may
    have any name.
    """
    limits, sparse = limits or Limits(), _SparseLog(clock)
    #: Connections whose request headers arrived completely in time.
    started: set[object] = set()
    application = web.Application(middlewares=[_guard(started, {host, *hosts}, sparse)], client_max_size=max_body)
    application.add_routes(routes)
    # No access log: the path of the callback is a secret.
    runner = web.AppRunner(
        application,
        access_log=None,
        logger=_request_log(sparse),
        shutdown_timeout=1.0,
        keepalive_timeout=limits.patience_s,
        lingering_time=0,  # do not wait for the rest of a rejected body
    )
    await runner.setup()
    server = runner.server
    assert server is not None  # noqa: S101 - set up
    loop = asyncio.get_running_loop()

    def connection() -> asyncio.Protocol:
        if len(server.connections) >= MAX_CONNECTIONS:
            return _Refusal()
        handler = server()

        def end_if_slow() -> None:
            if handler not in started and handler.transport is not None:
                handler.transport.abort()
            started.discard(handler)

        def end() -> None:
            if handler.transport is not None:
                handler.transport.abort()

        loop.call_later(limits.patience_s, end_if_slow)
        loop.call_later(limits.answer_s, end)
        return handler

    state = Listening()
    listener = await _try_to_listen(state, host, port)
    try:
        async with running(_keep_listening(listener, state, (host, port), connection, clock, sparse)):
            yield state
    finally:
        await runner.cleanup()


async def _keep_listening(
    listener: socket.socket | None,
    state: Listening,
    address: tuple[str, int],
    connection: Callable[[], asyncio.Protocol],
    clock: Clock,
    sparse: _SparseLog,
) -> NoReturn:
    """Accept connections on an address as soon as it can be used."""
    while listener is None:
        await clock.sleep(RETRY_S)
        listener = await _try_to_listen(state, *address)
    with listener:
        await _accept_connections(listener, connection, clock, sparse)


async def _try_to_listen(state: Listening, host: str, port: int) -> socket.socket | None:
    """Return the listening socket, or None if the address cannot be used now. Records the outcome in `state`."""
    try:
        listener = await _listen(host, port)
    except (OSError, RuntimeError) as error:
        # RuntimeError: no thread could be started to look up the name.
        number = error.errno if isinstance(error, OSError) else None
        words = (getattr(error, "strerror", None) or str(error)).lower()
        hint = listen_hint(number)
        problem = ListenProblem(
            message=f"cannot serve the HTTP pages on {host}:{port} (http.listen): {words}",
            hint=f"{hint}. dcsync tries again each minute",
        )
        if problem != state.problem:
            log.warning("cannot serve the HTTP pages", address=f"{host}:{port}", error=words, hint=problem.hint)
        state.problem = problem
        return None
    state.problem, state.address = None, (host, int(listener.getsockname()[1]))
    log.debug("serving the HTTP pages", address=f"http://{host}:{state.address[1]}")
    return listener


async def _listen(host: str, port: int) -> socket.socket:
    if not _is_literal(host):
        # A lookup may take a while.
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        host = str(found[0][4][0])
    listener = bind_listener(host, port)
    listener.listen(MAX_CONNECTIONS)
    listener.settimeout(0)
    return listener


async def _accept_connections(
    listener: socket.socket, connection: Callable[[], asyncio.Protocol], clock: Clock, sparse: _SparseLog
) -> NoReturn:
    """Accept connections, no faster than `ACCEPTS_PER_S` after a burst.

    A flood then waits in the kernel's short queue and does not slow down downloads.
    """
    loop, allowed, before = asyncio.get_running_loop(), float(MAX_CONNECTIONS), clock.monotonic()
    while True:
        try:
            accepted, _ = await loop.sock_accept(listener)
            await loop.connect_accepted_socket(connection, accepted)
        except OSError as error:
            # No free descriptor, or the client is gone. The next connection may work.
            sparse.warning("cannot accept a connection", error=error.strerror)
        now = clock.monotonic()
        allowed, before = min(float(MAX_CONNECTIONS), allowed + (now - before) * ACCEPTS_PER_S) - 1, now
        if allowed < 0:
            await clock.sleep(-allowed / ACCEPTS_PER_S)


# --- requests ---------------------------------------------------------------------------------------------------------


def _guard(started: set[object], names: Collection[str], sparse: _SparseLog) -> Middleware:
    """Return the middleware that every request passes."""
    allowed = {_plain(name) for name in names} | {"localhost", _plain(socket.gethostname())}

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        # It runs only after the headers are complete.
        started.add(request.protocol)
        name = request.headers.get("Host")
        try:
            # A POST reads no page. The path of a callback is a secret, so a reverse proxy may use any name for it.
            if name is None or request.method == "POST" or _is_allowed(name, allowed):
                response = await handler(request)
            else:
                sparse.warning(
                    "a request names an unknown host",
                    host=printable(name, 100),
                    hint="if it is a name of this server, add it to [http] hosts",
                )
                response = web.Response(status=421, text="This server does not know the host name of the request.\n")
        except web.HTTPException as error:
            _finish(error)
            raise
        _finish(response)
        return response

    return guard


def _finish(response: web.StreamResponse) -> None:
    response.headers["X-Content-Type-Options"] = "nosniff"
    # Connections are not kept alive: 64 idle ones would block everyone else.
    response.force_close()


def _is_allowed(header: str, names: Collection[str]) -> bool:
    """Say whether a `Host` header names this server. An address always does.

    A browser sends the name of the page's own site. If that name leads to this server, the site could read the pages
    (DNS rebinding). No browser can be made to send an address or one of our names instead.
    """
    name = header.strip()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    return _is_literal(name) or _plain(name) in names


def _plain(name: str) -> str:
    return name.strip().rstrip(".").lower()


def _is_literal(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _SparseLog:
    """Logs each kind of line at most once a minute, with the number of lines that were left out before."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next: dict[str, float] = {}
        self._left_out: Counter[str] = Counter()

    def warning(self, event: str, **fields: object) -> None:
        """Log a line, or count it."""
        now = self._clock.monotonic()
        if now < self._next.get(event, now):
            self._left_out[event] += 1
            return
        self._next[event] = now + _LOG_EVERY_S
        left_out = self._left_out.pop(event, 0)
        log.warning(event, **fields, **({"left_out": left_out} if left_out else {}))


class _OneLine(logging.Filter):
    """Turns the traceback of a malformed request or of a client that left into one line. A bug keeps its traceback."""

    def __init__(self, sparse: _SparseLog) -> None:
        super().__init__()
        self._sparse = sparse

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionError):
            return True
        # Neither the error's text nor the request: the path of the callback is a secret.
        remote = record.args[0] if isinstance(record.args, tuple) and record.args else None
        self._sparse.warning("malformed HTTP request", client=remote, kind=type(error).__name__)
        return False


def _request_log(sparse: _SparseLog) -> logging.Logger:
    """Return the log that aiohttp writes the errors of requests to."""
    logger = logging.getLogger(__name__)
    logger.filters[:] = [_OneLine(sparse)]
    return logger


class _Refusal(asyncio.Protocol):
    """Closes a connection above the limit immediately."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close the connection."""
        transport.close()
