"""How often a statement wakes the connection's thread, and that nothing of it is lost."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
import sqlalchemy as sa

from dcsync.core.ports import AccountFacts
from dcsync.manifest import SqlManifest, open_manifest
from dcsync.manifest.connection import Connection
from dcsync.manifest.state import StoredValues
from tests.rigs.sqlite import ACME, fill, raw

#: More rows than a cursor fetches together with its statement, and not twice as many.
ROWS = 300
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) SELECT i FROM n"


@pytest.fixture
async def manifest(path: Path) -> AsyncIterator[SqlManifest]:
    async with open_manifest(path) as opened:
        yield opened


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    """A connection as SQLAlchemy uses it."""
    made = Connection(lambda: sqlite3.connect(":memory:", isolation_level=None), iter_chunk_size=64)
    async with made:
        yield made


async def test_a_value_is_read_in_two_calls_of_the_thread(
    manifest: SqlManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = StoredValues(manifest)
    await values.save("key", "value")
    calls = []
    execute: Any = aiosqlite.Connection._execute

    async def counted(self: aiosqlite.Connection, function: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(function)
        return await execute(self, function, *arguments, **options)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)

    assert await values.load("key") == "value"

    # The statement with its transaction and its rows, and the transaction's end.
    assert len(calls) == 2


@pytest.mark.parametrize("limit", [0, 1, 255, 256, 257, ROWS])
async def test_every_row_comes_once_however_many_there_are(manifest: SqlManifest, limit: int) -> None:
    query = sa.text(f"{NUMBERS} LIMIT {limit}")

    async with manifest.reading() as reading:
        at_once = [row.i for row in await reading.execute(query)]
        async with reading.stream(query.execution_options(yield_per=100)) as result:
            in_parts = [row.i async for row in result]

    assert at_once == in_parts == list(range(1, limit + 1))


@pytest.mark.parametrize("limit", [0, 2, 256, 257, ROWS])
async def test_rows_can_be_fetched_one_by_one_in_parts_and_to_the_end(connection: Connection, limit: int) -> None:
    async with connection.cursor() as cursor:
        await cursor.execute(f"{NUMBERS} LIMIT {limit}")
        rows: list[Any] = [row for row in [await cursor.fetchone()] if row is not None]
        rows += await cursor.fetchmany()  # one, as of every cursor
        rows += await cursor.fetchmany(254)
        rows += await cursor.fetchmany(20)
        rows += await cursor.fetchall()

        assert rows == [(number,) for number in range(1, limit + 1)]
        assert await cursor.fetchone() is None
        assert (await cursor.fetchmany(5), await cursor.fetchall()) == ([], [])


async def test_many_parameters_are_one_statement(connection: Connection) -> None:
    async with connection.cursor() as cursor:
        await cursor.execute("CREATE TABLE number (i INTEGER)")
    async with connection.cursor() as cursor:
        await cursor.executemany("INSERT INTO number VALUES (?)", [(1,), (2,)])
        assert cursor.rowcount == 2
    async with connection.cursor() as cursor:
        await cursor.execute("SELECT i FROM number WHERE i > ?", (1,))
        assert [column[0] for column in cursor.description] == ["i"]
        assert [row[0] for row in await cursor.fetchall()] == [2]


async def test_a_cursor_that_was_not_read_to_its_end_does_not_hold_the_file(path: Path, manifest: SqlManifest) -> None:
    async with manifest.reading() as reading, reading.stream(sa.text(NUMBERS).execution_options(yield_per=1)) as result:
        await result.fetchone()

    with raw(path) as other:
        other.execute("BEGIN EXCLUSIVE")


async def test_a_transaction_begins_with_its_first_statement(path: Path, manifest: SqlManifest) -> None:
    await manifest.learn(ACME, AccountFacts(error="before"))

    async with manifest.writing() as writing:
        with raw(path) as other:
            other.execute("UPDATE account SET error = 'meanwhile'")
        await writing.execute(sa.text("UPDATE account SET error = error || ', and after'"))
        with raw(path) as other, pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")

    assert await manifest.facts(ACME) == AccountFacts(error="meanwhile, and after")


async def test_a_transaction_without_a_statement_leaves_none_behind(path: Path, manifest: SqlManifest) -> None:
    async with manifest.writing():
        pass
    async with manifest.reading() as reading:
        await reading.execute(sa.text("SELECT 1"))
        with raw(path) as other:
            other.execute("BEGIN IMMEDIATE")


async def test_a_reader_waits_for_no_writer(path: Path) -> None:
    await fill(path)
    async with open_manifest(path) as manifest:
        with raw(path) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("UPDATE account SET error = 'not yet'")

            assert (await manifest.facts(ACME)).error is None
