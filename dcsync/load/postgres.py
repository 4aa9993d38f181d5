"""Loads into PostgreSQL.

A new table is filled and takes the name of the old one, all in one transaction. PostgreSQL reads the snapshot's own CSV
file (`COPY`), whose form is the same. FREEZE lets also those readers see the rows whose transaction began before.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

from dcsync.core.names import printable
from dcsync.core.row_history import VALID_TO
from dcsync.core.sql import identifier, text
from dcsync.errors import LoadFailed, LoadInterrupted, LoadRefused, RowsFailed, TargetUnusable, ValueRefused
from dcsync.load import causes
from dcsync.load.clients import column_type, native_errors, postgres_client
from dcsync.load.reading import ROW, Column, Reading, fitting_name
from dcsync.load.sql_target import STAGE, SqlTarget
from dcsync.load.target import LOADS, Options
from dcsync.load.values import Loaded, TableLoad
from dcsync.rows import CsvTable, Engine
from dcsync.rows.table import descriptor_path

if TYPE_CHECKING:
    from dlt.destinations.sql_client import SqlClientBase

_PIECE: Final = 1 << 20
#: In older versions of PostgreSQL, a line with only this ends a file.
_END: Final = b"\n\\."
_CONTEXT: Final = re.compile(r"^COPY .*?, line (\d+)(?:, column (.*?)(?:: |$))?", re.DOTALL)
#: The index by which the rows of a history that end are found.
_ROW_INDEX: Final = ("CREATE INDEX", f"btree ({ROW}) WHERE {VALID_TO} IS NULL")
_COPY: Final = "FORMAT csv, NULL '', ENCODING 'UTF8'"


class PostgresTarget(SqlTarget):
    """A PostgreSQL database."""

    longest_name = 63  # NAMEDATALEN - 1
    row_id = "ctid"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._client: SqlClientBase[Any] | None = None
        self._line: _Line | None = None
        #: Whether PostgreSQL reads CSV files, and DuckDB only those that PostgreSQL does not take for CSV.
        self._is_direct = True
        #: Whether PostgreSQL refused a file because of blank lines, two kinds of line breaks, or the like.
        self._is_malformed = False

    def load(self, load: TableLoad) -> Loaded:
        self._is_malformed = False
        try:
            return super().load(load)
        except ValueRefused:
            if not self._is_malformed:
                raise
            self._is_direct = False
            return super().load(load)
        finally:
            self._is_direct = True

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):  # the connection may be lost
                client.close_connection()
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def interrupt(self) -> None:
        super().interrupt()
        line = self._line
        if line is not None:
            line.cut()

    @property
    def connection(self) -> Any:  # noqa: ANN401 - psycopg2 has no types
        """The connection of psycopg2, which is opened here."""
        if self._client is not None and self._client.native_connection.closed:
            self.close()
        if self._client is None:
            client = postgres_client(self._options.address, self._options.dataset)
            client.open_connection()
            self._client = client
            self._line = _Line(client.native_connection.fileno())
            if self._is_interrupted:  # while it connected
                raise LoadInterrupted(self.name, "", "it was interrupted")
            self._watch_line()
            self.execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET standard_conforming_strings = on")
            self.execute(f"SET lock_timeout = {round(self._options.patience_s * 1000)}; SET statement_timeout = 0")
            # To compile a statement would take longer than to run it.
            self.execute("SET jit = off")
        return self._client.native_connection

    def _watch_line(self) -> None:
        """Let PostgreSQL end a statement or a wait for a lock within a second after the connection has ended."""
        with suppress(Exception):  # before PostgreSQL 14, and on some systems, it cannot
            self.execute("SET client_connection_check_interval = '1s'")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        _ = self.connection
        assert self._client is not None  # noqa: S101 - opened by the line before
        with native_errors(), self._client.begin_transaction():
            yield

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def has_loads(self) -> bool:
        return self.columns_of(LOADS) is not None

    def create_loads(self) -> None:
        dataset = self._options.dataset
        self._wait_for(LOADS)
        if not self.execute(f"SELECT 1 FROM pg_namespace WHERE nspname = {text(dataset)}"):
            self.execute(f"CREATE SCHEMA {identifier(dataset)}")
        self.execute(
            f"CREATE TABLE IF NOT EXISTS {self.place(LOADS)} (table_name text PRIMARY KEY, mode text NOT NULL, "
            "account text NOT NULL, request text NOT NULL, job text NOT NULL, completed timestamptz NOT NULL, "
            "sha256 text NOT NULL, row_count bigint NOT NULL, loaded_at timestamptz NOT NULL)"
        )

    def lock(self, table: str) -> None:
        self._wait_for(table)

    def _wait_for(self, table: str) -> None:
        key = text(f"dcsync {self._options.dataset} {table}")
        self.execute(f"SELECT pg_advisory_xact_lock(hashtextextended({key}, 0))")

    def tables(self) -> set[str]:
        found = self.execute(
            "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
            f"WHERE nspname = {text(self._options.dataset)}"
        )
        return {str(name) for (name,) in found}

    def columns_of(self, table: str) -> dict[str, str] | None:
        place = f"to_regclass({text(self.place(table))})"
        if self.execute(f"SELECT {place}")[0][0] is None:
            return None
        found = self.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            f"WHERE attrelid = {place} AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        )
        return {str(name): str(kind) for name, kind in found}

    def type_of(self, column: Column) -> str:
        assert self._client is not None  # noqa: S101 - asked for inside a transaction
        return column_type(self._client, column.kind).replace("varchar", "character varying")

    def replace_table(self, table: str, reading: Reading, there: Mapping[str, str] | None) -> int:
        place = self.place(table)
        if there is not None and self._is_bound(place):
            return self._replace_rows(place, reading, there)
        new = f"_dcsync_new_{self.execute('SELECT txid_current()')[0][0]}"
        wanted = {column.name: self.type_of(column) for column in reading.columns}
        # With the same columns, it also keeps its comments and indexes.
        declared = self.declared(reading.columns)
        indexes = self._indexes(table) if there == wanted else {}
        if there == wanted:
            declared = f"LIKE {place} INCLUDING ALL EXCLUDING INDEXES"
        if reading.ends:
            indexes[fitting_name(f"{table}{ROW}", self.longest_name)] = _ROW_INDEX
        self.execute(f"CREATE TABLE {self.place(new)} ({declared})")
        rows = self._copy(self.place(new), reading, reading.all(), "FREEZE")
        # Filling a table that has indexes would take much longer.
        for number, (kind, form) in enumerate(indexes.values()):
            self.execute(f"{kind} {new}_{number} ON {self.place(new)} USING {form}")
        if there is not None:
            self._copy_grants(place, self.place(new))
            self.execute(f"DROP TABLE {place}")
        self.execute(f"ALTER TABLE {self.place(new)} RENAME TO {identifier(table)}")
        for number, name in enumerate(indexes):
            self.execute(f"ALTER INDEX {self.place(f'{new}_{number}')} RENAME TO {identifier(name)}")
        return rows

    def _indexes(self, table: str) -> dict[str, tuple[str, str]]:
        """Return the kind and the form of each index of a table, by its name."""
        found = self.execute(
            "SELECT indexname, indexdef FROM pg_indexes "
            f"WHERE schemaname = {text(self._options.dataset)} AND tablename = {text(table)}"
        )
        return {
            str(name): (str(sql).partition("INDEX ")[0] + "INDEX", str(sql).partition(" USING ")[2])
            for name, sql in found
        }

    def _is_bound(self, place: str) -> bool:
        """Say whether something would be lost with the table: a view, a policy, a trigger, a publication."""
        oid = f"{text(place)}::regclass"
        return bool(
            self.execute(
                f"""SELECT EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_class'::regclass AND refobjid = {oid}
                    AND deptype = 'n') OR EXISTS (SELECT FROM pg_policy WHERE polrelid = {oid})
                 OR EXISTS (SELECT FROM pg_trigger WHERE tgrelid = {oid} AND NOT tgisinternal)
                 OR EXISTS (SELECT FROM pg_publication_rel WHERE prrelid = {oid})
                 OR EXISTS (SELECT FROM pg_class WHERE oid = {oid} AND (relrowsecurity OR relkind <> 'r'))"""
            )[0][0]
        )

    def _replace_rows(self, place: str, reading: Reading, there: Mapping[str, str]) -> int:
        """Replace the rows of a table that has to stay."""
        self.execute(f"LOCK TABLE {place} IN SHARE ROW EXCLUSIVE MODE")
        self.execute(f"DELETE FROM {place}")
        for column in reading.columns:
            kind = self.type_of(column)
            if column.name not in there:
                self.execute(f"ALTER TABLE {place} ADD COLUMN {identifier(column.name)} {kind}")
            elif there[column.name] != kind:
                name = identifier(column.name)
                self.execute(f"ALTER TABLE {place} ALTER COLUMN {name} TYPE {kind} USING NULL::{kind}")
        return self._copy(place, reading, reading.all(), "")

    def _copy_grants(self, old: str, new: str) -> None:
        rights = self.execute(
            "SELECT grantee, CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END, "
            "privilege_type, is_grantable FROM pg_class, aclexplode(relacl) "
            f"WHERE oid = {text(old)}::regclass AND grantee <> relowner"
        )
        for _, role, right, is_grantable in rights:
            option = " WITH GRANT OPTION" if is_grantable else ""
            self.execute(f"GRANT {right} ON {new} TO {role}{option}")

    def end_rows(self, sql: str) -> None:
        # Without statistics of a new table, PostgreSQL would read all of it.
        slow = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")
        self.execute("; ".join(f"SET LOCAL {name} = off" for name in slow))
        self.execute(sql)
        self.execute("; ".join(f"SET LOCAL {name} = on" for name in slow))

    def stage(self, columns: Sequence[Column]) -> str:
        self.execute(f"CREATE TEMP TABLE {STAGE} ({self.declared(columns)}) ON COMMIT DROP")
        return f"pg_temp.{STAGE}"

    def fill(self, place: str, reading: Reading, query: str) -> int:
        return self._copy(place, reading, query, "")

    def _copy(self, place: str, reading: Reading, query: str, option: str) -> int:
        """Copy rows. Returns how many PostgreSQL took."""
        names = ", ".join(identifier(name) for name in reading.names)
        options = ", ".join(filter(None, (_COPY, option)))
        if reading.csv is not None and self._is_direct and not _has_end(reading.csv):
            typed = ", ".join(identifier(column.name) for column in reading.columns if not column.is_text)
            null = f", FORCE_NULL ({typed})" if typed else ""
            with os.fdopen(os.open(descriptor_path(reading.csv.descriptor), os.O_RDONLY | os.O_CLOEXEC), "rb") as file:
                return self._send(f"COPY {place} ({names}) FROM STDIN WITH ({options}, HEADER{null})", file)
        with _Feed(self.engine(), query, reading) as feed:
            return self._send(f"COPY {place} ({names}) FROM STDIN WITH ({options})", feed)

    def _send(self, sql: str, file: BinaryIO | _Feed) -> int:
        with self.connection.cursor() as cursor:
            cursor.copy_expert(sql, file, _PIECE)
            return int(cursor.rowcount)

    def moment(self, value: datetime) -> str:
        return f"TIMESTAMPTZ {text(value.astimezone(UTC).isoformat())}"

    def moment_text(self, name: str) -> str:
        return f"to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"

    def explained(self, error: Exception, table: str) -> LoadFailed:
        state = getattr(error, "pgcode", None) or ""
        diagnosis = getattr(error, "diag", None)
        reason = self.clean(getattr(diagnosis, "message_primary", None) or str(error) or type(error).__name__)
        place = _CONTEXT.search(getattr(diagnosis, "context", None) or "")
        if state.startswith("22") and place is not None:
            column, line = printable(place[2] or "", 80), f"line {place[1]}"
            self._is_malformed = state == "22P04"  # bad_copy_file_format
            return ValueRefused(self.name, table, reason, column=column, place=line)
        if state in {"42501", "25006"}:  # insufficient_privilege, read_only_sql_transaction
            return LoadFailed(self.name, table, reason, hint=causes.of_state(state))
        if state == "55P03":  # lock_not_available
            reason = f"another session used the table for {self._options.patience_s:g} s"
            return LoadFailed(self.name, table, reason, hint="end long queries of that table (pg_stat_activity)")
        if state[:2] in {"0A", "2B", "42"}:  # a view depends on a column, a name that cannot be used
            return LoadRefused(self.name, table, reason)
        if self._client is None or state[:2] in {"", "08", "57"}:
            # No connection, or one that was lost.
            self.close()
            return TargetUnusable(self.name, table, reason, hint=causes.of_connection(reason) or None)
        return LoadFailed(self.name, table, reason, hint=causes.of_state(state))


def _has_end(csv: CsvTable) -> bool:
    """Say whether a CSV file has a line that an older PostgreSQL takes for the end."""
    before, offset = b"", 0
    while piece := os.pread(csv.descriptor, _PIECE, offset):
        if _END in before + piece:
            return True
        before, offset = piece[-len(_END) :], offset + len(piece)
    return False


class _Line:
    """The socket of a connection. Another thread can close it without waiting for PostgreSQL.

    The `cancel` of psycopg2 waits for PostgreSQL without a limit, and blocks all threads of the process.
    """

    def __init__(self, descriptor: int) -> None:
        # A descriptor of its own: psycopg2 closes the other one, and its number may then be another file's.
        self._socket = socket.socket(fileno=os.dup(descriptor))
        self._lock = threading.Lock()

    def cut(self) -> None:
        """End the connection. A thread that waits for PostgreSQL gets an error."""
        with self._lock, suppress(OSError):  # it may have ended, or have been closed just now
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            self._socket.close()


class _Feed:
    """The rows of a query as CSV, which DuckDB writes into a pipe."""

    def __init__(self, engine: Engine, query: str, reading: Reading) -> None:
        quoted = ", ".join(identifier(column.name) for column in reading.columns if column.is_text)
        quote = f", FORCE_QUOTE ({quoted})" if quoted else ""
        self._form = f"FORMAT csv, HEADER false, NULLSTR '', USE_TMP_FILE false{quote}"
        self._query = query
        self._engine = engine
        self._reading = reading
        self._failure: RowsFailed | None = None

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._write, name="dcsync-load", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # If the database stopped to read, DuckDB ends with a broken pipe.
        os.close(self._reader)
        self._thread.join()
        if self._failure is not None and kind is None:
            raise self._failure

    def read(self, size: int) -> bytes:
        """Return the next bytes. b"" at the end, also after a failure, which the end of the block raises."""
        return os.read(self._reader, size)

    def _write(self) -> None:
        try:
            sql = f"COPY ({self._query}) TO {text(descriptor_path(self._writer))} ({self._form})"
            with self._reading.failing():
                self._engine.run(sql)
        except RowsFailed as failure:
            self._failure = failure
        finally:
            os.close(self._writer)
