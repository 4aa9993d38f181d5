"""The settings of hooks, notifications and the heartbeat, from the configuration.

A module of its own, because it imports the network. `dcsync status` uses `from_config` without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dcsync.app.from_config import hidden_names
from dcsync.app.network import network_of
from dcsync.app.stores import Stores
from dcsync.config import Config
from dcsync.core.events import EventKind
from dcsync.ops.alerts.dispatch import AlertSettings
from dcsync.ops.alerts.hooks import Hook
from dcsync.ops.alerts.notify import check_installed


def alert_settings(config: Config, stores: Stores, *, environ: Mapping[str, str]) -> AlertSettings:
    """Return the settings with secrets resolved.

    Raises `ConfigError` for a missing secret or package now, rather than at the first event.
    """
    urls = tuple(url.resolve(environ).get_secret_value() for url in config.notify.urls)
    if urls:
        check_installed()
    heartbeat = config.heartbeat.url
    hidden = hidden_names(config) | stores.hidden_names
    return AlertSettings(
        root=Path(config.mirror.root),
        hooks=tuple(
            Hook(on=frozenset(EventKind(kind) for kind in hook.on), argv=tuple(hook.run), timeout=hook.timeout)
            for hook in config.hooks
        ),
        urls=urls,
        on=frozenset(EventKind(kind) for kind in config.notify.on),
        heartbeat=None if heartbeat is None else heartbeat.resolve(environ).get_secret_value(),
        network=network_of(config, environ=environ),
        environ={name: value for name, value in environ.items() if name not in hidden},
    )
