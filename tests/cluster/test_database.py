"""The shared database's address and errors: messages name it and never show secrets."""

from __future__ import annotations

import sys

import pytest
import sqlalchemy as sa

from dcsync.cluster.database import Database, parse_database
from dcsync.cluster.manifest import open_shared_manifest
from dcsync.errors import ConfigError, DatabaseRefused, DatabaseUnreachable, DcsyncError, ManifestError
from tests.rigs.postgres import Postgres

CANARY = "canary-5e1f0c"


async def failure_of(database: Database) -> DcsyncError:
    with pytest.raises(DcsyncError) as caught:
        async with open_shared_manifest(database):
            pass
    return caught.value


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("postgresql://dcsync@db.example/mirror", "mirror at db.example"),
        ("postgres://dcsync@db.example:5433/mirror?sslmode=require", "mirror at db.example:5433"),
        ("postgresql:///mirror", "mirror at this machine"),
        (f"postgresql://dcsync:{CANARY}@db.example/mirror", "mirror at db.example"),
        (f"postgresql://db.example/mirror?user=dcsync&password={CANARY}", "mirror at db.example"),
    ],
)
def test_an_address_is_named_without_its_password(address: str, name: str) -> None:
    database = parse_database(address)

    assert database.shown == f"the database {name}"
    assert CANARY not in repr(database)


@pytest.mark.parametrize(
    "address", [CANARY, f"mysql://u:{CANARY}@h/d", f"postgresql://u:{CANARY}@h:port:x/d?nonsense={CANARY}"]
)
def test_an_invalid_address_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_database(address)

    assert CANARY not in str(caught.value)


def test_a_missing_extra_is_reported_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(ConfigError) as caught:
        parse_database("postgresql://h/d")

    assert "extra cluster" in caught.value.message
    assert "data-connector-mirror[cluster]" in caught.value.advice


async def test_an_unreachable_database_is_a_transient_outage(postgres_server: Postgres) -> None:
    error = await failure_of(parse_database("postgresql://dcsync@127.0.0.1:1/mirror"))

    assert isinstance(error, DatabaseUnreachable)
    assert error.transient
    assert error.message.startswith("the database mirror at 127.0.0.1:1 does not answer: ")
    assert error.message.endswith("Connection refused")


async def test_a_wrong_password_is_a_refusal_and_never_shown(postgres_server: Postgres) -> None:
    address = postgres_server.url("postgres").replace("dcsync@", f"guarded:{CANARY}@")

    error = await failure_of(parse_database(address))

    assert isinstance(error, DatabaseRefused)
    assert 'password authentication failed for user "guarded"' in error.message
    assert CANARY not in error.message


async def test_the_password_may_be_in_the_address_or_where_libpq_looks_for_it(
    postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = postgres_server.fresh().replace("dcsync@", f"guarded:{postgres_server.password}@")
    async with open_shared_manifest(parse_database(address)) as manifest:
        await manifest.set_instance("one")

    monkeypatch.setenv("PGPASSWORD", postgres_server.password)
    async with open_shared_manifest(parse_database(address.replace(f":{postgres_server.password}@", "@"))) as manifest:
        assert await manifest.instance() == "one"


async def test_a_connection_that_the_server_ends_is_an_outage_and_the_next_one_works(database: str) -> None:
    async with open_shared_manifest(parse_database(database)) as manifest:
        with pytest.raises(DatabaseUnreachable):
            async with manifest.writing() as connection:
                await connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

        await manifest.set_instance("one")
        assert await manifest.instance() == "one"


async def test_a_failed_statement_is_reported_without_the_rows(database: str) -> None:
    async with open_shared_manifest(parse_database(database)) as manifest:
        await manifest.set_instance("one")

        with pytest.raises(ManifestError) as caught:
            async with manifest.writing() as connection:
                await connection.execute(sa.text("INSERT INTO meta VALUES ('instance', :value)"), {"value": CANARY})

    assert "duplicate key" in caught.value.message
    assert CANARY not in caught.value.message


async def test_a_commit_is_on_the_server_s_disk_whatever_the_database_is_set_to(
    postgres_server: Postgres, database: str
) -> None:
    """docs/project/design.md, Publish protocol (P6): the commit is the acknowledgement."""
    name = database.rsplit("/", 1)[1]
    postgres_server.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")

    async with open_shared_manifest(parse_database(database)) as manifest, manifest.reading() as connection:
        assert await connection.scalar(sa.text("SHOW synchronous_commit")) == "on"
