"""`[network]` of the configuration: the proxies, and the trusted CA certificates."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from dcsync.config import Config
from dcsync.core.proxies import ProxyRules, environment_proxies, one_proxy
from dcsync.errors import ConfigError
from dcsync.network import Network, trust


def network_of(config: Config, *, environ: Mapping[str, str]) -> Network:
    """Return the network settings. Raises `ConfigError`s, also for a proxy's address in `environ` that is not valid."""
    return Network(proxies=_proxies(config, environ), tls=_tls(config))


def _proxies(config: Config, environ: Mapping[str, str]) -> ProxyRules:
    place = config.network.proxy
    try:
        if place.reads_environment:
            return environment_proxies(environ)
        if place.is_keyword:
            return ProxyRules()
        return one_proxy(place.resolve(environ).get_secret_value(), environ, source="network.proxy")
    except ValueError as error:
        hint = "correct the address (percent-encode special characters of the password), or set network.proxy = "
        hint += '"none" to use no proxy (dcsync explain network)'
        raise ConfigError(str(error), hint=hint) from None


def _tls(config: Config) -> ssl.SSLContext | None:
    path = config.network.ca_file
    if path is None:
        return None
    try:
        return trust(path)
    except ssl.SSLError:
        message = f"network.ca_file {path} contains no certificate in PEM format"
        raise ConfigError(message, hint="convert it: openssl x509 -inform der -in FILE -out FILE.pem") from None
    except OSError as error:
        message = f"network.ca_file {path} cannot be read: {error.strerror}"
        raise ConfigError(message, hint="make it readable for the user that runs dcsync") from None
