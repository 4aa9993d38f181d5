"""kill -9 of the daemon at many moments of each order that it carries out for a command (docs/project/faults.md D1)."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from dcsync.cli.orders import works
from tests.rigs.order_kills import KINDS, order_kills
from tests.torture.conftest import Figure, pick

#: The changes of files by an order, some of them fewer. A kill after its end meets the daemon at rest.
_MOST = 60
#: Every order changes a file by then, so it is under way.
_EARLY = 3


@pytest.mark.timeout(1800)
async def test_a_kill_during_any_order_is_an_error_of_the_command_and_harms_nothing(
    tmp_path: Path, chance: random.Random, figure: Figure
) -> None:
    began, rounds = time.monotonic(), pick(25, 4)
    met, sent = Counter[str](), 0
    assert KINDS.keys() == {"verify --repair" if name == "verify" else name for name in works()}
    async with order_kills(tmp_path) as kills:
        for number in range(rounds):
            for kind in chance.sample(list(KINDS), len(KINDS)):
                sent += 1
                met[kind] += await kills.kill_during(kind, chance.randrange(1, _MOST) if number else _EARLY)
        await kills.assert_in_order()
    # A poll is answered before it begins.
    assert {kind for kind, count in met.items() if count} | {"poll"} == set(KINDS)
    figure(
        "kill -9 of the daemon during the orders of commands",
        f"{sum(met.values())} of {sent} orders cut short, each with D-DAEMON, exit status 3; nothing partial or lost; "
        f"the next daemon starts; {(time.monotonic() - began) / sent:.2f} s an order",
    )
