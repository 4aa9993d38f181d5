"""The PostgreSQL database that several hosts share: its address, its connections, its errors.

What needs the extra `cluster` is imported when a database is named in the configuration, and not before.
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

from dcsync.errors import ConfigError, DatabaseBusy, DatabaseRefused, DatabaseUnreachable, ManifestError

if TYPE_CHECKING:
    import psycopg

SCHEMES = ("postgresql://", "postgres://")
#: Of connections that nobody answers for: the network is cut, the machine of the server is gone.
_NETWORK: Mapping[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
#: A host that is frozen within a transaction holds up the others no longer than this; its transaction is undone.
IDLE_IN_TRANSACTION_S = 20
#: How long a writer waits for another one.
_LOCK_TIMEOUT_S = 60
#: What a connection's commit must at least be: on the server's disk. `remote_apply` and the like are more, and stay.
_SETTINGS = """
SELECT set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
    THEN 'on' ELSE current_setting('synchronous_commit') END, false),
  set_config('idle_in_transaction_session_timeout', '{idle}s', false),
  set_config('lock_timeout', '{lock}s', false),
  set_config('TimeZone', 'UTC', false)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A database by its address. `repr` and messages show no password."""

    conninfo: str = field(repr=False)
    #: What may be shown.
    name: str

    @property
    def shown(self) -> str:
        """Return what messages call it."""
        return f"the database {self.name}"

    def engine(self, *, label: str = "") -> AsyncEngine:
        """Return an engine for the event loop; the caller disposes of it. Nothing is connected yet."""
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
        """Return an engine for threads; the caller disposes of it.

        A transaction in which nothing happens for `idle_s` is undone by the server; a lock is waited for `lock_s`.
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
        """Return what libpq connects by. It holds the password, if the address does."""
        from psycopg.conninfo import conninfo_to_dict, make_conninfo

        given = conninfo_to_dict(self.conninfo)
        named = {"application_name": f"dcsync {label}".strip()[:63]}
        known: dict[str, Any] = {**_NETWORK, **named, **given}
        return make_conninfo(**known)

    def errors(self) -> database_errors:
        """Return a context that turns the database's exceptions into ours."""
        return database_errors(self.shown)


def parse_database(address: str) -> Database:
    """Return the database of an address `postgresql://[user@]host[:port]/name[?…]`.

    Raises `ConfigError` when it is none, or when the extra `cluster` is not installed.
    """
    try:
        # The extra is one whole; half of it would only show when the work begins.
        if find_spec("procrastinate") is None:
            raise ImportError
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:
        message = "a PostgreSQL manifest needs the extra cluster, which is not installed"
        raise ConfigError(message, hint="pip install 'dcsync[cluster]'") from None
    if not address.startswith(SCHEMES):
        # Not shown: it may be a password.
        message = "state.manifest does not hold an address such as postgresql://user@host/database"
        raise ConfigError(message)
    try:
        parts = conninfo_to_dict(address)
    except psycopg.ProgrammingError:
        message = "the address in state.manifest cannot be read"
        raise ConfigError(message, hint="write postgresql://user@host:5432/database") from None
    host = str(parts.get("host") or parts.get("hostaddr") or "this machine")
    name = f"{parts.get('dbname') or parts.get('user') or 'dcsync'} at {host}"
    port = parts.get("port")
    return Database(conninfo=address, name=f"{name}:{port}" if port else name)


class database_errors:  # noqa: N801 - reads as a context, like contextlib.suppress
    """Turns the exceptions of driver, pool and SQLAlchemy into ours, once, at the edge; their text holds no rows."""

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
        # The server's own words about what it was asked, or libpq's about the way to it: the first line. Not the
        # detail, which quotes rows.
        lines = (cause.diag.message_primary or str(cause)).strip().splitlines()
        # libpq asks back in lines that begin with a tab.
        words = [line for line in lines if not line.startswith("\t")]
        said = words[-1] if words and not state else (words[0] if words else type(cause).__name__)
        if state.startswith(("28", "42501")) or "authentication failed" in said:
            return DatabaseRefused(f"{self._shown} does not let us in: {said}")
        if state in {"55P03", "40P01", "53300"}:
            return DatabaseBusy(f"{self._shown} cannot be used: {said}")
        # 08: connection, 57: ended by the operator or a restart, 25P03: our transaction was ended for being idle.
        gone = state.startswith(("08", "57")) or state == "25P03"
        if gone or (not state and isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError)):
            return DatabaseUnreachable(f"{self._shown} does not answer: {said}")
        return ManifestError(f"{self._shown} cannot be used: {said}", hint="look into PostgreSQL's log")


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
        """PostgreSQL's text has no NUL; what a server sent with one is kept with the sign for what cannot be shown."""

        def dump(self, obj: str) -> Any:  # noqa: ANN401 - its signature
            return super().dump(obj.replace("\0", "\ufffd"))

    return _WithoutNul
