"""kill -9 of loads at random moments: each table shows exactly one snapshot, the one that its row names."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.rigs.load_kills import goal_of_days
from tests.rigs.postgres import Postgres
from tests.torture.conftest import Figure, pick


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["postgresql", "duckdb", "sqlite", "file"])
def test_a_killed_load_leaves_each_table_at_one_snapshot(
    kind: str, tmp_path: Path, postgres_server: Postgres, chance: random.Random, figure: Figure
) -> None:
    kills = goal_of_days(kind, tmp_path, postgres_server)
    rounds = pick(50, 3)
    for _ in range(rounds):
        kills.kill(chance)
    figure(f"kill -9 of loads at random, {kind}", f"{rounds} kills, each table at one snapshot")
