"""What the tests of alerts share: a hook that listens, a notification server, and retries that do not wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import stamina

from tests.rigs.listener import Listener
from tests.rigs.mirror import Mirror
from tests.rigs.notified import NotificationServer, notification_server


@pytest.fixture(autouse=True)
def _retries_without_waits() -> Iterator[None]:
    with stamina.set_testing(True, attempts=100):
        yield


@pytest.fixture
def listener(mirror: Mirror) -> Listener:
    return Listener(mirror)


@pytest.fixture
async def service() -> AsyncIterator[NotificationServer]:
    async with notification_server() as server:
        yield server
