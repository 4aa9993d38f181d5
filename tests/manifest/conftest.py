"""What the tests of the manifest share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from dcsync.cluster.database import Database, parse_database
from dcsync.cluster.manifest import open_shared_manifest
from dcsync.manifest import SqlManifest
from tests.rigs.manifests import Opener, open_sqlite
from tests.rigs.postgres import Postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def opener(request: pytest.FixtureRequest) -> Opener:
    """Opens a manifest in a folder; the same folder gives the same manifest again."""
    if request.param == "sqlite":
        return open_sqlite
    server: Postgres = request.getfixturevalue("postgres_server")
    databases: dict[Path, Database] = {}

    def open_postgres(folder: Path) -> AbstractAsyncContextManager[SqlManifest]:
        return open_shared_manifest(databases.setdefault(folder, parse_database(server.fresh())))

    return open_postgres


@pytest.fixture
async def manifest(opener: Opener, tmp_path: Path) -> AsyncIterator[SqlManifest]:
    """An empty manifest."""
    async with opener(tmp_path) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "manifest.sqlite"
