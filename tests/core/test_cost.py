"""What a way to the changed files costs in time, and which one is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core import cost
from dcsync.core.cost import CostInputs, Method, Price, Rejection, choose, speed_after

MB = 1_000_000


def make_price(
    way: Method = Method.FILES, seconds: float = 1.0, size: int = 0, calls: int = 1, requests: int = 1
) -> Price:
    return Price(method=way, calls=calls, size=size, requests=requests, seconds=seconds)


AMOUNTS = st.builds(
    make_price, st.none(), st.floats(0.0, 300.0), st.integers(0, 10 * MB), st.integers(0, 99), st.integers(0, 99)
)


@st.composite
def price_lists(draw: st.DrawFn) -> list[Price]:
    """Return the prices of one to three methods."""
    ways = draw(st.lists(st.sampled_from(Method), min_size=1, max_size=3, unique=True))
    return [replace(draw(AMOUNTS), method=way) for way in ways]


def limit_of(prices: Sequence[Price]) -> float:
    """Return the time up to which a method is about as fast as the fastest."""
    fastest = min(price.seconds for price in prices)
    return max(1.2 * fastest, fastest + 1.0)


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


def test_six_times_the_bytes_do_not_buy_a_tenth_of_a_second() -> None:
    ranges, whole = make_price(Method.RANGES, 0.5, 800_000), make_price(Method.WHOLE, 0.4, 4_900_000)

    choice = choose([ranges, whole])

    assert choice.price is ranges
    assert choice.rejected == {Method.WHOLE: Rejection.MORE_BYTES}


@pytest.mark.parametrize(
    ("fastest", "other", "chosen"),
    [
        (0.0, 1.0, Method.RANGES),  # up to a second longer
        (0.0, 1.01, Method.WHOLE),
        (4.0, 5.0, Method.RANGES),
        (10.0, 12.0, Method.RANGES),  # from five seconds on, up to a fifth longer
        (10.0, 12.01, Method.WHOLE),
    ],
)
def test_the_fewest_bytes_win_among_the_ways_about_as_fast_as_the_fastest(
    fastest: float, other: float, chosen: Method
) -> None:
    assert (
        choose([make_price(Method.WHOLE, fastest, 9 * MB), make_price(Method.RANGES, other, MB)]).price.method is chosen
    )


def test_of_as_many_bytes_fewer_calls_win_and_then_the_time() -> None:
    more_calls = make_price(Method.FILES, 1.0, 0, calls=2, requests=1)
    assert choose([more_calls, make_price(Method.RANGES, 1.5, 0, calls=1, requests=2)]).price.method is Method.RANGES
    assert choose([make_price(Method.RANGES, 1.5), make_price(Method.WHOLE, 1.4)]).price.method is Method.WHOLE


def test_a_few_bytes_are_not_worth_twenty_calls() -> None:
    """Twenty files of 40 bytes: the ZIP adds the entries' headers, their URLs would take twenty calls."""
    files = make_price(Method.FILES, 0.2, 800, calls=20, requests=20)

    choice = choose([files, make_price(Method.RANGES, 0.1, 2000)])

    assert choice.price.method is Method.RANGES
    assert choice.rejected == {Method.FILES: Rejection.MORE_CALLS}
    # Each call, with its request to storage, counts for 8 KiB.
    assert choose([files, make_price(Method.RANGES, 0.1, 800 + 19 * 8192)]).price.method is Method.RANGES
    assert choose([files, make_price(Method.RANGES, 0.1, 801 + 19 * 8192)]).price.method is Method.FILES


@given(price_lists())
def test_no_way_about_as_fast_as_the_fastest_moves_fewer_bytes_than_the_chosen_one(prices: list[Price]) -> None:
    choice = choose(prices)

    limit = limit_of(prices)
    assert choice.price.seconds <= limit
    key = (choice.price.moved, choice.price.calls, choice.price.seconds)
    assert all(key <= (price.moved, price.calls, price.seconds) for price in prices if price.seconds <= limit)


@given(price_lists())
def test_every_other_way_is_rejected_for_a_reason_that_is_true(prices: list[Price]) -> None:
    choice = choose(prices)

    chosen, limit = choice.price, limit_of(prices)
    holds = {
        Rejection.SLOWER: lambda price: price.seconds > chosen.seconds,
        Rejection.MORE_BYTES: lambda price: price.seconds <= limit and price.size > chosen.size,
        Rejection.MORE_CALLS: lambda price: price.seconds <= limit and price.calls > chosen.calls,
        Rejection.MORE_REQUESTS: lambda price: price.seconds <= limit and price.requests > chosen.requests,
        Rejection.EQUAL: lambda price: replace(price, method=chosen.method) == chosen,
    }
    assert choice.prices == tuple(prices)
    assert {chosen.method, *choice.rejected} == {price.method for price in prices}
    assert chosen.method not in choice.rejected
    assert all(holds[choice.rejected[price.method]](price) for price in prices if price is not chosen)


@given(price_lists(), st.sets(st.sampled_from(Method)))
def test_only_allowed_ways_are_chosen_unless_there_is_none(prices: list[Price], allowed: set[Method]) -> None:
    choice = choose(prices, allowed)

    if compared := [price for price in prices if price.method in allowed]:
        assert choice.price is choose(compared).price
        assert {way for way, why in choice.rejected.items() if why is Rejection.CONFIGURED} == {
            price.method for price in prices
        } - allowed
    else:
        assert choice.rejected == choose(prices).rejected


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


def test_a_choice_is_told_in_one_line() -> None:
    prices = [
        make_price(Method.FILES, 38.24, 800_000, calls=40),
        make_price(Method.RANGES, 0.44, 800_000),
        make_price(Method.WHOLE, 0.51, 5 << 20),
    ]

    assert choose(prices).describe() == (
        "ranges: 1 call, 781.2 KiB, 0.4 s; "
        "rejected: files: 40 calls, 781.2 KiB, 38.2 s (slower); whole: 1 call, 5.0 MiB, 0.5 s (more bytes)"
    )
    assert (
        choose(prices, [Method.WHOLE])
        .describe()
        .endswith("ranges: 1 call, 781.2 KiB, 0.4 s (not allowed by mirror.strategy)")
    )
    assert choose(prices[:1]).describe() == "files: 40 calls, 781.2 KiB, 38.2 s"


@pytest.mark.parametrize(
    ("rejection", "text"),
    [
        (Rejection.MORE_BYTES, "more bytes"),
        (Rejection.MORE_CALLS, "more calls"),
        (Rejection.MORE_REQUESTS, "more requests"),
        (Rejection.EQUAL, "no better"),
    ],
)
def test_each_reason_to_reject_a_way_reads_as_words(rejection: Rejection, text: str) -> None:
    assert rejection.text == text


def test_the_numbers_of_a_price_are_these() -> None:
    assert (cost.ASSUMED_SPEED, cost.REQUEST_S, cost.EXCHANGE_SIZE) == (12_500_000.0, 0.1, 4096)
    assert (cost.NEARLY_SHARE, cost.NEARLY_S) == (0.2, 1.0)


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


def test_a_transfer_of_one_mebibyte_moves_the_speed_by_three_tenths() -> None:
    assert speed_after(0.0, size=1 << 20, seconds=1.0) == pytest.approx(314_572.8)
    assert speed_after(7.0, size=(1 << 20) - 1, seconds=1.0) == 7.0
