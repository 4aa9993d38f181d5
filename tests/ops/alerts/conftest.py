"""What the tests of alerts share: a hook that listens, a notification server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.rigs.listener import Listener
from tests.rigs.mirror import Mirror
from tests.rigs.notified import NotificationServer, notification_server


@pytest.fixture
def listener(mirror: Mirror) -> Listener:
    return Listener(mirror)


@pytest.fixture
async def service() -> AsyncIterator[NotificationServer]:
    async with notification_server() as server:
        yield server
