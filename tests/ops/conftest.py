"""What the tests of whole runs share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.rigs.mirror import Mirror, mirroring
from tests.rigs.retries import retries_do_not_wait

__all__ = ["retries_do_not_wait"]


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Mirror]:
    """An empty mirror and a sandbox with nothing in it yet."""
    async with mirroring(tmp_path) as ready:
        yield ready
