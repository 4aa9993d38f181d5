"""The PostgreSQL database that several hosts share: its address, its connections, its errors.

Packages of the extra `cluster` are imported only when the configuration names a database.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from dcsync.core.extras import install_hint
from dcsync.errors import ConfigError, DatabaseBusy, DatabaseRefused, DatabaseUnreachable, ManifestError

if TYPE_CHECKING:
    import psycopg

SCHEMES = ("postgresql://", "postgres://")
#: Detect dead connections after a network cut or the loss of the database's machine.
_NETWORK: Mapping[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
#: A host that is frozen within a transaction blocks the others for at most this time. Then it is rolled back.
IDLE_IN_TRANSACTION_S = 20
#: How long a writer waits for another writer's lock.
_LOCK_TIMEOUT_S = 60
#: A commit must at least be on PostgreSQL's own disk. Stronger settings such as `remote_apply` stay.
_SETTINGS = """
SELECT set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
    THEN 'on' ELSE current_setting('synchronous_commit') END, false),
  set_config('idle_in_transaction_session_timeout', '{idle}s', false),
  set_config('lock_timeout', '{lock}s', false),
  set_config('TimeZone', 'UTC', false)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A database address. `repr` and messages do not show the password."""

    conninfo: str = field(repr=False)
    #: The database and its host, without secrets.
    name: str

    @property
    def shown(self) -> str:
        """Return the database's name for messages."""
        return f"the database {self.name}"

    def engine(self, *, label: str = "") -> AsyncEngine:
        """Return an engine for the event loop. The caller disposes of it. It is not connected yet."""
        import psycopg

        async def connect() -> psycopg.AsyncConnection[Any]:
            return await psycopg.AsyncConnection.connect(self.conninfo_of(label))

        engine = create_async_engine(
            "postgresql+psycopg://", async_creator=connect, pool_pre_ping=True, hide_parameters=True, pool_timeout=60
        )
        _prepare(engine.sync_engine)
        return engine

    def blocking_engine(
        self, *, label: str = "", idle_s: int = IDLE_IN_TRANSACTION_S, lock_s: int = _LOCK_TIMEOUT_S
    ) -> sa.Engine:
        """Return an engine for threads. The caller disposes of it.

        PostgreSQL rolls back a transaction that is idle for `idle_s`. A statement waits for a lock for `lock_s`.
        """
        import psycopg

        engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=lambda: psycopg.connect(self.conninfo_of(label)),
            pool_pre_ping=True,
            hide_parameters=True,
        )
        _prepare(engine, idle_s=idle_s, lock_s=lock_s)
        return engine

    def conninfo_of(self, label: str) -> str:
        """Return libpq's connection string. It contains the password if the address does."""
        from psycopg.conninfo import conninfo_to_dict, make_conninfo

        given = conninfo_to_dict(self.conninfo)
        named = {"application_name": f"dcsync {label}".strip()[:63]}
        known: dict[str, Any] = {**_NETWORK, **named, **given}
        return make_conninfo(**known)

    def errors(self) -> database_errors:
        """Return a context manager that translates the database's exceptions into dcsync's errors."""
        return database_errors(self.shown)


def parse_database(address: str) -> Database:
    """Return the database at an address `postgresql://[user@]host[:port]/name[?…]`.

    Raises `ConfigError` if the address is not valid or the extra `cluster` is not installed.
    """
    try:
        # Check the whole extra here. A missing part would otherwise only show when the work begins.
        if find_spec("procrastinate") is None:
            raise ImportError
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:
        message = "a PostgreSQL manifest needs the extra cluster, which is not installed"
        raise ConfigError(message, hint=install_hint("cluster")) from None
    if not address.startswith(SCHEMES):
        # The value is not shown, because it may be a password.
        message = "state.manifest is not a valid address such as postgresql://user@host/database"
        raise ConfigError(message)
    try:
        parts = conninfo_to_dict(address)
    except psycopg.ProgrammingError:
        message = "the address in state.manifest cannot be parsed"
        raise ConfigError(message, hint="write postgresql://user@host:5432/database") from None
    host = str(parts.get("host") or parts.get("hostaddr") or "this machine")
    name = f"{parts.get('dbname') or parts.get('user') or 'dcsync'} at {host}"
    port = parts.get("port")
    return Database(conninfo=address, name=f"{name}:{port}" if port else name)


class database_errors:  # noqa: N801 - reads as a context, like contextlib.suppress
    """Translates the exceptions of driver, pool and SQLAlchemy into dcsync's errors. Their texts contain no rows."""

    def __init__(self, shown: str) -> None:
        self._shown = shown

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import psycopg

        if isinstance(error, sa.exc.TimeoutError):
            message = f"{self._shown} cannot be used: no connection is free"
            raise DatabaseBusy(message) from None
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        if isinstance(cause, psycopg.Error):
            raise self._translated(cause) from None

    def _translated(self, cause: psycopg.Error) -> ManifestError:
        import psycopg

        state = cause.sqlstate or ""
        # The first line is PostgreSQL's own message, or libpq's message about the connection. The detail is left out,
        # because it quotes rows.
        lines = (cause.diag.message_primary or str(cause)).strip().splitlines()
        # libpq puts its questions to the operator in lines that begin with a tab.
        statements = [line for line in lines if not line.startswith("\t")]
        reason = type(cause).__name__ if not statements else statements[0 if state else -1]
        if state.startswith(("28", "42501")) or "authentication failed" in reason:
            return DatabaseRefused(f"{self._shown} refuses dcsync: {reason}")
        if state in {"55P03", "40P01", "53300"}:
            return DatabaseBusy(f"{self._shown} cannot be used: {reason}")
        # 08: connection. 57: ended by the operator or a restart. 25P03: our transaction was idle for too long.
        gone = state.startswith(("08", "57")) or state == "25P03"
        if gone or (not state and isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError)):
            return DatabaseUnreachable(f"{self._shown} does not answer: {reason}")
        return ManifestError(f"{self._shown} cannot be used: {reason}", hint="check PostgreSQL's log")


def _prepare(engine: sa.Engine, *, idle_s: int = IDLE_IN_TRANSACTION_S, lock_s: int = _LOCK_TIMEOUT_S) -> None:
    settings = _SETTINGS.format(idle=idle_s, lock=lock_s)

    @sa.event.listens_for(engine, "connect")
    def _set_up(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        assert entry.driver_connection is not None  # noqa: S101 - it was just made
        entry.driver_connection.adapters.register_dumper(str, _dumper())
        cursor = connection.cursor()
        cursor.execute(settings)
        cursor.close()
        connection.commit()


@functools.cache
def _dumper() -> type[Any]:
    from psycopg.types.string import StrDumper

    class _WithoutNul(StrDumper):
        """Replaces NUL by U+FFFD, because PostgreSQL's text cannot contain NUL."""

        def dump(self, obj: str) -> Any:  # noqa: ANN401 - its signature
            return super().dump(obj.replace("\0", "\ufffd"))

    return _WithoutNul
