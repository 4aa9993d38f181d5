"""The HTTP pages of the daemon: health, metrics, the report, and Autodesk's callback. Handlers only read and record.

Clients of the port are not trusted. Bodies and polls are limited here, connections in `daemon.listening`
(docs/project/faults.md S11).
"""

from __future__ import annotations

import asyncio
import hmac
import json
from typing import Protocol

from aiohttp import web

from dcsync.core.model import Json
from dcsync.daemon.listening import PATIENCE_S
from dcsync.ops.metrics import CONTENT_TYPE

#: The largest body of a callback in bytes. Autodesk's have about 200.
MAX_BODY = 16 << 10


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
    """Return the IDs of the account and the data request in a callback (docs/project/api.md, callbackUrl)."""
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
