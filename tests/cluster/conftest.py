"""What the tests of several hosts share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.rigs.mirror import Mirror, mirroring
from tests.rigs.retries import retries_do_not_wait
from tests.rigs.shared_tokens import shared_database, shared_store

__all__ = ["retries_do_not_wait", "shared_database", "shared_store"]


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Mirror]:
    """An empty mirror and a sandbox with nothing in it yet."""
    async with mirroring(tmp_path) as ready:
        yield ready
