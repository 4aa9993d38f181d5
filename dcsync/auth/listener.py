"""The loopback listener that the browser comes back to after signing in (RFC 8252 §7.3)."""

from __future__ import annotations

import asyncio
import errno
import html
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from aiohttp import web

from dcsync.core.oauth import SignIn, belongs
from dcsync.core.urls import is_loopback_url
from dcsync.errors import DcsyncError, LoginRefused

#: How long the page waits to hear how it ended: the token endpoint's own time-out is longer than any person's patience.
_OUTCOME_S = 60.0
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",  # the address holds the code
    "X-Content-Type-Options": "nosniff",
}


class Listener:
    """What a browser brought, and what it is told. Made by `listening`."""

    def __init__(self, attempt: SignIn) -> None:
        self._attempt = attempt
        self._came: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._outcome: asyncio.Future[DcsyncError | None] = asyncio.get_running_loop().create_future()

    async def redirect(self) -> str:
        """Return the address of the first redirect that is of this sign-in. Cancelling is safe."""
        return await asyncio.shield(self._came)

    def tell(self, error: DcsyncError | None) -> None:
        """Tell the browser how it ended."""
        if not self._outcome.done():
            self._outcome.set_result(error)

    async def handle(self, request: web.Request) -> web.Response:
        """Take a redirect of this sign-in; anything else is turned away and changes nothing."""
        expected = urlsplit(self._attempt.redirect_uri)
        if request.path != (expected.path or "/"):
            return _page(404, "Nothing is here.", "dcsync is waiting for a sign-in at another address.")
        address = expected._replace(query=request.rel_url.raw_query_string).geturl()
        if not belongs(self._attempt, address):
            return _page(400, "Not of this sign-in.", "Start again from the address that dcsync login shows.")
        if not self._came.done():
            self._came.set_result(address)
        try:
            async with asyncio.timeout(_OUTCOME_S):
                error = await asyncio.shield(self._outcome)
        except TimeoutError:
            return _page(200, "Nearly there.", "See the terminal where dcsync login runs.")
        if error is None:
            return _page(200, "You are signed in.", "dcsync has what it needs. You may close this window.")
        return _page(400, "That did not work.", error.message)


@asynccontextmanager
async def listening(attempt: SignIn) -> AsyncIterator[Listener]:
    """Listen on the registered address. Raises `LoginRefused` when that cannot be: then pasting is left.

    Leaving waits for an answer under way, so that the browser shows how it ended.
    """
    address = urlsplit(attempt.redirect_uri)
    if address.scheme != "http" or not is_loopback_url(attempt.redirect_uri):
        message = f"{attempt.redirect_uri} is not an http address of this machine, so nothing can listen there"
        raise LoginRefused(message)
    listener = Listener(attempt)
    application = web.Application()
    application.router.add_get(r"/{tail:[\s\S]*}", listener.handle, allow_head=False)
    # No access log: the address holds the code.
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        for bound in _bind(address.hostname or "localhost", address.port or 80):
            await web.SockSite(runner, bound).start()
        yield listener
    finally:
        listener.tell(LoginRefused("dcsync login was ended"))
        await runner.cleanup()


def _bind(host: str, port: int) -> list[socket.socket]:
    """Bind every loopback address that the host's name means: a browser may try ::1 or 127.0.0.1 first.

    All of them or none: on one that another program has, the browser would bring the code to that program.
    """
    bound: list[socket.socket] = []
    for address in ["127.0.0.1", "::1"] if host == "localhost" else [host]:
        try:
            bound.append(_listening_socket(address, port))
        except OSError as error:
            if error.errno in _NOT_HERE and (bound or address != host):
                continue  # a machine without IPv6, or without IPv4
            for other in bound:
                other.close()
            message = f"port {port} of {address} cannot be listened on: {error.strerror}"
            raise LoginRefused(message) from None
    if not bound:
        message = f"{host} is no address of this machine"
        raise LoginRefused(message)
    return bound


def _listening_socket(address: str, port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((address, port))
        one.listen(8)
        one.settimeout(0)
    except OSError:
        one.close()
        raise
    return one


def _page(status: int, title: str, words: str) -> web.Response:
    body = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>dcsync: {html.escape(title)}</title>
<style>body{{font:1.1rem/1.6 system-ui,sans-serif;max-width:34rem;margin:20vh auto;padding:0 1rem;
color-scheme:light dark}}</style>
</head><body><main><h1>{html.escape(title)}</h1><p>{html.escape(words)}</p></main></body></html>"""
    return web.Response(status=status, text=body, content_type="text/html", headers=_HEADERS)
