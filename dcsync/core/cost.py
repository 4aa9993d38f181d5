"""The price of each method to download the changed files, and the choice of one. Pure.

API calls are scarce: 60 per minute for all programs together. The time of a method is the time of its calls under the
rate limit or of its bytes on the network, whichever is longer, plus the latency of its requests. Among the methods that
are about as fast as the fastest, the one that downloads the fewest bytes is chosen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dcsync.core.formatting import size_text
from dcsync.core.quota import WINDOW_S

#: Before the first measurement: 100 Mbit/s, so that bytes have a price from the first run on.
ASSUMED_SPEED = 12.5e6
#: How long a request to storage waits for its first byte, in seconds of one slot.
REQUEST_S = 0.1
#: A method is about as fast as the fastest within this share of its time, or within these seconds, if they are more.
NEARLY_SHARE, NEARLY_S = 0.2, 1.0
#: The bytes of a call or of a request to storage on top of the content: headers, a signed URL, a handshake. Without
#: them, forty calls would be made to save the few bytes that the ZIP adds to a small file.
EXCHANGE_SIZE = 1 << 12


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

    @property
    def moved(self) -> int:
        """All bytes on the network: the content, and what the calls and requests add to it."""
        return self.size + EXCHANGE_SIZE * (self.calls + self.requests)

    def describe(self) -> str:
        """Return the price as readable text."""
        calls = "1 call" if self.calls == 1 else f"{self.calls} calls"
        return f"{self.method}: {calls}, {size_text(self.size)}, {self.seconds:.1f} s"


class Rejection(StrEnum):
    """Why a method was not chosen, as `_dcsync.json` names it. A released value does not change."""

    #: It takes more than 20 % and more than 1 s longer than the fastest, or longer with the same work.
    SLOWER = "slower"
    MORE_BYTES = "more_bytes"
    MORE_CALLS = "more_calls"
    MORE_REQUESTS = "more_requests"
    #: It is the same work as the chosen one.
    EQUAL = "equal"
    #: `mirror.strategy` does not allow it.
    CONFIGURED = "configured"

    @property
    def text(self) -> str:
        """The reason as readable text."""
        return _REJECTION_TEXTS.get(self, self.replace("_", " "))


_REJECTION_TEXTS = {Rejection.EQUAL: "no better", Rejection.CONFIGURED: "not allowed by mirror.strategy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The chosen method, the prices of all methods, and why each of the others was rejected."""

    price: Price
    prices: tuple[Price, ...]
    rejected: Mapping[Method, Rejection] = field(default_factory=dict)

    def describe(self) -> str:
        """Return the choice and its reasons as one readable line."""
        others = "; ".join(
            f"{price.describe()} ({self.rejected[price.method].text})"
            for price in self.prices
            if price.method in self.rejected
        )
        return f"{self.price.describe()}; rejected: {others}" if others else self.price.describe()


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


def choose(prices: Iterable[Price], allowed: Collection[Method] = tuple(Method)) -> Choice:
    """Choose among the prices of the allowed methods. If none is allowed, all are.

    Among the methods about as fast as the fastest, the one that moves the fewest bytes is chosen, then the one with the
    fewest calls, then the fastest.
    """
    prices = tuple(prices)
    compared = [price for price in prices if price.method in allowed] or prices
    fastest = min(price.seconds for price in compared)
    limit = max(fastest * (1 + NEARLY_SHARE), fastest + NEARLY_S)
    chosen = min(
        (price for price in compared if price.seconds <= limit),
        key=lambda price: (price.moved, price.calls, price.seconds),
    )
    return Choice(
        price=chosen,
        prices=prices,
        rejected={
            price.method: _rejection(price, chosen, limit=limit) if price in compared else Rejection.CONFIGURED
            for price in prices
            if price is not chosen
        },
    )


def _rejection(price: Price, chosen: Price, *, limit: float) -> Rejection:
    if price.seconds > limit:
        return Rejection.SLOWER
    if price.size > chosen.size:
        return Rejection.MORE_BYTES
    if price.calls > chosen.calls:
        return Rejection.MORE_CALLS
    if price.requests > chosen.requests:
        return Rejection.MORE_REQUESTS
    return Rejection.SLOWER if price.seconds > chosen.seconds else Rejection.EQUAL


def speed_after(speed: float | None, *, size: int, seconds: float, weight: float = 0.3) -> float | None:
    """Return the moving average of the network speed after a transfer. Short ones measure latency and do not count."""
    if size < 1 << 20 or seconds <= 0:
        return speed
    measured = size / seconds
    return measured if speed is None else speed + weight * (measured - speed)
