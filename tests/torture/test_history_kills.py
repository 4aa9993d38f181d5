"""A kill before every call with which a build of row histories changes a file, and 1,000 random histories."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings

from dcsync.rows import opened
from tests.rigs.history_kills import history_kills
from tests.rigs.proved_kills import WORK, proved_kills
from tests.rigs.row_histories import Day, check_history, histories
from tests.torture.conftest import Figure, pick


@pytest.mark.timeout(3600)
async def test_a_kill_before_any_call_of_a_build_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, chance: random.Random, figure: Figure
) -> None:
    killed = 0
    async with history_kills(tmp_path) as kills:
        points = await kills.points()
        step = pick(1, max(1, points // 6))
        for number in range(1 + chance.randrange(step), points + 1, step):
            killed += await kills.kill_at(number)
    assert killed
    figure("kill before each call of a build of row histories", f"{killed} kills at {points} points, every file whole")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("work", WORK)
async def test_a_kill_before_any_call_loses_no_row_of_proved_windows(
    tmp_path: Path, chance: random.Random, figure: Figure, work: str
) -> None:
    killed = 0
    async with proved_kills(tmp_path) as kills:
        points = await kills.points(work)
        step = pick(1, max(1, points // 3))
        for number in range(1 + chance.randrange(step), points + 1, step):
            killed += await kills.kill_at(work, number)
    assert killed
    figure(f"kill before each call of {work} with proved windows", f"{killed} kills at {points} points, no row lost")


@pytest.mark.timeout(3600)
def test_every_day_of_a_thousand_random_histories_is_its_csv(figure: Figure) -> None:
    rounds, days = pick(1000, 100), 0

    with opened(memory=512 << 20, spill=None) as engine:

        @settings(max_examples=rounds, deadline=None, suppress_health_check=list(HealthCheck))
        @given(histories())
        def check(found: list[Day]) -> None:
            nonlocal days
            days += len(found)
            with TemporaryDirectory() as folder:
                check_history(Path(folder), engine, found)

        check()
    figure("random row histories", f"{rounds} histories with {days} days, each day its CSV")
