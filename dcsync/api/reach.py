"""A check that the API's host can be reached: name resolution, connection, TLS. It makes no API call."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from dcsync.errors import ApiUnreachable

#: Generous for a working network, and short enough for an operator who waits for `dcsync doctor`.
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A successful connection. `tls` is the protocol version, None without TLS."""

    address: str
    port: int
    tls: str | None


async def reach(base_url: str, *, context: ssl.SSLContext | None = None) -> Reached:
    """Connect to the host of a URL and disconnect. Raises `ApiUnreachable` with the step that failed.

    `context` decides how certificates are verified. The default is the one that aiohttp uses for the API.
    """
    parts = urlsplit(base_url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    step = f"the name {host} could not be resolved"
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            step = f"no connection to {host}:{port}"
            _, writer = await asyncio.open_connection(
                host, port, ssl=(context or ssl.create_default_context()) if secure else None
            )
    except ssl.SSLCertVerificationError as error:
        message = f"TLS with {host} failed ({error.verify_message})"
        raise ApiUnreachable(
            message,
            hint="the certificate is not trusted. Check for a proxy that inspects TLS, a wrong clock, or outdated CA "
            "certificates on this machine",
        ) from None
    except ssl.SSLError as error:
        message = f"TLS with {host} failed ({error.reason or type(error).__name__})"
        raise ApiUnreachable(message) from None
    except TimeoutError:
        message = f"{step} within {_PATIENCE_S:.0f} s"
        raise ApiUnreachable(message) from None
    except (OSError, ValueError) as error:
        # getaddrinfo raises a ValueError for text that cannot be a host name.
        raise ApiUnreachable(f"{step} ({_reason(error)})") from None
    address = writer.get_extra_info("peername")[0]
    protocol = writer.get_extra_info("ssl_object")
    writer.transport.abort()
    return Reached(address=address, port=port, tls=None if protocol is None else protocol.version())


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return "not a valid host name"
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    # asyncio replaces the system's message by the address, and joins several attempts into one text without an errno.
    return str(error) if error.errno is None else os.strerror(error.errno)
