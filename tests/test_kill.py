"""kill -9 at random moments, start again, and look for anything torn (fault D1): a few of the torture's hundreds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.rigs.kills import kill_at_random
from tests.rigs.processes import Cold

#: Of each kind.
KILLS = 3
#: From before the first import to well into the downloads of a run of about two seconds.
LATEST_S = 2.0


@pytest.mark.parametrize("with_archive", [False, True], ids=["by files", "by archive"])
async def test_kills_at_random_moments_leave_nothing_torn(tmp_path: Path, with_archive: bool) -> None:
    chance = random.Random(20261123)

    killed = await kill_at_random(
        tmp_path,
        with_archive=with_archive,
        kills=KILLS,
        latest_s=lambda _: LATEST_S,
        starter=lambda _: Cold(tmp_path),
        chance=chance,
    )

    assert killed.kills == KILLS
