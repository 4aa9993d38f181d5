"""kill -9 of the daemon while it carries out an order of each kind, once. The torture does it at many moments."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcsync.cli.orders import works
from tests.rigs.order_kills import KINDS, order_kills

#: Every order changes a file by then, so it is under way.
AFTER = 3


@pytest.mark.timeout(300)
async def test_a_command_hears_of_the_end_and_the_next_daemon_goes_on(tmp_path: Path) -> None:
    assert KINDS.keys() == {"verify --repair" if name == "verify" else name for name in works()}
    async with order_kills(tmp_path) as kills:
        for kind in KINDS:
            # A poll is answered before it begins.
            while not await kills.kill_during(kind, AFTER) and kind != "poll":
                pass

        await kills.assert_in_order()
    assert kills.killed >= len(KINDS) - 1
