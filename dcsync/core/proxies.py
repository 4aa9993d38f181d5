"""Which proxy a URL goes through: the configured one, or that of HTTPS_PROXY and HTTP_PROXY, except for NO_PROXY. Pure.

The rules are those of curl and Go, because administrators write the variables for these programs.
"""

from __future__ import annotations

import ipaddress
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from dcsync.core.urls import is_loopback_url

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """An HTTP proxy. `url` has no user name and no password, and `source` says where it is configured."""

    url: str
    source: str
    user: str | None = field(default=None, repr=False)
    password: str = field(default="", repr=False)

    @property
    def shown(self) -> str:
        """The proxy as messages name it."""
        return f"{self.url} ({self.source})"

    @property
    def authorization(self) -> str | None:
        """The value of `Proxy-Authorization`, a secret. None without a user name."""
        if self.user is None:
            return None
        return "Basic " + b64encode(f"{self.user}:{self.password}".encode()).decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyRules:
    """The proxies by scheme, and the hosts that dcsync contacts directly (`NO_PROXY`)."""

    by_scheme: Mapping[str, Proxy] = field(default_factory=lambda: MappingProxyType({}))
    exceptions: tuple[str, ...] = ()

    def for_url(self, url: str) -> Proxy | None:
        """Return the proxy for a URL, or None for a direct connection.

        This host (localhost, 127.0.0.0/8, ::1) is always contacted directly, as in Go: for a proxy it is another host.
        """
        try:
            parts = urlsplit(url)
            proxy, host = self.by_scheme.get(parts.scheme), (parts.hostname or "").rstrip(".")
            if proxy is None or not host or is_loopback_url(url):
                return None
            port = parts.port or _PORTS[parts.scheme]
        except ValueError:
            return None
        return None if any(_names(exception, host, port) for exception in self.exceptions) else proxy


def one_proxy(text: str, environ: Mapping[str, str], *, source: str) -> ProxyRules:
    """Return the rules for one proxy for all URLs. NO_PROXY applies to it as well. Raises as `parse_proxy` does."""
    proxy = parse_proxy(text, source=source)
    return ProxyRules(by_scheme=dict.fromkeys(_PORTS, proxy), exceptions=_exceptions(environ))


def environment_proxies(environ: Mapping[str, str]) -> ProxyRules:
    """Return the rules of HTTPS_PROXY, HTTP_PROXY and NO_PROXY. Lower-case names take precedence, as in curl.

    Raises as `parse_proxy` does.
    """
    found = {}
    for scheme in _PORTS:
        name, text = _variable(environ, f"{scheme}_proxy")
        if text:
            found[scheme] = parse_proxy(text, source=name)
    return ProxyRules(by_scheme=found, exceptions=_exceptions(environ))


def parse_proxy(text: str, *, source: str) -> Proxy:
    """Parse the address of a proxy, with or without `http://`.

    Raises `ValueError` with a message that does not show the address, because it may contain a password.
    """
    invalid = f"{source} is not the address of a proxy, such as http://proxy.example.com:3128"
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(invalid) from None
    # A password with a `/`, `?` or `#` that is not encoded ends the host: `http://user:1/x@proxy` has the host `user`.
    misread = "@" in parts.path + parts.query + parts.fragment
    if not host or misread or not text.isprintable() or " " in text:
        raise ValueError(invalid)
    if parts.scheme not in _PORTS:
        msg = f"{source} names a proxy that is neither http:// nor https://, which dcsync does not support"
        raise ValueError(msg)
    shown = f"[{host}]" if ":" in host else host
    return Proxy(
        # A proxy without a port listens on 80 or 443, the ports of its scheme (curl uses 1080, Go and Python do not).
        url=f"{parts.scheme}://{shown}:{port or _PORTS[parts.scheme]}",
        source=source,
        user=None if parts.username is None else unquote(parts.username),
        password=unquote(parts.password or ""),
    )


def _exceptions(environ: Mapping[str, str]) -> tuple[str, ...]:
    _, text = _variable(environ, "no_proxy")
    return tuple(text.replace(",", " ").lower().split())


def _variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """Return the name of a variable in the case that counts, and its value. An empty one switches the other off."""
    used = name if name in environ else name.upper()
    return used, environ.get(used, "").strip()


def _names(exception: str, host: str, port: int) -> bool:
    """Return whether an entry of NO_PROXY names this host: `*`, a domain, an address or a network.

    It may have a port. A domain includes its subdomains, with or without a dot before it.
    """
    if exception == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(exception.strip("[]"), strict=False)
    except ValueError:
        pass
    exception = exception.rstrip(".")
    name, colon, number = exception.rpartition(":")
    if colon and number.isdigit():
        return int(number) == port and _names(name, host, port)
    domain = exception.removeprefix("*").removeprefix(".")
    return host == domain or host.endswith(f".{domain}")
