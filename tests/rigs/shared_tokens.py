"""A token store in its own database, for the tests of both kinds of token stores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from dcsync.cluster.database import Database, parse_database
from dcsync.cluster.manifest import open_shared_manifest
from dcsync.cluster.token_store import DatabaseTokenStore


async def _make(database: Database) -> None:
    async with open_shared_manifest(database):
        pass


@pytest.fixture
def shared_database(database: str) -> Database:
    """A database with the tables of a manifest."""
    ready = parse_database(database)
    with ThreadPoolExecutor(1) as other:  # a loop of a test's own may be running here
        other.submit(asyncio.run, _make(ready)).result()
    return ready


@pytest.fixture
def shared_store(shared_database: Database) -> Callable[[], DatabaseTokenStore]:
    """Opens the same store several times, as several hosts do. The caller closes each."""
    return lambda: DatabaseTokenStore(shared_database, "sandbox")
