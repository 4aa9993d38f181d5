"""kill -9 at random moments by the hundred, some of them while the interpreter starts (docs/project/faults.md D1)."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.rigs.kills import kill_at_random
from tests.rigs.processes import Cold, Starter, forking
from tests.torture.conftest import Figure, pick

#: One in so many starts the interpreter anew.
_COLD_EACH = 10
#: A run that was forked is at work after 0.1 s, a cold one after a second.
_LATEST_S, _LATEST_COLD_S = 0.5, 1.6


@pytest.mark.first
@pytest.mark.timeout(900)
@pytest.mark.parametrize("with_archive", [False, True], ids=["by files", "by archive"])
async def test_kills_at_random_moments_leave_nothing_torn(
    tmp_path: Path, with_archive: bool, chance: random.Random, figure: Figure
) -> None:
    kills, began = pick(250, 50), time.monotonic()
    async with forking(tmp_path) as forked:
        cold = Cold(tmp_path)

        def starter(number: int) -> Starter:
            return forked if number % _COLD_EACH else cold

        killed = await kill_at_random(
            tmp_path,
            with_archive=with_archive,
            kills=kills,
            latest_s=lambda number: _LATEST_S if number % _COLD_EACH else _LATEST_COLD_S,
            starter=starter,
            chance=chance,
        )

    way = "through the archive" if with_archive else "by files"
    figure(
        f"kill -9 at random, {way}",
        f"{killed.kills} kills and {killed.ended} whole runs, {killed.snapshots} snapshots, nothing partial or lost; "
        f"{killed.sent_share:.2f} of the bytes sent; {(time.monotonic() - began) / kills:.2f} s a kill",
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("with_archive", [False, True], ids=["by files", "by archive"])
async def test_kills_while_several_connections_bring_one_file_leave_nothing_torn(
    tmp_path: Path, with_archive: bool, chance: random.Random, figure: Figure
) -> None:
    kills = pick(60, 4)
    async with forking(tmp_path) as forked:
        killed = await kill_at_random(
            tmp_path,
            with_archive=with_archive,
            kills=kills,
            latest_s=lambda _number: 3.0,
            starter=lambda _number: forked,
            chance=chance,
            over_a_long_line=True,
        )

    way = "through the archive" if with_archive else "by files"
    figure(
        f"kill -9 at random over a long line, {way}",
        f"{killed.kills} kills and {killed.ended} whole runs, {killed.snapshots} snapshots, nothing partial or lost; "
        f"{killed.sent_share:.2f} of the bytes sent",
    )
