"""Fixtures of the daemon tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import stamina

from tests.rigs.mirror import Mirror, mirroring


@pytest.fixture(autouse=True)
def retries_do_not_wait() -> Iterator[None]:
    """Retry API calls without a wait, which would be real time. Everything else waits on the virtual clock."""
    with stamina.set_testing(True, attempts=100):
        yield


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Mirror]:
    """An empty mirror and an empty sandbox."""
    async with mirroring(tmp_path) as ready:
        yield ready
