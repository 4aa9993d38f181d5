"""The quota as the server would count it."""

from __future__ import annotations

from collections.abc import Sequence


def most_in_a_minute(times: Sequence[float]) -> int:
    """Return the most calls that any minute holds, both of its ends included, wherever it begins."""
    ordered = sorted(times)
    most = first = 0
    for last, at in enumerate(ordered):
        while at - ordered[first] > 60.0:
            first += 1
        most = max(most, last - first + 1)
    return most
