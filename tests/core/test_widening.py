"""More connections while they make a download faster, on lines of every kind."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.widening import HOLD_S, MEASURE_S, SETTLE_S, Widening

MB = 1_000_000
#: Much more than any of these lines delivers during a test.
LONG = 1 << 50


def play(
    rate: Callable[[int, float], float],
    *,
    rest: int = LONG,
    limit: int = 16,
    seconds: float = 8.0,
    answer_s: float = 0.0,
    widening: Widening | None = None,
    began: float = 0.0,
) -> list[int]:
    """Return the number of connections at each 50 ms of a line. `rate` is its bytes a second, by connections and time.

    New connections receive `answer_s` after they were asked for.
    """
    widening = widening or Widening(began)
    numbers, now, used, since = [], began, 1, began
    while now < began + seconds:
        now += 0.05
        receiving = used if now - since >= answer_s else 1
        widening.count(int(rate(receiving, now) * 0.05))
        wanted = widening.connections(now, rest=rest, receiving=receiving, limit=limit)
        if wanted != used:
            used, since = wanted, now
        numbers.append(wanted)
    return numbers


def each_gets(per_connection: float, *, line: float = float("inf")) -> Callable[[int, float], float]:
    """Return a line on which each connection gets so much, and all of them not more than `line`."""
    return lambda connections, _now: min(line, connections * per_connection)


def test_connections_that_are_limited_one_by_one_are_added_up_to_the_limit() -> None:
    numbers = play(each_gets(10 * MB))

    assert numbers[0] == 1
    assert max(numbers) == numbers[-1] == 16


def test_it_never_takes_more_than_its_limit() -> None:
    assert max(play(each_gets(10 * MB), limit=5)) == 5


def test_a_line_that_one_connection_fills_keeps_one_and_is_tried_again_later() -> None:
    numbers = play(each_gets(100 * MB, line=100 * MB), seconds=60)

    assert numbers.count(1) > 0.9 * len(numbers)
    assert set(numbers) == {1, 16}
    steps = sum(before == 1 and after == 16 for before, after in pairwise(numbers))
    # Each time twice as long after the time before, beginning with a second.
    assert steps == 6


def test_a_line_that_four_connections_fill_keeps_four() -> None:
    numbers = play(each_gets(10 * MB, line=40 * MB), seconds=6)

    assert numbers[-1] == 4
    assert 16 in numbers


def test_a_download_that_is_nearly_done_gets_no_more_connections() -> None:
    assert set(play(each_gets(10 * MB), rest=4 * MB)) == {1}


def test_a_download_gets_as_many_as_end_it_soon() -> None:
    assert set(play(each_gets(10 * MB), rest=28 * MB)) == {1, 6}


def test_one_bad_measurement_does_not_end_it() -> None:
    """A server may send the first second of bytes at once and then wait."""
    numbers = play(lambda connections, now: 200 * MB if now <= MEASURE_S else connections * 10 * MB, seconds=20)

    assert numbers[-1] == 16


def test_a_long_line_is_measured_for_longer() -> None:
    """Over an ocean a connection takes half a second to answer, and as long again to become fast."""
    answer_s = 0.5
    changed = 0.0

    def begins_slowly(connections: int, now: float) -> float:
        return 5 * MB if connections == 1 or now - changed < 2 * answer_s else connections * 5 * MB

    numbers = play(begins_slowly, answer_s=answer_s)

    assert numbers[-1] == 16
    assert set(numbers[numbers.index(16) :]) == {16}


def test_a_line_that_brings_nothing_at_first_is_used_later() -> None:
    numbers = play(lambda connections, now: 0.0 if now < 1 else connections * 10 * MB)

    assert numbers[-1] == 16


def test_connections_that_never_answer_do_not_stop_the_measuring() -> None:
    numbers = play(lambda _connections, _now: 10 * MB, answer_s=1000.0, seconds=10 * SETTLE_S)

    assert set(numbers) == {1, 16}
    assert 1 in numbers[numbers.index(16) :]


def test_a_refused_connection_takes_the_last_step_back() -> None:
    widening = Widening(0.0)
    play(each_gets(10 * MB), widening=widening, seconds=4)

    widening.refuse(4.0)

    held = play(each_gets(10 * MB), widening=widening, began=4.0, seconds=HOLD_S - 0.1)
    assert set(held) == {4}
    later = play(each_gets(10 * MB), widening=widening, began=4.0 + HOLD_S, seconds=3)
    assert later[-1] == 16


def test_fewer_connections_than_one_are_never_asked_for() -> None:
    widening = Widening(0.0)

    for _ in range(5):
        widening.refuse(1.0)

    assert widening.connections(1.1, rest=LONG, receiving=1, limit=16) == 1


def test_a_limit_that_falls_is_kept_and_one_that_rises_is_used() -> None:
    widening = Widening(0.0)
    play(each_gets(10 * MB), widening=widening, seconds=4)

    shared = play(each_gets(10 * MB), widening=widening, began=4.0, seconds=4, limit=3)
    alone = play(each_gets(10 * MB), widening=widening, began=8.0, seconds=1)

    assert set(shared) == {3}
    assert alone[-1] == 16


def test_a_limit_that_rises_later_is_used_without_a_hold() -> None:
    widening = Widening(0.0)
    play(each_gets(10 * MB), widening=widening, seconds=4, limit=3)

    assert play(each_gets(10 * MB), widening=widening, began=4.0, seconds=2)[-1] == 16


@given(
    per_connection=st.integers(min_value=1000, max_value=10**9),
    line=st.integers(min_value=1000, max_value=10**10),
    limit=st.integers(min_value=1, max_value=64),
    answer_s=st.floats(min_value=0, max_value=2),
)
def test_on_any_line_it_ends_with_a_number_that_is_worth_it(
    per_connection: int, line: int, limit: int, answer_s: float
) -> None:
    rate = each_gets(per_connection, line=line)

    numbers = play(rate, limit=limit, answer_s=answer_s, seconds=30)

    assert all(1 <= number <= limit for number in numbers)
    # Most of the time it has at least a quarter of the rate that the limit allows: a step is a factor of four.
    good = sum(rate(number, 0) * 4 >= rate(limit, 0) for number in numbers)
    assert good > len(numbers) / 2
