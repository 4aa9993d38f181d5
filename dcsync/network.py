"""How dcsync reaches other hosts: through which proxy, with which CA certificates, and why an exchange failed.

Also the address on which it listens itself.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypedDict

import aiohttp

from dcsync.core.names import printable
from dcsync.core.proxies import Proxy, ProxyRules
from dcsync.core.urls import host_and_port

#: The exceptions of aiohttp when an exchange fails. TimeoutError is an OSError. ValueErrors come from malformed headers
#: and encodings. Reading from a connection that was lost between two pieces raises a RuntimeError.
EXCHANGE_ERRORS = (aiohttp.ClientError, OSError, ValueError, RuntimeError)

#: Those of them that prove that nothing was sent: no connection was made, or no tunnel through the proxy.
NOTHING_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)

#: What to do about a certificate that is not trusted, and about a proxy that cannot be reached.
UNTRUSTED = (
    "the certificate is not trusted. If a proxy inspects TLS, set network.ca_file to the certificate of your company's "
    "CA (dcsync explain network). Otherwise check the clock and the CA certificates of this machine"
)
_PASSWORD = "check the user name and the password of the proxy (network.proxy or HTTPS_PROXY, dcsync explain network)"  # noqa: S105
_SCHEMES = "use a local helper such as cntlm, and name it in network.proxy (dcsync explain network)"
_REFUSED = "ask the administrator of the proxy to allow this host (dcsync explain network lists all hosts)"
UNREACHABLE_PROXY = (
    "check network.proxy, or HTTPS_PROXY and NO_PROXY in the environment of dcsync (dcsync explain network)"
)


class Route(TypedDict, total=False):
    """The options of an aiohttp request that goes through a proxy. Empty for a direct one."""

    proxy: str
    proxy_headers: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """`[network]`: the proxies, and the TLS context with the trusted CA certificates (None: those of the system)."""

    proxies: ProxyRules = field(default_factory=ProxyRules)
    tls: ssl.SSLContext | None = None

    def connector(self, **options: Any) -> aiohttp.TCPConnector:  # noqa: ANN401 - aiohttp's own options
        """Return a connector that trusts these CA certificates."""
        return aiohttp.TCPConnector(ssl=self.tls or True, **options)

    def route(self, url: str) -> Route:
        """Return the request options for a URL."""
        proxy = self.proxies.for_url(url)
        if proxy is None:
            return {}
        route = Route(proxy=proxy.url)
        if proxy.authorization is not None:
            # Not in the URL, which appears in the exceptions of aiohttp.
            route["proxy_headers"] = {"Proxy-Authorization": proxy.authorization}
        return route

    def plain_headers(self, url: str) -> dict[str, str]:
        """Return the headers for the proxy of an `http://` URL, which takes the request itself and opens no tunnel."""
        return {} if url.startswith("https:") else dict(self.route(url).get("proxy_headers", {}))

    def explain(self, error: BaseException, url: str) -> Failure:
        """Return why an exchange with the host of `url` failed."""
        return _explain(error, self.proxies.for_url(url))


DIRECT = Network()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an exchange failed, in a text without URLs, and what to do if that is known."""

    reason: str
    hint: str | None = None


def trust(ca_file: Path) -> ssl.SSLContext:
    """Return a TLS context that also trusts the CA certificates of a PEM file. Raises `OSError` or `ssl.SSLError`."""
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=ca_file)
    return context


def _explain(error: BaseException, proxy: Proxy | None) -> Failure:
    match error:
        case aiohttp.ClientHttpProxyError():
            offers = [] if error.headers is None else error.headers.getall("Proxy-Authenticate", [])
            return refused_by(proxy, error.status, error.message, offers=offers)
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            cause = getattr(error, "certificate_error", None) or error.os_error
            if isinstance(cause, ssl.SSLCertVerificationError):
                return Failure(f"TLS with {error.host} failed ({cause.verify_message})", UNTRUSTED)
            return Failure(f"TLS with {error.host} failed ({type(cause).__name__})")
        case aiohttp.ClientConnectorDNSError():
            # Only the name of the proxy is resolved here. The proxy itself resolves the others.
            whose, hint = ("", None) if proxy is None else ("of the proxy ", UNREACHABLE_PROXY)
            return Failure(f"the name {whose}{error.host} could not be resolved", hint)
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno
            reason = os.strerror(number) if number else error.os_error.strerror or type(error.os_error).__name__
            whose, hint = ("", None) if proxy is None else ("the proxy ", UNREACHABLE_PROXY)
            return Failure(f"no connection to {whose}{host_and_port(error.host, error.port)} ({reason})", hint)
        case TimeoutError():
            return Failure("timed out" if proxy is None else f"timed out (through the proxy {proxy.shown})")
        case aiohttp.ServerDisconnectedError() | ConnectionResetError() | RuntimeError():
            return Failure("the connection was closed before the response was complete")
        case aiohttp.ClientPayloadError():
            return Failure("the response broke off")
        case _:
            return Failure(type(error).__name__)


def refused_by(proxy: Proxy | None, status: int, reason: str, *, offers: Sequence[str] = ()) -> Failure:
    """Return the failure for a status with which a proxy answered in place of the host.

    `offers` are the values of its `Proxy-Authenticate` headers.
    """
    shown = "the proxy" if proxy is None else f"the proxy {proxy.shown}"
    answer = f"{status} {printable(reason, 80)}".strip()
    if status in {401, 407}:  # 407 by RFC 9110 §15.5.8; tinyproxy answers 401 to a wrong password
        schemes = [offer.partition(" ")[0] for offer in offers]
        if schemes and "basic" not in map(str.lower, schemes):
            offered = printable(", ".join(schemes), 80)
            return Failure(f"{shown} accepts only {offered}, which dcsync does not support ({answer})", _SCHEMES)
        has_password = proxy is not None and proxy.user is not None
        problem = "rejects the user name or the password" if has_password else "requires a user name and a password"
        return Failure(f"{shown} {problem} ({answer})", _PASSWORD)
    if status >= 500:
        return Failure(f"{shown} cannot reach the host ({answer})", UNREACHABLE_PROXY)
    return Failure(f"{shown} refuses to connect to the host ({answer})", _REFUSED)


_LISTEN_HINTS: Final = {
    errno.EADDRINUSE: "stop the program that uses the port (ss -ltnp shows it), or choose another port in http.listen",
    errno.EADDRNOTAVAIL: "set http.listen to an address of this machine (ip address shows them)",
    errno.EACCES: "choose a port above 1023 in http.listen, or grant dcsync CAP_NET_BIND_SERVICE",
}


def bind_listener(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address of this machine, and does not listen yet. Raises `OSError`."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener


def listen_hint(number: int | None) -> str:
    """Return what to do about an `errno` of `bind_listener` or of a lookup before it."""
    return _LISTEN_HINTS.get(number or 0, "correct http.listen")
