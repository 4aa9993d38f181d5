"""A line chart as the numbers of an inline SVG, which needs no library to be drawn or viewed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

WIDTH = 600
HEIGHT = 120
#: At this width more points show nothing more. A longer series keeps the minimum and the maximum of each stretch.
MOST_POINTS = 240
_EDGE = 4

SPARK_WIDTH = 90
SPARK_HEIGHT = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A value at one time."""

    at: datetime
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A line and the area below it, from zero to the maximum."""

    line: str
    area: str
    first: Point
    last: Point
    least: int
    most: int


def chart(points: Sequence[Point], *, width: int = WIDTH, height: int = HEIGHT) -> Chart | None:
    """Return the chart of points in order of time. None for fewer than two points, which are not a line."""
    if len(points) < 2:
        return None
    kept = _thinned(points)
    start, span = kept[0].at, (kept[-1].at - kept[0].at).total_seconds()
    most = max(point.value for point in kept)
    places = [
        (
            _EDGE
            + (width - 2 * _EDGE)
            * ((point.at - start).total_seconds() / span if span > 0 else index / (len(kept) - 1)),
            # From zero: a chart that starts elsewhere makes a landslide of every pebble.
            height - _EDGE - (height - 2 * _EDGE) * (point.value / most if most > 0 else 0.0),
        )
        for index, point in enumerate(kept)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    bottom = height - _EDGE
    return Chart(
        line=line,
        area=f"{places[0][0]:.1f},{bottom} {line} {places[-1][0]:.1f},{bottom}",
        first=points[0],
        last=points[-1],
        least=min(point.value for point in points),
        most=most,
    )


def spark(values: Sequence[int]) -> str:
    """Return the points of a small line without an axis. Empty for fewer than two values."""
    if len(values) < 2:
        return ""
    most = max(*values, 1)
    step = (SPARK_WIDTH - 4) / (len(values) - 1)
    return " ".join(
        f"{2 + step * index:.0f},{SPARK_HEIGHT - 2 - (SPARK_HEIGHT - 4) * value / most:.1f}"
        for index, value in enumerate(values)
    )


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """Return about `MOST_POINTS` points at most: the first, the last, and the extremes of each stretch."""
    if len(points) <= MOST_POINTS:
        return points
    per_stretch = -(-len(points) // (MOST_POINTS // 2))
    kept = {0, len(points) - 1}
    for start in range(0, len(points), per_stretch):
        stretch = range(start, min(start + per_stretch, len(points)))
        kept.add(min(stretch, key=lambda index: points[index].value))
        kept.add(max(stretch, key=lambda index: points[index].value))
    return [points[index] for index in sorted(kept)]
