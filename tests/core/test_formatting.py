"""Figures as people read them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dcsync.core.formatting import age_text, count_text, size_text
from tests.fakes import NOON


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 20, "5.0 MiB"), (3 << 30, "3.0 GiB"), (2 << 40, "2.0 TiB")],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("past", "text"),
    [
        (timedelta(seconds=-5), "0 s ago"),
        (timedelta(seconds=119), "119 s ago"),
        (timedelta(minutes=90), "90 min ago"),
        (timedelta(hours=30), "30 h ago"),
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
