"""kill -9 during a load. The torture does it at many more moments."""

from __future__ import annotations

import random
from pathlib import Path

from tests.rigs.load_kills import goal_of_days
from tests.rigs.postgres import Postgres


def test_a_killed_load_leaves_each_table_at_one_snapshot(tmp_path: Path, postgres_server: Postgres) -> None:
    kills = goal_of_days("postgresql", tmp_path, postgres_server)
    kills.kill(random.Random(20))
