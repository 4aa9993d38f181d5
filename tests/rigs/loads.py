"""Tables to load, targets to load them into, and what the targets then have."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import psycopg

from dcsync import load
from dcsync.core.loads import LoadMode, NewColumn, Shown
from dcsync.core.row_history import Step
from dcsync.load import HistoryFile, Loaded, TableLoad, Target
from dcsync.rows import open_table
from tests.rigs.postgres import Postgres

DATASET = "acc"
BEGIN = datetime(2026, 11, 1, 4, 30, tzinfo=UTC)
_MEMORY = 128 << 20


@dataclass(frozen=True, slots=True)
class Goal:
    """A place to load into, and how to ask it something without dcsync."""

    address: str
    folder: Path

    @contextmanager
    def opened(self, *, patience_s: float = 60.0) -> Iterator[Target]:
        """Open it as dcsync does."""
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        with load.opened(self.address, dataset=DATASET, work=work, memory=_MEMORY, patience_s=patience_s) as target:
            yield target

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query. `{t}.` stands before the name of a table."""
        match self.kind:
            case "duckdb":
                with duckdb.connect(self.path, read_only=True) as connection:
                    connection.execute("SET TimeZone = 'UTC'")
                    # The file and the schema have the same name, as they may.
                    sql = sql.format(t=f"{DATASET}.{DATASET}")
                    return [tuple(row) for row in connection.execute(sql).fetchall()]
            case "sqlite":
                with closing(sqlite3.connect(self.path)) as file:
                    return [tuple(row) for row in file.execute(sql.format(t="main")).fetchall()]
            case "file":
                with duckdb.connect() as connection:
                    connection.execute("SET TimeZone = 'UTC'")
                    found = re.sub(r"{t}\.(\w+)", rf"'{self.path}/{DATASET}/\1.parquet'", sql)
                    return [tuple(row) for row in connection.execute(found).fetchall()]
            case _:
                with psycopg.connect(self.address, options="-c timezone=UTC") as server:
                    return [tuple(row) for row in server.execute(sql.format(t=DATASET).encode()).fetchall()]

    def tell(self, sql: str) -> None:
        """Run a statement, as a user would."""
        match self.kind:
            case "duckdb":
                with duckdb.connect(self.path) as connection:
                    connection.execute(sql.format(t=f"{DATASET}.{DATASET}"))
            case "sqlite":
                with closing(sqlite3.connect(self.path)) as file:
                    file.execute(sql.format(t="main"))
                    file.commit()
            case _:
                with psycopg.connect(self.address, autocommit=True) as server:
                    server.execute(sql.format(t=DATASET).encode())

    @property
    def kind(self) -> str:
        """What the address begins with."""
        return self.address.partition(":")[0]

    @property
    def path(self) -> str:
        """The path of a file or folder."""
        return self.address.partition("://")[2]

    def rows(self, table: str = "users", columns: str = "*") -> list[tuple[Any, ...]]:
        """Return the rows of a table, in the order of their first column."""
        return self.ask(f"SELECT {columns} FROM {{t}}.{table} ORDER BY 1")


def goal(kind: str, folder: Path, server: Postgres | None = None) -> Goal:
    """Return an empty target of a kind."""
    match kind:
        case "postgresql":
            assert server is not None
            return Goal(_database(server), folder)
        case "file":
            (folder / "lake").mkdir()
            return Goal(f"file://{folder / 'lake'}", folder)
        case _:
            return Goal(f"{kind}://{folder / 'acc.db'}", folder)


#: The database of each server, by its port. Another one for each test would take seconds to remove.
_databases: dict[int, str] = {}


def _database(server: Postgres) -> str:
    """Return the address of a database without the schema of loads."""
    address = _databases.setdefault(server.port, "") or server.fresh()
    _databases[server.port] = address
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {DATASET} CASCADE")
    return address


def latest(
    target: Target,
    folder: Path,
    body: bytes,
    *,
    table: str = "users",
    day: int = 1,
    types: Mapping[str, str] | None = None,
    on_new_column: NewColumn = NewColumn.ADD,
    seen: Shown | None = None,
    rows: int | None = None,
) -> Loaded:
    """Load a CSV file in `latest` mode."""
    name = f"{table}.csv"
    (folder / name).write_bytes(body)
    below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with open_table(name, below=below) as source:
            shown = replace(shows(body, table=table, day=day), rows=rows)
            job = TableLoad(shown=shown, source=source, types=types or {}, on_new_column=on_new_column, seen=seen)
            return target.load(job)
    finally:
        os.close(below)


def history(
    target: Target,
    file: int,
    step: Step,
    *,
    table: str = "users",
    types: Mapping[str, str] | None = None,
    on_new_column: NewColumn = NewColumn.ADD,
    whole: bool = False,
    seen: Shown | None = None,
) -> Loaded:
    """Load the open Parquet file of a row history up to its last step."""
    shown = replace(
        shows(b"", table=table), mode=LoadMode.HISTORY, job=step.job, completed=step.time, sha256=step.sha256
    )
    source = HistoryFile(path=f"{table}.parquet", descriptor=file)
    job = TableLoad(shown=shown, source=source, types=types or {}, on_new_column=on_new_column, whole=whole, seen=seen)
    return target.load(job)


def shows(body: bytes, *, table: str = "users", day: int = 1, mode: LoadMode = LoadMode.LATEST) -> Shown:
    """Return what a table shows after a load of these bytes."""
    return Shown(
        table=table,
        mode=mode,
        account="acme",
        request="request-1",
        job=f"job-{day}",
        completed=BEGIN + timedelta(days=day),
        sha256=hashlib.sha256(body).hexdigest(),
    )
