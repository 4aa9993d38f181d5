"""A check that the API's host can be reached: name resolution, proxy, connection, TLS. It makes no API call."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from dcsync.core.proxies import Proxy
from dcsync.core.urls import host_and_port
from dcsync.errors import ApiUnreachable
from dcsync.network import DIRECT, UNREACHABLE_PROXY, UNTRUSTED, Network, refused_by

#: Generous for a working network, and short enough for an operator who waits for `dcsync doctor`.
_PATIENCE_S = 10.0
#: The status line of a proxy's answer (RFC 9112 §4).
_OFFER = re.compile(rb"^proxy-authenticate:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: ([^\r\n]*))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A successful connection. `tls` is the protocol version, None without TLS.

    With a proxy, `address` is the proxy's.
    """

    address: str
    port: int
    tls: str | None


async def reach(base_url: str, *, network: Network = DIRECT) -> Reached:
    """Connect to the host of a URL and disconnect. Raises `ApiUnreachable` with the step that failed."""
    parts = urlsplit(base_url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    context = (network.tls or ssl.create_default_context()) if secure else None
    proxy = network.proxies.for_url(base_url)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            if proxy is None:
                _, writer = await _open(host, port, context, proxy=None)
            else:
                writer = await _connect_through(proxy, host, port, context, network)
    except ssl.SSLCertVerificationError as error:
        message = f"TLS with {host} failed ({error.verify_message})"
        raise ApiUnreachable(message, hint=UNTRUSTED) from None
    except ssl.SSLError as error:
        message = f"TLS with {host} failed ({error.reason or type(error).__name__})"
        raise ApiUnreachable(message) from None
    except TimeoutError:
        through = "" if proxy is None else f" through the proxy {proxy.shown}"
        message = f"no connection to {host_and_port(host, port)}{through} within {_PATIENCE_S:.0f} s"
        raise ApiUnreachable(message) from None
    except (OSError, EOFError, asyncio.LimitOverrunError) as error:
        # After the connection to the proxy: the proxy, or the host through it, ended the connection.
        through = "" if proxy is None else f" through the proxy {proxy.shown}"
        message = f"no connection to {host_and_port(host, port)}{through} ({_reason(error)})"
        raise ApiUnreachable(message) from None
    address = writer.get_extra_info("peername")[0]
    protocol = writer.get_extra_info("ssl_object")
    writer.transport.abort()
    return Reached(address=address, port=port, tls=None if protocol is None else protocol.version())


async def _open(
    host: str, port: int, context: ssl.SSLContext | None, *, proxy: Proxy | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Resolve a name and connect. `proxy` is the proxy if `host` is its host."""
    whose, hint = ("", None) if proxy is None else ("of the proxy ", UNREACHABLE_PROXY)
    try:
        await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        # getaddrinfo raises a ValueError for text that cannot be a host name.
        message = f"the name {whose}{host} could not be resolved ({_reason(error)})"
        raise ApiUnreachable(message, hint=hint) from None
    try:
        return await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLError:
        raise
    except OSError as error:
        whose = "" if proxy is None else "the proxy "
        message = f"no connection to {whose}{host_and_port(host, port)} ({_reason(error)})"
        raise ApiUnreachable(message, hint=hint) from None


async def _connect_through(
    proxy: Proxy, host: str, port: int, context: ssl.SSLContext | None, network: Network
) -> asyncio.StreamWriter:
    """Connect through a proxy's tunnel (CONNECT, RFC 9110 §9.3.6)."""
    parts = urlsplit(proxy.url)
    own = (network.tls or ssl.create_default_context()) if parts.scheme == "https" else None
    reader, writer = await _open(parts.hostname or "", parts.port or 0, own, proxy=proxy)
    try:
        target = host_and_port(host, port)
        headers = {"Host": target}
        if proxy.authorization is not None:
            headers["Proxy-Authorization"] = proxy.authorization
        lines = [f"CONNECT {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        status = _STATUS.match(answer)
        if status is None:
            message = f"{proxy.shown} is not an HTTP proxy"
            raise ApiUnreachable(message, hint=UNREACHABLE_PROXY)
        if status[1] != b"200":
            offers = [offer.decode("ascii", "replace") for offer in _OFFER.findall(answer)]
            reason = (status[2] or b"").decode("utf-8", "replace")
            failure = refused_by(proxy, int(status[1]), reason, offers=offers)
            raise ApiUnreachable(failure.reason, hint=failure.hint)
        if context is not None:
            await writer.start_tls(context, server_hostname=host)
    except BaseException:
        writer.transport.abort()
        raise
    return writer


def _reason(error: Exception) -> str:
    match error:
        case ValueError():
            return "not a valid host name"
        case EOFError() | asyncio.LimitOverrunError():
            return "the connection was closed, or the answer is not HTTP"
        case socket.gaierror():
            return str(error.strerror)
        case OSError(errno=int(number)):
            return os.strerror(number)
        case _:
            # asyncio replaces the system's message by the address, and joins several attempts into one text.
            return str(error)
