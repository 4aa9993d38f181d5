"""Retries of calls without their waits, which would be in real time. Everything else waits on the virtual clock.

A `conftest.py` imports the fixture for all tests of its folder.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import stamina


@pytest.fixture(autouse=True)
def retries_do_not_wait() -> Iterator[None]:
    with stamina.set_testing(True, attempts=100):
        yield
