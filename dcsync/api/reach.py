"""Whether the API's host can be reached at all: its name, a connection, TLS. No call is made, so none is counted."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from dcsync.errors import ApiUnreachable

#: Long for a network that works, short for a person who waits.
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A connection that came about; `tls` is its protocol, None without TLS."""

    address: str
    port: int
    tls: str | None


async def reach(base_url: str, *, context: ssl.SSLContext | None = None) -> Reached:
    """Connect to the host of an address and hang up. Raises `ApiUnreachable`, saying which step failed.

    `context` is how certificates are judged, by default as aiohttp does for the API.
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
            hint="the certificate is not accepted: a proxy that opens TLS in between, a wrong clock, or old CA "
            "certificates on this machine",
        ) from None
    except ssl.SSLError as error:
        message = f"TLS with {host} failed ({error.reason or type(error).__name__})"
        raise ApiUnreachable(message) from None
    except TimeoutError:
        message = f"{step} within {_PATIENCE_S:.0f} s"
        raise ApiUnreachable(message) from None
    except (OSError, ValueError) as error:
        # What cannot be a name at all is a ValueError.
        raise ApiUnreachable(f"{step} ({_reason(error)})") from None
    address = writer.get_extra_info("peername")[0]
    protocol = writer.get_extra_info("ssl_object")
    writer.transport.abort()
    return Reached(address=address, port=port, tls=None if protocol is None else protocol.version())


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return "it is no host's name"
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    # asyncio puts the address in the place of the system's words; of several attempts it makes one text.
    return str(error) if error.errno is None else os.strerror(error.errno)
