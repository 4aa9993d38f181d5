"""Days and times."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from dcsync.core.moment import end_of, is_moment

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("2026-11-01", "2026-11-01T22:59:59.999999+00:00"),
        # The day on which summer time ends has 25 hours.
        ("2026-10-25", "2026-10-25T22:59:59.999999+00:00"),
        ("2026-11-01T08:00", "2026-11-01T07:00:00+00:00"),
        ("2026-11-01 08:00:30", "2026-11-01T07:00:30+00:00"),
        ("2026-11-01T08:00Z", "2026-11-01T08:00:00+00:00"),
        ("2026-11-01T08:00+02:00", "2026-11-01T06:00:00+00:00"),
    ],
)
def test_a_day_ends_in_its_zone_and_a_time_is_exact(word: str, expected: str) -> None:
    assert is_moment(word)
    assert end_of(word, BERLIN).astimezone(UTC) == datetime.fromisoformat(expected)


@pytest.mark.parametrize("word", ["2026-02-30", "2026-11-01T25:00", "2026-11-01T08:00 o'clock", "9999-12-31"])
def test_a_day_that_does_not_exist_is_refused(word: str) -> None:
    assert is_moment(word)
    with pytest.raises((ValueError, OverflowError)):
        end_of(word, BERLIN)


@pytest.mark.parametrize("word", ["latest", "9bd7c8a0", "2026-11", "20261101", ""])
def test_other_words_are_no_moments(word: str) -> None:
    assert not is_moment(word)
