"""What the daemon's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import stamina


@pytest.fixture(autouse=True)
def retries_do_not_wait() -> Iterator[None]:
    """Let retries of one call come at once: they would wait in real time. All else waits on the virtual clock."""
    with stamina.set_testing(True, attempts=100):
        yield
