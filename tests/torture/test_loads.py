"""From Autodesk's extract to the user's database: PostgreSQL and DuckDB, with kills, two hosts, and an outage."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from dcsync.sandbox import Options, Sandbox, World
from tests.rigs.hosts import fleet
from tests.rigs.postgres import Postgres
from tests.rigs.processes import Forking, Starter, forking, run_of, said
from tests.rigs.served import TOKEN, Served, served
from tests.rigs.waiting import until

pytestmark = pytest.mark.timeout(600)

TABLES = [f"admin_t{number}" for number in range(6)]


def bodies(day: int, rows: int = 3000) -> dict[str, bytes]:
    """Return the tables of a day. One of them is the same every day."""
    found = {}
    for table in TABLES:
        shown = 0 if table == TABLES[0] else day
        lines = (f'{number},"row ""{number}"" of {table}",{shown}\n' for number in range(rows + shown))
        found[f"{table}.csv"] = ("id,name,day\n" + "".join(lines)).encode()
    return found


def rows_of(body: bytes) -> list[tuple[str, ...]]:
    return sorted(tuple(row) for row in list(csv.reader(io.StringIO(body.decode())))[1:])


def add_day(world: World, day: int) -> str:
    request = next(iter(world.requests), None) or world.add_request("Nightly")
    completed = datetime.now(UTC) - timedelta(days=10 - day)
    return world.add_job(request, completed_at=completed, files=bodies(day), with_archive=False)


def in_postgres(address: str) -> tuple[dict[str, str], dict[str, list[tuple[Any, ...]]]]:
    """Return the job that each table shows, and its rows, all in one view of the database."""
    with psycopg.connect(address) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        if not connection.execute("SELECT to_regclass('acc._dcsync_loads') IS NOT NULL").fetchall()[0][0]:
            return {}, {}
        shown: dict[str, str] = dict(connection.execute("SELECT table_name, job FROM acc._dcsync_loads").fetchall())
        queries = {name: SQL("SELECT * FROM acc.{}").format(Identifier(name)) for name in shown}
        return shown, {name: sorted(connection.execute(query).fetchall()) for name, query in queries.items()}


def in_duckdb(path: Path) -> tuple[dict[str, str], dict[str, list[tuple[Any, ...]]]]:
    """Return the same of a DuckDB file that no other process has open."""
    with duckdb.connect(str(path)) as connection:
        found = connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = '_dcsync_loads'").fetchone()
        if found != (1,):
            return {}, {}
        shown = dict(connection.execute("SELECT table_name, job FROM acc._dcsync_loads").fetchall())
        return shown, {name: sorted(connection.table(f"acc.{name}").fetchall()) for name in shown}


def assert_whole(found: tuple[dict[str, str], dict[str, list[tuple[Any, ...]]]], days: Mapping[str, int]) -> None:
    """Each table has exactly the rows of the snapshot that it shows."""
    shown, rows = found
    for table, job in shown.items():
        assert rows[table] == rows_of(bodies(days[job])[f"{table}.csv"]), (table, job)


@contextmanager
def reading(address: str, table: str) -> Iterator[Callable[[], bool]]:
    """Read a table in a transaction, for which a load of the table has to wait. Yields whether one does."""
    waiting = SQL("SELECT 1 FROM pg_locks WHERE NOT granted AND relation = {}::regclass").format(f"acc.{table}")
    with psycopg.connect(address) as reader, psycopg.connect(address, autocommit=True) as observer:
        reader.execute(SQL("SELECT count(*) FROM acc.{}").format(Identifier(table)))
        yield lambda: bool(observer.execute(waiting).fetchall())


def shows(address: str, job: str) -> bool:
    """Say whether all tables show the snapshot of a job."""
    return set(in_postgres(address)[0].values()) == {job}


def configure(side: Served, address: str, *, with_duckdb: bool = True) -> Path:
    path = side.folder / "target.duckdb"
    lines = ["[[load]]", 'name = "pg"', 'schema = "acc"', f'to = "{address}"']
    if with_duckdb:
        lines += ["[[load]]", 'name = "duck"', 'schema = "acc"', f'to = "duckdb://{path}"']
    side.config.write_text(f"{side.config.read_text()}\n" + "\n".join(lines) + "\n")
    return path


async def run(start: Starter, side: Served, *argv: str) -> int:
    async with run_of(start, *argv, environ=environ(side)) as process:
        return await process.wait()


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Forking]:
    """Starts the commands."""
    async with forking(tmp_path) as ready:
        yield ready


def environ(side: Served) -> dict[str, str]:
    return {TOKEN: side.token, "DCSYNC_CONFIG": str(side.config)}


async def test_a_killed_load_shows_whole_snapshots_and_the_next_one_finishes(
    tmp_path: Path, database: str, start: Forking
) -> None:
    with served(tmp_path) as side:
        path = configure(side, database)
        job = add_day(side.sandbox.world, 1)
        days = {job: 1}
        assert await run(start, side, "sync") == 0, said(tmp_path)
        assert_whole(in_postgres(database), days)
        for day, table in ((2, TABLES[1]), (3, TABLES[3]), (4, TABLES[5])):
            job = add_day(side.sandbox.world, day)
            days[job] = day
            with reading(database, table) as has_waiters:
                async with run_of(start, "sync", environ=environ(side)):
                    await until(has_waiters, "the load of that table")
                # It was killed at the end of that block.
            assert_whole(in_postgres(database), days)
            assert_whole(in_duckdb(path), days)

        assert await run(start, side, "load") == 0, said(tmp_path)
        for found in (in_postgres(database), in_duckdb(path)):
            assert_whole(found, days)
            assert found[0] == dict.fromkeys(TABLES, job)
        assert list((side.root / ".dcsync/load").glob("*.work")) == []


async def test_a_database_that_is_away_delays_no_snapshot_and_no_other_load(
    tmp_path: Path, postgres_server: Postgres, start: Forking
) -> None:
    address = postgres_server.fresh()
    with served(tmp_path) as side:
        path = configure(side, address)
        days = {add_day(side.sandbox.world, 1): 1}
        assert await run(start, side, "sync") == 0
        job = add_day(side.sandbox.world, 2)
        days[job] = 2
        with postgres_server.outage():
            assert await run(start, side, "sync") == 0
            assert in_duckdb(path)[0] == dict.fromkeys(TABLES, job)
            assert await run(start, side, "load") == 3
            assert await run(start, side, "status", "--check") == 3
            assert "[R-LOAD] the load pg into postgresql://127.0.0.1" in (tmp_path / "stdout").read_text()
        assert await run(start, side, "load") == 0, said(tmp_path)

        assert_whole(in_postgres(address), days)
        assert in_postgres(address)[0] == dict.fromkeys(TABLES, job)
        assert await run(start, side, "status", "--check") == 0


async def test_two_hosts_load_each_snapshot_once(tmp_path: Path, postgres_server: Postgres) -> None:
    address = postgres_server.fresh()
    load = f'[[load]]\nto = "{address}"\nschema = "acc"\n'
    async with Sandbox(World(), options=Options(quota_per_minute=None)) as sandbox:
        days = {add_day(sandbox.world, 1): 1}
        async with fleet(tmp_path, sandbox, postgres_server, hosts=2, extra=load) as hosts:
            for host in hosts.hosts:
                await hosts.start(host)
            await hosts.published(1)
            await until(lambda: len(in_postgres(address)[0]) == len(TABLES), "the first load")
            for day in (2, 3):
                job = add_day(sandbox.world, day)
                days[job] = day
                hosts.poll_now(hosts.hosts[day % 2])
                await until(partial(shows, address, job), "the next load")
                assert_whole(in_postgres(address), days)
            statuses = [await hosts.stop(host) for host in hosts.hosts]

            assert statuses == [0, 0]
            assert all(host.said("a bug in dcsync") == 0 for host in hosts.hosts)
            assert hosts.query("SELECT value FROM meta WHERE key = 'broken:'") == []


async def test_doctor_says_that_the_user_may_not_write(
    tmp_path: Path, postgres_server: Postgres, start: Forking
) -> None:
    address = postgres_server.fresh()
    database = address.rpartition("/")[2]
    postgres_server.execute(f"CREATE ROLE {database} LOGIN")
    with served(tmp_path) as side:
        configure(side, address.replace("dcsync@", f"{database}@"), with_duckdb=False)
        await run(start, side, "doctor")
        said_before = (tmp_path / "stdout").read_text()
        postgres_server.execute(f"GRANT CREATE ON DATABASE {database} TO {database}")
        await run(start, side, "doctor")

    assert "warn  load: pg: postgresql://127.0.0.1" in said_before
    assert "ok    load: pg: postgresql://127.0.0.1" in (tmp_path / "stdout").read_text()
    assert postgres_server.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'acc'", database=database) == [
        (0,)
    ]
