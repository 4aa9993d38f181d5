"""What the tests of several hosts share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import stamina

from tests.rigs.mirror import Mirror, mirroring
from tests.rigs.shared_tokens import shared_database, shared_store

__all__ = ["shared_database", "shared_store"]


@pytest.fixture(autouse=True)
def retries_do_not_wait() -> Iterator[None]:
    """Let retries of one call come at once: they would wait in real time. All else waits on the virtual clock."""
    with stamina.set_testing(True, attempts=100):
        yield


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Mirror]:
    """An empty mirror and a sandbox with nothing in it yet."""
    async with mirroring(tmp_path) as ready:
        yield ready
