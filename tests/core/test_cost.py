"""What a way to the changed files costs in time, and which one is taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core import cost
from dcsync.core.cost import CostInputs, Method, Price, cheapest, describe, speed_after


def make_price(way: Method = Method.FILES, seconds: float = 1.0, size: int = 0, calls: int = 1) -> Price:
    return Price(method=way, calls=calls, size=size, requests=1, seconds=seconds)


@pytest.mark.parametrize(
    ("calls", "size", "requests", "speed", "expected"),
    [
        (0, 0, 0, None, 0.0),
        (57, 0, 0, None, 0.0),  # those that are left go at once
        (58, 0, 0, None, 60.0),
        (114, 0, 0, None, 60.0),
        (115, 0, 0, None, 120.0),
        (1, 12_500_000, 0, None, 1.0),  # a line that nobody has measured
        (1, 12_500_000, 0, 0.0, 1.0),
        (1, 1000, 0, 10.0, 100.0),
        (58, 1000, 0, 10.0, 100.0),
        (58, 100, 0, 10.0, 60.0),
        (1, 0, 4, None, 0.1),
        (1, 1000, 5, 10.0, 100.2),
    ],
)
def test_a_way_takes_as_long_as_the_slower_of_quota_and_line_and_its_requests(
    calls: int, size: int, requests: int, speed: float | None, expected: float
) -> None:
    market = CostInputs(calls_left=57, limit=57, bytes_per_second=speed, slots=4)

    price = market.price(Method.RANGES, calls=calls, size=size, requests=requests)

    assert price.seconds == pytest.approx(expected)
    assert (price.method, price.calls, price.size, price.requests) == (Method.RANGES, calls, size, requests)


def test_the_fastest_way_is_the_cheapest() -> None:
    prices = [make_price(Method.FILES, 2.0), make_price(Method.RANGES, 1.5, 900), make_price(Method.WHOLE, 3.0)]

    assert cheapest(prices).method is Method.RANGES


def test_of_two_ways_as_fast_the_one_with_fewer_calls_then_fewer_bytes_is_taken() -> None:
    assert (
        cheapest([make_price(Method.FILES, 1.01, 8, 3), make_price(Method.RANGES, 1.04, 9, 2)]).method is Method.RANGES
    )
    assert cheapest([make_price(Method.WHOLE, 1.01, 9), make_price(Method.RANGES, 1.04, 8)]).method is Method.RANGES


def test_the_first_transfer_gives_the_speed_and_each_later_one_moves_it() -> None:
    assert speed_after(None, size=10_000_000, seconds=4.0) == 2_500_000.0
    assert speed_after(1_000_000.0, size=10_000_000, seconds=4.0) == pytest.approx(1_450_000.0)


@pytest.mark.parametrize(("size", "seconds"), [((1 << 20) - 1, 1.0), (1 << 20, 0.0), (1 << 20, -1.0)])
@pytest.mark.parametrize("speed", [None, 5.0])
def test_a_transfer_that_says_nothing_of_the_line_is_left_out(speed: float | None, size: int, seconds: float) -> None:
    assert speed_after(speed, size=size, seconds=seconds) == speed


@given(st.floats(1.0, 1e9), st.integers(1 << 20, 1 << 40), st.floats(0.01, 1e5))
def test_the_average_stays_between_what_it_was_and_what_was_measured(speed: float, size: int, seconds: float) -> None:
    after = speed_after(speed, size=size, seconds=seconds)

    assert after is not None
    low, high = sorted([speed, size / seconds])
    assert low * (1 - 1e-9) <= after <= high * (1 + 1e-9)


def test_prices_are_told_in_one_line() -> None:
    told = describe([make_price(Method.FILES, 60.04, 17, 58), make_price(Method.WHOLE, 1.25, 900)])

    assert told == "files: 58 calls, 17 bytes, 60.0 s; whole: 1 calls, 900 bytes, 1.2 s"


def test_the_numbers_of_a_price_are_these() -> None:
    assert (cost.ASSUMED_SPEED, cost.REQUEST_S) == (12_500_000.0, 0.1)


@pytest.mark.parametrize(
    ("requests", "slots", "seconds"),
    [
        (0, 4, 0.0),
        (1, 4, 0.1),
        (4, 4, 0.1),
        (5, 4, 0.2),
        (8, 4, 0.2),
        (9, 4, 0.3),
    ],
)
def test_requests_take_a_tenth_of_a_second_for_each_round_of_slots(requests: int, slots: int, seconds: float) -> None:
    market = CostInputs(calls_left=9, limit=9, bytes_per_second=1.0, slots=slots)

    assert market.price(Method.WHOLE, calls=1, size=0, requests=requests).seconds == pytest.approx(seconds)


def test_seconds_are_compared_to_a_tenth() -> None:
    """Both sides of the rounding: 1.04 and 1.01 are as long as each other, 1.06 is longer."""
    slow, quick = make_price(Method.WHOLE, 1.06, calls=1), make_price(Method.FILES, 1.04, calls=9)

    assert cheapest([slow, quick]).method is Method.FILES


def test_a_transfer_of_one_mebibyte_moves_the_speed_by_three_tenths() -> None:
    assert speed_after(0.0, size=1 << 20, seconds=1.0) == pytest.approx(314_572.8)
    assert speed_after(7.0, size=(1 << 20) - 1, seconds=1.0) == 7.0
