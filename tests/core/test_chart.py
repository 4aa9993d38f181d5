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


def test_a_chart_is_600_by_120_and_a_small_line_90_by_22() -> None:
    assert (WIDTH, HEIGHT, SPARK_WIDTH, SPARK_HEIGHT) == (600, 120, 90, 22)


def test_a_chart_can_have_another_size() -> None:
    drawn = chart(points(5, 10), width=108, height=58)

    assert drawn is not None
    assert drawn.line == "4.0,29.0 104.0,4.0"
    assert drawn.area == "4.0,54 4.0,29.0 104.0,4.0 104.0,54"


def test_a_small_line_goes_from_edge_to_edge_and_from_zero_up_to_the_most() -> None:
    assert spark([0, 5, 10]) == "2,20.0 45,11.0 88,2.0"
    assert spark([1, 1]) == "2,2.0 88,2.0"
    assert spark([0, 1]) == "2,20.0 88,2.0"


def test_half_a_second_and_a_value_of_one_are_drawn_to_scale() -> None:
    second = 1 / 86400
    drawn = chart([*points(0, 1, days=second / 8), Point(at=NOON + timedelta(seconds=0.5), value=1)])

    assert drawn is not None
    assert drawn.line == "4.0,116.0 152.0,4.0 596.0,4.0"


def test_240_points_are_all_drawn_although_they_are_equal() -> None:
    drawn = chart(points(*[5] * 240))

    assert drawn is not None
    assert len(places(drawn.line)) == 240


@pytest.mark.parametrize(("count", "drawn"), [(240, 240), (241, 161), (1000, 223), (1200, 241)])
def test_of_more_than_240_points_the_least_and_the_most_of_each_stretch_are_drawn(count: int, drawn: int) -> None:
    """241 points make 80 stretches of three and one of one, 1000 make 111 of nine and one, 1200 make 120 of ten.

    The last of 1200 is neither the least nor the most of its stretch.
    """
    found = chart(points(*(index if index % 2 else 5000 - index for index in range(count))))

    assert found is not None
    assert len(places(found.line)) == drawn
    assert places(found.line)[0][0] == 4.0
    assert places(found.line)[-1][0] == 596.0


def test_the_first_and_the_last_of_many_points_are_drawn_although_they_are_no_extremes() -> None:
    values = [50, *([0, 100] * 150), 50]

    found = chart(points(*values))

    assert found is not None
    assert places(found.line)[0] == (4.0, 60.0)
    assert places(found.line)[-1] == (596.0, 60.0)
    assert (found.first.value, found.last.value) == (50, 50)
