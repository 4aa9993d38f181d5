"""Where a signed URL may point (docs/project/faults.md S6): https to a public host, or a host you allow. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from dcsync.core.names import printable
from dcsync.errors import UnsafeUrl

_HTTPS_PORT = 443
#: A host that ends in a number is an address in an old form (2130706433, 127.1, 0x7f.1). Resolvers accept these forms
#: and `ipaddress` does not. No top-level domain is a number (WHATWG URL, "ends in a number checker").
_ENDS_IN_A_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)", re.IGNORECASE)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_WITH_IPV4_AT_THE_END = (ipaddress.ip_network("::/96"), _NAT64)
#: All addresses that IANA has assigned for the public internet (IPv6 Global Unicast Address Assignments).
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
#: Networks of IANA's special-purpose registries that older interpreters report as global.
_SPECIAL = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20")))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoragePolicy:
    """The hosts from which dcsync may download.

    `hosts` are globs. If there are any, a host must match one of them, and may then have a private address.
    `allow_loopback` belongs to a loopback `api.base_url` (the sandbox). It allows any port, plain HTTP and addresses of
    this machine.
    """

    hosts: tuple[str, ...] = ()
    allow_loopback: bool = False

    def names_host(self, host: str) -> bool:
        """Whether `api.allow_storage_hosts` names this host."""
        return any(fnmatchcase(host.lower(), glob.lower()) for glob in self.hosts)

    def allows_address(self, host: str, address: str) -> bool:
        """Whether dcsync may connect to `address`, to which `host` has just resolved."""
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        every = [ip, *_embedded(ip)]
        if any(each.is_loopback for each in every):
            return self.allow_loopback or self.names_host(host)
        return all(_is_public(each) for each in every) or self.names_host(host)


def check_callback_url(url: str) -> str:
    """Return a callback URL that an app can have at Autodesk. Raises `ValueError`.

    Autodesk compares it with the URL of the app as text, and appends the code of the sign-in to it as a query.
    """
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or not url.isascii() or not url.isprintable() or set("#@ ") & set(url):
        message = f"{printable(url, 80)!r} is not a callback URL such as http://localhost:8080/callback"
        raise ValueError(message)
    return url


def host_and_port(host: str, port: int | None) -> str:
    """Return a host with its port, as URLs and messages have them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_signed_url(url: str, policy: StoragePolicy) -> str:
    """Return the URL's host if dcsync may contact it, else raise `UnsafeUrl`. No message shows path or query."""
    if not url.isascii() or any(character <= " " or character == "\x7f" for character in url) or "\\" in url:
        msg = "a signed URL contains characters that are not allowed in a URL"
        raise UnsafeUrl(msg)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        msg = "a signed URL is malformed"
        raise UnsafeUrl(msg) from None
    # urlsplit treats "%" as an IPv6 zone and does not lower-case the rest. No host name of a storage contains it.
    if not host or host.endswith(".") or "%" in host or (_ENDS_IN_A_NUMBER.fullmatch(host) and not _is_literal(host)):
        msg = "a signed URL has no usable host"
        raise UnsafeUrl(msg)
    shown = printable(host, 120)
    if "@" in parts.netloc:
        msg = f"a signed URL for {shown} contains a user name"
        raise UnsafeUrl(msg)
    if policy.hosts and not policy.names_host(host) and not (policy.allow_loopback and _is_loopback(host)):
        msg = f"a signed URL points to {shown}, which is not in api.allow_storage_hosts"
        raise UnsafeUrl(msg)
    if policy.allow_loopback and _is_loopback(host) and parts.scheme in {"http", "https"}:
        return host
    if parts.scheme != "https" or (port not in {None, _HTTPS_PORT} and not policy.names_host(host)):
        msg = f"a signed URL for {shown} is not https on port {_HTTPS_PORT}"
        raise UnsafeUrl(msg)
    if _is_literal(host) and not policy.allows_address(host, host):
        msg = f"a signed URL points to the address {shown}, which is not public"
        raise UnsafeUrl(msg)
    return host


def _is_public(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None or ip in _NAT64:
            # It leads to an IPv4 address, which is checked separately.
            return True
        if ip not in _GLOBAL_UNICAST:
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _SPECIAL)


def _embedded(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """Return the IPv4 addresses that an IPv6 one leads to: mapped, compatible, 6to4, NAT64 (RFC 6052).

    Teredo is not among them: its network (2001::/32) is never public.
    """
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    found = [ip.ipv4_mapped, ip.sixtofour]
    if any(ip in network for network in _WITH_IPV4_AT_THE_END):
        found.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return [each for each in found if each is not None]


def is_loopback_url(url: str) -> bool:
    """Whether a URL's host is a loopback address or the name localhost."""
    return _is_loopback(urlsplit(url).hostname or "")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    return _is_literal(host) and ipaddress.ip_address(host).is_loopback


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
