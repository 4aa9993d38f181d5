"""What a run published, and what it asked for."""

from __future__ import annotations

from dcsync.ops.mirroring.outcome import AccountOutcome
from tests.rigs.mirror import Mirror


def published(outcome: AccountOutcome) -> list[str]:
    return [found.job for found in outcome.published]


def count_lists(mirror: Mirror) -> int:
    """Return how many pages of job lists were read."""
    return sum(call.path.endswith("/jobs") for call in mirror.sandbox.calls)
