"""A line over time as numbers."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.chart import HEIGHT, MOST_POINTS, SPARK_HEIGHT, SPARK_WIDTH, WIDTH, Point, chart, spark
from tests.fakes import NOON


def points(*values: int, days: float = 1.0) -> list[Point]:
    return [Point(at=NOON + timedelta(days=days * index), value=value) for index, value in enumerate(values)]


def places(line: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())]


def test_fewer_than_two_points_are_no_course() -> None:
    assert chart([]) is None
    assert chart(points(5)) is None
    assert spark([5]) == ""


def test_the_line_goes_from_edge_to_edge_and_from_zero_up_to_the_most() -> None:
    drawn = chart(points(0, 50, 100))

    assert drawn is not None
    assert drawn.line == "4.0,116.0 300.0,60.0 596.0,4.0"
    assert drawn.area == "4.0,116 4.0,116.0 300.0,60.0 596.0,4.0 596.0,116"
    assert (drawn.least, drawn.most, drawn.first.value, drawn.last.value) == (0, 100, 0, 100)


def test_points_stand_where_their_time_is() -> None:
    uneven = [*points(1, 1), Point(at=NOON + timedelta(days=10), value=1)]

    drawn = chart(uneven)

    assert drawn is not None
    assert [round(x) for x, _ in places(drawn.line)] == [4, 63, 596]


def test_points_of_one_moment_are_spread() -> None:
    drawn = chart(points(1, 2, 3, days=0))

    assert drawn is not None
    assert [x for x, _ in places(drawn.line)] == [4.0, 300.0, 596.0]


def test_nothing_at_all_is_a_line_on_the_ground() -> None:
    drawn = chart(points(0, 0))

    assert drawn is not None
    assert [y for _, y in places(drawn.line)] == [116.0, 116.0]
    assert spark([0, 0]) == "2,20.0 88,20.0"


@given(st.lists(st.integers(0, 1 << 60), min_size=2, max_size=700))
def test_however_many_points_the_drawing_stays_small_inside_and_keeps_the_extremes(values: list[int]) -> None:
    drawn = chart(points(*values))

    assert drawn is not None
    found = places(drawn.line)
    assert len(found) <= MOST_POINTS + 2
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in found)
    assert (drawn.least, drawn.most) == (min(values), max(values))
    assert min(y for _, y in found) == (4.0 if max(values) else 116.0)
    assert max(y for _, y in found) == pytest.approx(116 - 112 * min(values) / max(*values, 1), abs=0.1)


@given(st.lists(st.integers(0, 1 << 60), min_size=2, max_size=40))
def test_a_small_line_stays_inside(values: list[int]) -> None:
    assert all(0 <= x <= SPARK_WIDTH and 0 <= y <= SPARK_HEIGHT for x, y in places(spark(values)))


def test_of_many_points_one_day_up_and_one_day_down_are_still_seen() -> None:
    values = [500] * 1000
    values[333], values[777] = 0, 1000

    drawn = chart(points(*values))

    assert drawn is not None
    found = [y for _, y in places(drawn.line)]
    assert len(found) <= MOST_POINTS + 2
    assert (min(found), max(found)) == (4.0, 116.0)
