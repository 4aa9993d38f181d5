"""Sizes, ages and counts as text. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta


def size_text(size: float) -> str:
    """Return a size in the largest unit in which it is at least 1."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def share_text(size: int, of: int) -> str:
    """Return a size and the whole of which it is a part, both in the unit of the whole."""
    whole, unit = size_text(of).split()
    step = {"B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}[unit]
    part = f"{size / (1 << step):.{1 if step else 0}f}"
    return f"{part}/{whole} {unit}"


def left_text(seconds: float | None) -> str:
    """Return a time as on a clock, such as 0:42 or 1:02:03. None is unknown."""
    if seconds is None:
        return "-:--"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def age_text(moment: datetime | None, now: datetime) -> str:
    """Return the age of a time."""
    if moment is None:
        return "never"
    past = max(now - moment, timedelta(0))
    if past < timedelta(minutes=2):
        return f"{past.seconds} s ago"
    if past < timedelta(hours=2):
        return f"{past.seconds // 60} min ago"
    if past < timedelta(days=2):
        return f"{past / timedelta(hours=1):.0f} h ago"
    return f"{past.days} days ago"


def count_text(number: int | None) -> str:
    """Return a count with thousands separators."""
    return "-" if number is None else f"{number:,}"
