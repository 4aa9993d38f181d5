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
