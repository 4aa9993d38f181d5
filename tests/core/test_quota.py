"""The quota holds in every minute, whatever happens; waits are what was asked for, within bounds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core import quota
from tests.fakes import NOON

HTTP_DATE_PARTS = st.sampled_from(
    ["Mon, ", "22 ", "Nov ", "2026 ", "12:00:00 ", "GMT", "+0000", "-9999", "99999999999", "0 ", ":", ",", " "]
)


@pytest.mark.parametrize(("requests_per_minute", "expected"), [(60, 57), (50, 48), (20, 19), (19, 19), (1, 1), (0, 1)])
def test_a_twentieth_of_the_quota_stays_in_reserve(requests_per_minute: int, expected: int) -> None:
    assert quota.usable(requests_per_minute) == expected


def test_a_call_counts_for_a_minute_and_a_margin() -> None:
    calls = [139.5, 99.0, 100.0, 140.0]

    # 140 - 61 = 79: the margin is part of the window.
    assert quota.within_window([79.0, 79.5, *calls], 140.0) == [79.5, 99.0, 100.0, 139.5, 140.0]


def test_a_call_from_before_a_reboot_does_not_count() -> None:
    assert quota.within_window([5_000_000.0, 17.5], 12.0) == []


def test_a_call_that_another_process_dated_a_little_ahead_counts() -> None:
    assert quota.within_window([17.0, 12.5], 12.0) == [12.5, 17.0]
    assert quota.wait_before_next([17.0], limit=1, now=12.0) == 66.0


def test_below_the_limit_the_next_call_goes_at_once() -> None:
    assert quota.wait_before_next([99.0, 100.0], limit=3, now=100.0) == 0.0


def test_at_the_limit_the_next_call_waits_until_the_oldest_leaves_the_window() -> None:
    assert quota.wait_before_next([70.0, 80.0, 90.0], limit=3, now=100.0) == 31.0


def test_above_the_limit_as_many_must_leave_as_are_too_many() -> None:
    assert quota.wait_before_next([70.0, 80.0, 90.0, 95.0], limit=3, now=100.0) == 41.0


@pytest.mark.parametrize(("paused_until", "expected"), [(99.5, 0.0), (100.0, 0.0), (100.5, 0.5)])
def test_a_pause_that_is_over_takes_no_time_and_gives_none_back(paused_until: float, expected: float) -> None:
    assert quota.wait_before_next([], limit=1, now=100.0, paused_until=paused_until) == expected


@pytest.mark.parametrize(("paused_until", "expected"), [(0.0, 31.0), (110.0, 31.0), (150.0, 50.0)])
def test_a_pause_and_the_window_are_waited_for_together(paused_until: float, expected: float) -> None:
    assert quota.wait_before_next([70.0], limit=1, now=100.0, paused_until=paused_until) == expected


def test_a_pause_is_waited_for_below_the_limit_too() -> None:
    assert quota.wait_before_next([], limit=1, now=100.0, paused_until=107.5) == 7.5


@given(
    gaps=st.lists(st.floats(0.0, 90.0), min_size=1, max_size=80),
    limit=st.integers(1, 12),
    start=st.floats(0.0, 1e6),
    pauses=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=5),
)
def test_no_sliding_minute_ever_has_more_calls_than_the_limit(
    gaps: list[float], limit: int, start: float, pauses: list[float]
) -> None:
    calls: list[float] = []
    now = start

    for index, gap in enumerate(gaps):
        now += gap if index % 3 == 0 else 0.0
        now += quota.wait_before_next(calls, limit=limit, now=now, paused_until=pauses[index % len(pauses)])
        assert now >= pauses[index % len(pauses)] - 1e-6
        calls.append(now)

    for first, last in zip(calls, calls[limit:], strict=False):
        assert last - first > 60.0


@given(st.integers(1, 60), st.floats(0.0, 1e6))
def test_a_burst_goes_out_without_a_wait_and_then_waits_one_window(limit: int, now: float) -> None:
    calls: list[float] = []
    for _ in range(limit):
        assert quota.wait_before_next(calls, limit=limit, now=now) == 0.0
        calls.append(now)

    assert quota.wait_before_next(calls, limit=limit, now=now) == pytest.approx(61.0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("30", 30.0),
        (" 30 ", 30.0),
        ("0", 1.0),
        ("3600", 3600.0),
        ("3601", 3600.0),
        ("9" * 5000, 3600.0),
        ("Sun, 22 Nov 2026 12:00:42 GMT", 42.0),
        ("Sun, 22 Nov 2026 13:00:42 +0100", 42.0),
        ("Sun, 22 Nov 2026 12:00:42 -0000", 42.0),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 1.0),
        ("Mon, 23 Nov 2026 12:00:00 GMT", 3600.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("1.5", None),
        ("-5", None),
        ("٣", None),
        ("²", None),
        ("Sun, 99 Nov 2026 12:00:00 GMT", None),
        ("-Nov-2026 12:00:00 GMT", None),
        ("22-Nov- 12:00:00 GMT", None),
        ("Sun, 22 Nov 99999999999999999999 12:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date_between_a_second_and_an_hour(
    value: str | None, expected: float | None
) -> None:
    assert quota.parse_retry_after(value, NOON) == expected


@given(st.integers(min_value=0))
def test_any_number_of_seconds_is_kept_within_a_second_and_an_hour(seconds: int) -> None:
    assert quota.parse_retry_after(str(seconds), NOON) == min(3600.0, max(1.0, float(min(seconds, 10_000))))


@given(st.integers(-100_000, 100_000))
def test_any_date_is_kept_within_a_second_and_an_hour(seconds: int) -> None:
    date = format_datetime(NOON + timedelta(seconds=seconds), usegmt=True)

    assert quota.parse_retry_after(date, NOON) == min(3600.0, max(1.0, float(seconds)))


@given(
    st.text(st.characters(codec=None)) | st.lists(HTTP_DATE_PARTS, max_size=8).map("".join),
    st.datetimes(timezones=st.just(UTC)),
)
def test_any_retry_after_gives_a_second_to_an_hour_or_nothing(value: str, now: datetime) -> None:
    asked = quota.parse_retry_after(value, now)

    assert asked is None or 1.0 <= asked <= 3600.0


@pytest.mark.parametrize(
    ("attempt", "draw", "expected"),
    [(1, 1.0, 2.0), (2, 1.0, 4.0), (4, 0.5, 8.0), (5, 1.0, 30.0), (10_000, 1.0, 30.0), (3, 0.0, 0.0)],
)
def test_backoff_draws_below_a_bound_that_doubles_up_to_its_cap(attempt: int, draw: float, expected: float) -> None:
    assert quota.backoff(attempt, base_s=2.0, cap_s=30.0, draw=draw) == expected


def test_the_numbers_of_the_quota_are_these() -> None:
    """Written by hand: the first is the API's, the others decide how long a run waits."""
    assert (quota.WINDOW_S, quota.WINDOW_MARGIN_S, quota.AHEAD_S) == (60.0, 1.0, 5.0)
    assert (quota.MIN_PAUSE_S, quota.MAX_PAUSE_S, quota.MAX_BACKOFF_S) == (1.0, 3600.0, 300.0)


def test_a_call_counts_up_to_five_seconds_ahead_and_for_less_than_61_seconds() -> None:
    assert quota.within_window([105.0, 105.001], 100.0) == [105.0]
    assert quota.within_window([39.0, 39.001], 100.0) == [39.001]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("0", 1.0), ("1", 1.0), ("2", 2.0), ("3599", 3599.0), ("3600", 3600.0), ("3601", 3600.0), ("9" * 21, 3600.0)],
)
def test_a_retry_after_is_kept_between_a_second_and_an_hour(header: str, seconds: float) -> None:
    assert quota.parse_retry_after(header, NOON) == seconds


@pytest.mark.parametrize(
    ("attempt", "bound"), [(1, 1.0), (2, 2.0), (6, 32.0), (33, 2.0**32), (34, 2.0**32), (9999, 2.0**32)]
)
def test_the_bound_of_a_backoff_doubles_up_to_the_33rd_attempt(attempt: int, bound: float) -> None:
    assert quota.backoff(attempt, base_s=1.0, cap_s=1e12, draw=1.0) == bound


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("Sun, 22 Nov 2026 11:59:00 GMT", 60.0),
        ("Sun, 22 Nov 2026 12:00:30 GMT", -30.0),
        ("Sun, 22 Nov 2026 13:00:00 +0100", 0.0),
        ("Sun, 22 Nov 2026 12:00:00 -0000", None),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_the_difference_of_the_clocks_is_that_to_the_date_header(date: str | None, seconds: float | None) -> None:
    assert quota.skew(date, datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)) == seconds
