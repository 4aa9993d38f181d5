"""The loopback listener to which the browser returns after the sign-in (RFC 8252 §7.3)."""

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

#: How long the page waits for the outcome. The token endpoint's own time-out is too long to wait for in a browser.
_OUTCOME_S = 60.0
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",  # the address contains the code
    "X-Content-Type-Options": "nosniff",
}


class Listener:
    """Receives the browser's redirect and shows the outcome. Created by `listening`."""

    def __init__(self, attempt: SignIn) -> None:
        self._attempt = attempt
        self._received: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._outcome: asyncio.Future[DcsyncError | None] = asyncio.get_running_loop().create_future()

    async def redirect(self) -> str:
        """Return the address of the first redirect that belongs to this sign-in. Cancelling is safe."""
        return await asyncio.shield(self._received)

    def show_outcome(self, error: DcsyncError | None) -> None:
        """Show the outcome in the browser. None means success."""
        if not self._outcome.done():
            self._outcome.set_result(error)

    async def handle(self, request: web.Request) -> web.Response:
        """Accept a redirect of this sign-in. Every other request is rejected and changes nothing."""
        expected = urlsplit(self._attempt.redirect_uri)
        if request.path != (expected.path or "/"):
            return _page(404, "Page not found", "dcsync waits for the sign-in at a different address.")
        address = expected._replace(query=request.rel_url.raw_query_string).geturl()
        if not belongs(self._attempt, address):
            return _page(400, "Not this sign-in", "Start again from the address that dcsync login shows.")
        if not self._received.done():
            self._received.set_result(address)
        try:
            async with asyncio.timeout(_OUTCOME_S):
                error = await asyncio.shield(self._outcome)
        except TimeoutError:
            return _page(200, "Almost done", "See the terminal in which dcsync login runs.")
        if error is None:
            return _page(200, "You are signed in", "You can close this window.")
        return _page(400, "Sign-in failed", error.message)


@asynccontextmanager
async def listening(attempt: SignIn) -> AsyncIterator[Listener]:
    """Listen on the registered address. Raises `LoginRefused` if that is not possible, and pasting still works then.

    Leaving the context waits for a pending response, so that the browser shows the outcome.
    """
    address = urlsplit(attempt.redirect_uri)
    if address.scheme != "http" or not is_loopback_url(attempt.redirect_uri):
        message = f"dcsync cannot listen on {attempt.redirect_uri}: it is not an http address of this machine"
        raise LoginRefused(message)
    listener = Listener(attempt)
    application = web.Application()
    application.router.add_get(r"/{tail:[\s\S]*}", listener.handle, allow_head=False)
    # No access log, because the address contains the code.
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        for bound in _bind(address.hostname or "localhost", address.port or 80):
            await web.SockSite(runner, bound).start()
        yield listener
    finally:
        listener.show_outcome(LoginRefused("dcsync login was stopped"))
        await runner.cleanup()


def _bind(host: str, port: int) -> list[socket.socket]:
    """Bind all loopback addresses of the host name, because a browser may try ::1 or 127.0.0.1 first.

    Binds all of them or none. If another program held one of the addresses, the browser could send it the code.
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
            message = f"cannot listen on {address} port {port}: {error.strerror}"
            raise LoginRefused(message) from None
    if not bound:
        message = f"{host} is not an address of this machine"
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


def _page(status: int, title: str, text: str) -> web.Response:
    body = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>dcsync: {html.escape(title)}</title>
<style>body{{font:1.1rem/1.6 system-ui,sans-serif;max-width:34rem;margin:20vh auto;padding:0 1rem;
color-scheme:light dark}}</style>
</head><body><main><h1>{html.escape(title)}</h1><p>{html.escape(text)}</p></main></body></html>"""
    return web.Response(status=status, text=body, content_type="text/html", headers=_HEADERS)
