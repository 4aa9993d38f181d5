"""The daemon's own pages: health, figures, the report, and Autodesk's callback. Handlers only read and note.

Whoever can reach the port may be anybody: bodies, headers, connections and polls are all bounded (FAULTS S11).
"""

from __future__ import annotations

import asyncio
import hmac
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NoReturn, Protocol

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from dcsync.clock import Clock, SystemClock
from dcsync.core.model import Json
from dcsync.errors import ConfigError
from dcsync.ops.metrics import CONTENT_TYPE
from dcsync.tasks import running

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 64
#: Of a callback's body; the real ones have some 200 bytes.
MAX_BODY = 16 << 10
#: Connections taken in each second when they come without end: more than any monitor asks, and little work.
ACCEPTS_PER_S = 40.0
#: For the headers, and for the body.
PATIENCE_S = 5.0


class Daemon(Protocol):
    """What the pages ask of the daemon."""

    async def health(self) -> tuple[bool, dict[str, Json]]:
        """Return whether the mirror is fresh and the daemon able, and what to say of it; no secrets."""

    async def figures(self) -> bytes:
        """Return the figures in Prometheus' text form."""

    async def report(self) -> bytes | None:
        """Return the report page; None when there is none yet."""

    async def hint(self, account_id: str, request_id: str) -> None:
        """Note that a job may have ended. It is not believed, only looked at earlier, and not often."""


class Pages:
    """The handlers. `secret` is the last part of the callback's path."""

    def __init__(self, daemon: Daemon, *, secret: str, patience_s: float = PATIENCE_S) -> None:
        self._daemon = daemon
        self._patience_s = patience_s
        self._secret = secret.encode()

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        return [
            web.get("/healthz", self._health),
            web.get("/metrics", self._metrics),
            web.get("/", self._report),
            web.get("/index.html", self._report),
            web.post("/callback/{secret}", self._callback),
        ]

    async def _health(self, _: web.Request) -> web.Response:
        able, document = await self._daemon.health()
        return web.json_response(document, status=200 if able else 503, headers={"Cache-Control": "no-store"})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._daemon.figures(), headers={"Content-Type": CONTENT_TYPE})

    async def _report(self, _: web.Request) -> web.Response:
        page = await self._daemon.report()
        if page is None:
            return web.Response(status=404, text="There is no report yet.\n")
        return web.Response(body=page, content_type="text/html", charset="utf-8")

    async def _callback(self, request: web.Request) -> web.Response:
        # Autodesk signs nothing: the secret path is all there is. Compared in constant time; wrong is not found.
        given = request.match_info["secret"].encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._secret):
            return _nothing(404)
        try:
            async with asyncio.timeout(self._patience_s):
                body = await _read_capped(request)
        except TimeoutError:
            return _nothing(408)
        if body is None:
            return _nothing(413)
        ids = _ids(body)
        if ids is None:
            return _nothing(400)
        await self._daemon.hint(*ids)
        return _nothing(204)


@asynccontextmanager
async def serving(
    pages: Pages, host: str, port: int, *, clock: Clock | None = None, patience_s: float = PATIENCE_S
) -> AsyncIterator[tuple[str, int]]:
    """Serve the pages; yields the address in fact. Raises `ConfigError` when it cannot be listened on."""
    #: Connections of which a request's headers came whole within the patience.
    started: set[object] = set()

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        # Its headers are complete: it is no slow one.
        started.add(request.protocol)
        response = await handler(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        # No connection is kept: 64 idle ones would keep everybody else out.
        response.force_close()
        return response

    application = web.Application(middlewares=[note], client_max_size=MAX_BODY)
    application.add_routes(pages.routes())
    # No access log: the callback's path is a secret.
    runner = web.AppRunner(
        application,
        access_log=None,
        shutdown_timeout=1.0,
        keepalive_timeout=patience_s,
        lingering_time=0,  # what is left of a body that was refused is not waited for
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

        loop.call_later(patience_s, end_if_slow)
        return handler

    listener = _listen(host, port)
    try:
        bound = int(listener.getsockname()[1])
        async with running(_accept_connections(listener, connection, clock or SystemClock())):
            log.info("pages are served", address=f"http://{host}:{bound}")
            yield host, bound
    finally:
        listener.close()
        await runner.cleanup()


async def _accept_connections(
    listener: socket.socket, connection: Callable[[], asyncio.Protocol], clock: Clock
) -> NoReturn:
    """Take connections in, no faster than `ACCEPTS_PER_S` after a burst.

    A flood then waits in the kernel, whose queue is short, and costs the syncing next to nothing.
    """
    loop, allowed, before = asyncio.get_running_loop(), float(MAX_CONNECTIONS), clock.monotonic()
    while True:
        try:
            accepted, _ = await loop.sock_accept(listener)
            await loop.connect_accepted_socket(connection, accepted)
        except OSError as error:
            # Out of descriptors, or gone before it was looked at: the next one may be better.
            log.warning("a connection could not be taken in", error=error.strerror)
        now = clock.monotonic()
        allowed, before = min(float(MAX_CONNECTIONS), allowed + (now - before) * ACCEPTS_PER_S) - 1, now
        if allowed < 0:
            await clock.sleep(-allowed / ACCEPTS_PER_S)


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(MAX_CONNECTIONS)
        listener.settimeout(0)
    except OSError as error:
        listener.close()
        message = f"http.listen {host}:{port} cannot be listened on: {(error.strerror or str(error)).lower()}"
        hint = "choose a free port, or set http.listen to an address of this machine"
        raise ConfigError(message, hint=hint) from None
    return listener


class _Refusal(asyncio.Protocol):
    """Closes a connection that is one too many, at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        transport.close()


async def _read_capped(request: web.Request) -> bytes | None:
    """Return the body, or None when there is more than the cap; what is beyond it stays unread."""
    if request.content_length is not None and request.content_length > MAX_BODY:
        return None
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > MAX_BODY:
            return None
    return bytes(body)


def _ids(body: bytes) -> tuple[str, str] | None:
    """Return the account and the request that a callback names (API: callbackUrl)."""
    try:
        entry = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    account, request = entry.get("accountId"), entry.get("requestId")
    return (account, request) if isinstance(account, str) and isinstance(request, str) else None


def _nothing(status: int) -> web.Response:
    """Answer without a word: nothing is told to whoever asks."""
    return web.Response(status=status)
