"""Figures as people read them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dcsync.core.formatting import age_text, count_text, left_text, share_text, size_text
from tests.fakes import NOON


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1_047_552, "1023.0 KiB"),
        (1 << 20, "1.0 MiB"),
        (5 << 20, "5.0 MiB"),
        (1 << 30, "1.0 GiB"),
        (3 << 30, "3.0 GiB"),
        (1 << 40, "1.0 TiB"),
        (2 << 40, "2.0 TiB"),
        (5000 << 40, "5000.0 TiB"),
        (-2048, "-2.0 KiB"),
        (-5, "-5 B"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("past", "text"),
    [
        (timedelta(seconds=-5), "0 s ago"),
        (timedelta(0), "0 s ago"),
        (timedelta(seconds=119), "119 s ago"),
        (timedelta(seconds=120), "2 min ago"),
        (timedelta(seconds=179), "2 min ago"),
        (timedelta(minutes=90), "90 min ago"),
        (timedelta(minutes=119, seconds=59), "119 min ago"),
        (timedelta(hours=2), "2 h ago"),
        (timedelta(hours=30), "30 h ago"),
        (timedelta(hours=47), "47 h ago"),
        (timedelta(days=2), "2 days ago"),
        (timedelta(days=9, hours=5), "9 days ago"),
    ],
)
def test_ages(past: timedelta, text: str) -> None:
    assert age_text(NOON - past, NOON) == text


def test_never_is_no_age() -> None:
    assert age_text(None, NOON) == "never"


def test_counts() -> None:
    assert count_text(1234567) == "1,234,567"
    assert count_text(None) == "-"


@pytest.mark.parametrize(
    ("size", "of", "text"),
    [
        (0, 0, "0/0 B"),
        (7, 1000, "7/1000 B"),
        (512, 2048, "0.5/2.0 KiB"),
        (1 << 20, 3 << 30, "0.0/3.0 GiB"),
        (3 << 29, 3 << 30, "1.5/3.0 GiB"),
        (1 << 40, 2 << 40, "1.0/2.0 TiB"),
    ],
)
def test_a_part_has_the_unit_of_the_whole(size: int, of: int, text: str) -> None:
    assert share_text(size, of) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-:--"), (0, "0:00"), (42.4, "0:42"), (59.6, "1:00"), (3599, "59:59"), (3723, "1:02:03")],
)
def test_the_time_left_is_that_of_a_clock(seconds: float | None, text: str) -> None:
    assert left_text(seconds) == text
