"""The price of each method to download the changed files, and the choice of the fastest. Pure.

API calls are scarce: 60 per minute for all programs together. The time of a method is the time of its calls under the
rate limit or of its bytes on the network, whichever is longer, plus the latency of its requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dcsync.core.quota import WINDOW_S

#: Before the first measurement: 100 Mbit/s, so that bytes have a price from the first run on.
ASSUMED_SPEED = 12.5e6
#: How long a request to storage waits for its first byte, in seconds of one slot.
REQUEST_S = 0.1


class Method(StrEnum):
    """How the changed files are downloaded."""

    #: File by file, each by its signed URL.
    FILES = "files"
    #: The ranges of the ZIP that contain the changed members.
    RANGES = "ranges"
    #: The whole ZIP.
    WHOLE = "whole"


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The price of a method: API calls, bytes to download, requests to storage, and the time for all of it."""

    method: Method
    calls: int
    size: int
    requests: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostInputs:
    """The inputs of a price: calls left in this minute, calls per minute, network speed, and download slots."""

    calls_left: int
    limit: int
    bytes_per_second: float | None
    slots: int

    def price(self, method: Method, *, calls: int, size: int, requests: int) -> Price:
        """Return the price of a method."""
        # The first calls that have to wait are made in the next minute, and so on. Not above 0 if no call has to wait.
        by_quota = -(-(calls - self.calls_left) // self.limit) * WINDOW_S
        by_line = size / (self.bytes_per_second or ASSUMED_SPEED)
        seconds = max(by_quota, by_line) + REQUEST_S * -(-requests // self.slots)
        return Price(method=method, calls=calls, size=size, requests=requests, seconds=seconds)


def cheapest(prices: Iterable[Price]) -> Price:
    """Return the fastest price. If times are equal to 0.1 s, return the one with the fewest calls.

    Calls count before bytes, because the next job can use the calls that are left.
    """
    return min(prices, key=lambda price: (round(price.seconds, 1), price.calls, price.size))


def speed_after(speed: float | None, *, size: int, seconds: float, weight: float = 0.3) -> float | None:
    """Return the moving average of the network speed after a transfer. Short ones measure latency and do not count."""
    if size < 1 << 20 or seconds <= 0:
        return speed
    measured = size / seconds
    return measured if speed is None else speed + weight * (measured - speed)


def describe(prices: Sequence[Price]) -> str:
    """Return the prices as one readable line."""
    return "; ".join(
        f"{price.method}: {price.calls} calls, {price.size} bytes, {price.seconds:.1f} s" for price in prices
    )
