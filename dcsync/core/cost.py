"""What each method of fetching the changed files costs, and which is the cheapest in time. Pure.

Calls are scarce (60 a minute over everything). The time of a method is therefore that of its calls under the quota or
that of its bytes on the line, whichever is longer, plus what its requests take.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dcsync.core.quota import WINDOW_S

#: A line nobody has measured yet: 100 Mbit/s, so that bytes count for something from the first run.
ASSUMED_SPEED = 12.5e6
#: What a request to the file store takes before its first byte, a slot's worth of time.
REQUEST_S = 0.1


class Method(StrEnum):
    """How the changed files come."""

    #: Each by a signed URL of its own.
    FILES = "files"
    #: Ranges of the archive that hold the changed members.
    RANGES = "ranges"
    #: All of the archive.
    WHOLE = "whole"


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a method takes: API calls, bytes on the line, requests to the file store, and the time of all that."""

    method: Method
    calls: int
    size: int
    requests: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostInputs:
    """What prices depend on: the calls left this minute, those of any minute, the line's speed, the slots."""

    calls_left: int
    limit: int
    bytes_per_second: float | None
    slots: int

    def price(self, method: Method, *, calls: int, size: int, requests: int) -> Price:
        """Return the price of a method."""
        waiting = max(0, calls - self.calls_left)
        # The first that have to wait come with the next minute, and so on.
        by_quota = 0.0 if waiting == 0 else -(-waiting // self.limit) * WINDOW_S
        by_line = size / (self.bytes_per_second or ASSUMED_SPEED)
        seconds = max(by_quota, by_line) + REQUEST_S * -(-requests // self.slots)
        return Price(method=method, calls=calls, size=size, requests=requests, seconds=seconds)


def cheapest(prices: Iterable[Price]) -> Price:
    """Return the price that is least in time; of those that take as long to a tenth of a second, the fewest calls.

    Calls before bytes: what is not spent here is there for the next job.
    """
    return min(prices, key=lambda price: (round(price.seconds, 1), price.calls, price.size))


def speed_after(speed: float | None, *, size: int, seconds: float, weight: float = 0.3) -> float | None:
    """Return the moving average of the line's speed after a transfer. A short one says more of latency: left out."""
    if size < 1 << 20 or seconds <= 0:
        return speed
    measured = size / seconds
    return measured if speed is None else speed + weight * (measured - speed)


def describe(prices: Sequence[Price]) -> str:
    """Return the prices in one line for a person."""
    return "; ".join(
        f"{price.method}: {price.calls} calls, {price.size} bytes, {price.seconds:.1f} s" for price in prices
    )
