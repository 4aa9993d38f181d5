"""Several hosts on one mirror: they share a PostgreSQL database, and a queue in it that distributes the work.

This module alone asks whether the configuration names a database. It is cheap to import: the driver and the queue are
imported when a database is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dcsync.app.stores import FileStores, Stores
from dcsync.config import Config

if TYPE_CHECKING:
    from dcsync.daemon.session import Session
    from dcsync.daemon.session_parts import SessionParts


def stores_for(config: Config, environ: Mapping[str, str]) -> Stores:
    """Return the stores of a configuration: files of the state folder, or the database that several hosts share.

    `environ` has the secrets. Raises a `ConfigError` when the address cannot be resolved or parsed, or when the extra
    `cluster` is not installed.
    """
    reference = config.state.manifest
    if not reference.is_shared:
        return FileStores(Path(config.state.dir))
    from dcsync.cluster.database import parse_database
    from dcsync.cluster.stores import DatabaseStores

    database = parse_database(reference.resolve(environ).get_secret_value())
    return DatabaseStores(database, client=config.auth.client_id or "")


def make_session(parts: SessionParts) -> Session:
    """Return the daemon's session for an open mirror, by the hosts that the mirror was opened with."""
    from dcsync.daemon.local_session import LocalSession

    if parts.context.peers.host is None:
        return LocalSession(parts)
    from dcsync.cluster.session import SharedSession

    return SharedSession(parts)


__all__ = ["make_session", "stores_for"]
