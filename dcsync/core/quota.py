"""The arithmetic of the quota and of waiting: a sliding window, Retry-After, back-off with full jitter. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

#: 60 calls a minute over all Data Connector endpoints together, per client id (APS, rate limits).
WINDOW_S = 60.0
#: Added to the window: our clock's time of a call is when it left, the server's when it arrived, up to this much later
#: for the call that leaves the window and not at all for the one that enters it.
WINDOW_MARGIN_S = 1.0
#: Processes that share the window read the clock before they hold its lock, so a call of another one may lie this far
#: ahead.
AHEAD_S = 5.0
#: Retry-After is honoured between these (FAULTS A1): 0 would hammer, and a day is no pause but a fault.
MIN_PAUSE_S = 1.0
MAX_PAUSE_S = 3600.0
#: A 429 that says no time (FAULTS A2).
MAX_BACKOFF_S = 300.0


def usable(requests_per_minute: int) -> int:
    """Return the calls that may be spent: a twentieth stays in reserve for what else uses the client id."""
    return max(1, requests_per_minute - requests_per_minute // 20)


def within_window(calls: Sequence[float], now: float) -> list[float]:
    """Return the calls that still count at `now`, oldest first.

    A call that lies further in the future is from before a reboot (the clock counts from boot) and is left out.
    """
    return sorted(call for call in calls if now - WINDOW_S - WINDOW_MARGIN_S < call <= now + AHEAD_S)


def wait_before_next(calls: Sequence[float], *, limit: int, now: float, paused_until: float = 0.0) -> float:
    """Return how long to wait, in seconds, until one more call keeps every sliding minute within `limit`."""
    counting = within_window(calls, now)
    pause = max(0.0, paused_until - now)
    if len(counting) < limit:
        return pause
    leaves_at = counting[len(counting) - limit] + WINDOW_S + WINDOW_MARGIN_S
    return max(pause, leaves_at - now)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds a Retry-After header asks for, 1 s to 1 h, from seconds or an HTTP date (RFC 9110 §10.2.3).

    Nothing usable gives `None`: then back off. A date in the past is 1 s.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        # 20 digits are already beyond every clamp; int() refuses thousands of them.
        return _clamp(float(int(text[:20])))
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return _clamp((moment - now).total_seconds())


def backoff(attempt: int, *, base_s: float, cap_s: float, draw: float) -> float:
    """Return the wait after attempt number `attempt` (from 1): full jitter, uniform up to an exponential bound.

    `draw` is a random number in [0, 1]. Source: "Exponential Backoff And Jitter", AWS Architecture Blog.
    """
    bound = min(cap_s, base_s * 2.0 ** min(attempt - 1, 32))
    return bound * draw


def _clamp(seconds: float) -> float:
    return min(MAX_PAUSE_S, max(MIN_PAUSE_S, seconds))
