"""kill -9 of a build: the old file or the new one, and the next build goes on. The torture does it at every call."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rigs.history_kills import history_kills
from tests.rigs.proved_kills import WORK, proved_kills


@pytest.mark.timeout(300)
async def test_a_killed_build_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    async with history_kills(tmp_path) as kills:
        points = await kills.points()
        assert await kills.kill_at(points * 2 // 3)


@pytest.mark.timeout(300)
async def test_a_kill_while_proved_windows_leave_their_snapshots_loses_no_row(tmp_path: Path) -> None:
    async with proved_kills(tmp_path) as kills:
        for work in WORK:
            points = await kills.points(work)
            assert await kills.kill_at(work, points * 2 // 3)
