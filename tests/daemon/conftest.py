"""Fixtures of the daemon tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.rigs.mirror import Mirror, mirroring
from tests.rigs.retries import retries_do_not_wait

__all__ = ["retries_do_not_wait"]


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Mirror]:
    """An empty mirror and an empty sandbox."""
    async with mirroring(tmp_path) as ready:
        yield ready
