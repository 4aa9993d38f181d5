"""The HTTP pages of the daemon: health, metrics, the report, and Autodesk's callback. Handlers only read and record.

Clients of the port are not trusted. Bodies, headers, connections and polls are all limited (docs/faults.md S11).
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
#: The largest body of a callback in bytes. Autodesk's have about 200.
MAX_BODY = 16 << 10
#: Connections accepted per second during a flood: more than any monitor needs, and little work.
ACCEPTS_PER_S = 40.0
#: The time limit for the headers, and again for the body.
PATIENCE_S = 5.0


class Daemon(Protocol):
    """The part of the daemon that the pages use."""

    async def health(self) -> tuple[bool, dict[str, Json]]:
        """Return whether all data is up to date and the daemon works, and the details, without secrets."""

    def is_alive(self) -> bool:
        """Return whether the daemon works, whatever the state of the data."""

    async def figures(self) -> bytes:
        """Return the metrics in the Prometheus text format."""

    async def report(self) -> bytes | None:
        """Return the report page, or None if it was not written yet."""

    async def hint(self, account_id: str, request_id: str) -> None:
        """Record that a job may have ended. A callback is a hint: it only brings the next poll forward, and rarely."""


class Pages:
    """The handlers. `secret` is the last part of the callback path."""

    def __init__(self, daemon: Daemon, *, secret: str, patience_s: float = PATIENCE_S) -> None:
        self._daemon = daemon
        self._patience_s = patience_s
        self._secret = secret.encode()

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        return [
            web.get("/healthz", self._health),
            web.get("/livez", self._alive),
            web.get("/metrics", self._metrics),
            web.get("/", self._report),
            web.get("/index.html", self._report),
            web.post("/callback/{secret}", self._callback),
        ]

    async def _health(self, _: web.Request) -> web.Response:
        able, document = await self._daemon.health()
        return web.json_response(document, status=200 if able else 503, headers={"Cache-Control": "no-store"})

    async def _alive(self, _: web.Request) -> web.Response:
        able = self._daemon.is_alive()
        return web.json_response({"status": "ok" if able else "stuck"}, status=200 if able else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._daemon.figures(), headers={"Content-Type": CONTENT_TYPE})

    async def _report(self, _: web.Request) -> web.Response:
        page = await self._daemon.report()
        if page is None:
            return web.Response(status=404, text="The report has not been written yet.\n")
        return web.Response(body=page, content_type="text/html", charset="utf-8")

    async def _callback(self, request: web.Request) -> web.Response:
        # Autodesk does not sign callbacks, so the secret path is the only proof. It is compared in constant time.
        given = request.match_info["secret"].encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._secret):
            return _empty_response(404)
        try:
            async with asyncio.timeout(self._patience_s):
                body = await _read_capped(request)
        except TimeoutError:
            return _empty_response(408)
        if body is None:
            return _empty_response(413)
        ids = _ids(body)
        if ids is None:
            return _empty_response(400)
        await self._daemon.hint(*ids)
        return _empty_response(204)


@asynccontextmanager
async def serving(
    pages: Pages, host: str, port: int, *, clock: Clock | None = None, patience_s: float = PATIENCE_S
) -> AsyncIterator[tuple[str, int]]:
    """Serve the pages and yield the actual address. Raises `ConfigError` if the daemon cannot listen on it."""
    #: Connections whose request headers arrived completely in time.
    started: set[object] = set()

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        # The handler runs only after the headers are complete.
        started.add(request.protocol)
        response = await handler(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        # Connections are not kept alive: 64 idle ones would block everyone else.
        response.force_close()
        return response

    application = web.Application(middlewares=[note], client_max_size=MAX_BODY)
    application.add_routes(pages.routes())
    # No access log: the path of the callback is a secret.
    runner = web.AppRunner(
        application,
        access_log=None,
        shutdown_timeout=1.0,
        keepalive_timeout=patience_s,
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

        loop.call_later(patience_s, end_if_slow)
        return handler

    listener = _listen(host, port)
    try:
        bound = int(listener.getsockname()[1])
        async with running(_accept_connections(listener, connection, clock or SystemClock())):
            log.info("serving the HTTP pages", address=f"http://{host}:{bound}")
            yield host, bound
    finally:
        listener.close()
        await runner.cleanup()


async def _accept_connections(
    listener: socket.socket, connection: Callable[[], asyncio.Protocol], clock: Clock
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
            log.warning("cannot accept a connection", error=error.strerror)
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
        message = f"cannot listen on http.listen {host}:{port}: {(error.strerror or str(error)).lower()}"
        hint = "choose a free port, or set http.listen to an address of this machine"
        raise ConfigError(message, hint=hint) from None
    return listener


class _Refusal(asyncio.Protocol):
    """Closes a connection above the limit immediately."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close the connection."""
        transport.close()


async def _read_capped(request: web.Request) -> bytes | None:
    """Return the body, or None if it is larger than `MAX_BODY`. The rest of a larger body is not read."""
    if request.content_length is not None and request.content_length > MAX_BODY:
        return None
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > MAX_BODY:
            return None
    return bytes(body)


def _ids(body: bytes) -> tuple[str, str] | None:
    """Return the IDs of the account and the data request in a callback (docs/api.md, callbackUrl)."""
    try:
        entry = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    account, request = entry.get("accountId"), entry.get("requestId")
    return (account, request) if isinstance(account, str) and isinstance(request, str) else None


def _empty_response(status: int) -> web.Response:
    """Return an empty response. An unknown client learns nothing."""
    return web.Response(status=status)
