"""Jobs for the command line to mirror."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.rigs.mirror import tables
from tests.rigs.served import Served


def add_job(side: Served, *, description: str = "Nightly", days_ago: float = 0.0, seed: int = 0) -> str:
    world = side.sandbox.world
    request = next((entry.id for entry in world.requests.values() if entry.description == description), None)
    request = request or world.add_request(description)
    completed = datetime.now(UTC) - timedelta(days=days_ago)
    return world.add_job(request, completed_at=completed, files=tables(3, seed=seed), with_archive=False)


def snapshot(side: Served) -> Path:
    (found,) = side.root.glob("acme/*/[0-9]*/**/_dcsync.json")
    return found.parent
