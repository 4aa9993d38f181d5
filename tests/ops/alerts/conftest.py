"""What the tests of alerts share: hooks and a notification server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dcsync.manifest import HookRuns, open_manifest
from tests.fakes import FakeClock
from tests.rigs.hooks import Bench
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


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_manifest(tmp_path / "manifest.sqlite") as manifest:
        yield Bench(
            runs=HookRuns(manifest), folder=tmp_path, clock=FakeClock(), environ={"PATH": os.environ["PATH"], "A": "1"}
        )
