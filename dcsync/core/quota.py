"""The arithmetic of the rate limit and of waiting: a sliding window, Retry-After, back-off with full jitter. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

#: 60 calls a minute for each client ID, over all Data Connector endpoints together (APS, rate limits).
WINDOW_S = 60.0
#: Added to the window. dcsync counts a call when it leaves, Autodesk when it arrives. The call that leaves the window
#: may have arrived this much later, and the call that enters it may arrive at once.
WINDOW_MARGIN_S = 1.0
#: Processes that share the window read the clock before they hold its lock, so the call of another process may lie this
#: far ahead.
AHEAD_S = 5.0
#: Retry-After is honoured between these limits (faults.md A1): 0 s would hammer the API, and a day is a fault and
#: not a pause.
MIN_PAUSE_S = 1.0
MAX_PAUSE_S = 3600.0
#: The longest wait after a 429 that gives no time (docs/project/faults.md A2).
MAX_BACKOFF_S = 300.0


def usable(requests_per_minute: int) -> int:
    """Return how many calls per minute dcsync makes: 5 % are left to other programs with the same client ID."""
    return max(1, requests_per_minute - requests_per_minute // 20)


def within_window(calls: Sequence[float], now: float) -> list[float]:
    """Return the calls that still count at `now`, oldest first.

    The clock counts from boot. A call further in the future is therefore from before a reboot and is left out.
    """
    return sorted(call for call in calls if now - WINDOW_S - WINDOW_MARGIN_S < call <= now + AHEAD_S)


def wait_before_next(calls: Sequence[float], *, limit: int, now: float, paused_until: float = 0.0) -> float:
    """Return the wait, in seconds, after which one more call keeps every sliding minute within `limit`."""
    counting = within_window(calls, now)
    pause = max(0.0, paused_until - now)
    if len(counting) < limit:
        return pause
    leaves_at = counting[len(counting) - limit] + WINDOW_S + WINDOW_MARGIN_S
    return max(pause, leaves_at - now)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds a Retry-After header asks for, 1 s to 1 h, from seconds or an HTTP date (RFC 9110 §10.2.3).

    An unusable value gives None, and the caller backs off. A date in the past gives 1 s.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        # 20 digits already exceed the upper limit, and int() refuses thousands of digits.
        return _clamp(float(int(text[:20])))
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return _clamp((moment - now).total_seconds())


def skew(date: str | None, now: datetime) -> float | None:
    """Return by how many seconds a clock that says `now` is ahead of a Date header. None without a usable header."""
    try:
        moment = parsedate_to_datetime(date or "")
    except (ValueError, IndexError, TypeError):
        return None
    return None if moment.tzinfo is None else (now - moment).total_seconds()


def backoff(attempt: int, *, base_s: float, cap_s: float, draw: float) -> float:
    """Return the wait after attempt number `attempt` (from 1): full jitter, uniform up to an exponential bound.

    `draw` is a random number in [0, 1]. Source: "Exponential Backoff And Jitter", AWS Architecture Blog.
    """
    bound = min(cap_s, base_s * 2.0 ** min(attempt - 1, 32))
    return bound * draw


def _clamp(seconds: float) -> float:
    return min(MAX_PAUSE_S, max(MIN_PAUSE_S, seconds))
