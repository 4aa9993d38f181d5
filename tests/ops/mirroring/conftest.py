"""What the tests of mirroring share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes import make_request
from tests.rigs.canned import CannedApi
from tests.rigs.due import Observer, Rig
from tests.rigs.listener import Listener
from tests.rigs.mirror import Mirror
from tests.rigs.publishing import Workbench, workbench


@pytest.fixture
async def bench(mirror: Mirror) -> AsyncIterator[Workbench]:
    """An open mirror in which jobs are staged and published by hand."""
    async with workbench(mirror) as ready:
        yield ready


@pytest.fixture
def listener(mirror: Mirror) -> Listener:
    """A hook that hears everything."""
    return Listener(mirror)


@pytest.fixture
def rig(bench: Workbench) -> Rig:
    return Rig(bench=bench, api=CannedApi(requests=[make_request()]), observer=Observer())
