"""Durations as `"15m"`, sizes as `"5 GiB"`, addresses as `"127.0.0.1:9321"`."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "ms": 0.001}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?i?b?)", re.IGNORECASE)
# An IPv6 address contains colons, so it needs brackets.
_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9a-fA-F.]*:[0-9a-fA-F:.]*(?:%\w+)?)\]|(?P<host>[\w.-]*)):(?P<port>[0-9]{1,5})")
#: The largest file offset.
_MOST = Decimal(2**63 - 1)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def parse_duration(text: str) -> timedelta:
    """Read `"90s"`, `"15m"`, `"1h30m"`, `"1d"`. `ValueError` names the expected form."""
    rest, seconds = text.strip(), 0.0
    while rest:
        match = _DURATION.match(rest)
        if match is None:
            message = f'{text!r} is not a duration such as "90s", "15m", "1h30m" or "1d"'
            raise ValueError(message)
        seconds += float(match[1]) * _SECONDS[match[2]]
        rest = rest[match.end() :]
    if not text.strip():
        message = 'the duration is empty: write one such as "15m"'
        raise ValueError(message)
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        message = f"{text!r} is too long"
        raise ValueError(message) from None


def parse_size(value: str | int) -> int:
    """Read `"5 GiB"`, `"500 MB"` or a number of bytes. `ValueError` names the expected form."""
    if isinstance(value, int):
        number, unit = Decimal(value), ""
    else:
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            message = f'{value!r} is not a size such as "5 GiB" or "500 MB"'
            raise ValueError(message)
        number, unit = Decimal(match[1]), match[2].lower().removesuffix("b")
    if number < 0:
        message = f"{value!r} is negative"
        raise ValueError(message)
    base = 1024 if unit.endswith("i") else 1000
    size = number * base ** _POWERS[unit.removesuffix("i")]
    if size > _MOST:
        message = "the size is too large for any disk"
        raise ValueError(message)
    return int(size)


def parse_address(text: str) -> tuple[str, int]:
    """Read `"127.0.0.1:9321"`, `"[::1]:9321"`, or `":9321"` for this host only.

    `ValueError` names the expected form.
    """
    match = _ADDRESS.fullmatch(text.strip())
    if match is None or not 0 < int(match["port"]) < 65536:
        message = f'{text!r} is not an address and port such as "127.0.0.1:9321"'
        raise ValueError(message)
    return match["six"] or match["host"] or "127.0.0.1", int(match["port"])


def parse_rate(value: str | int) -> int | None:
    """Read `"20 MiB/s"` or a number of bytes per second. `"unlimited"` gives None. `ValueError` names the form."""
    if value == "unlimited":
        return None
    size = value.removesuffix("/s") if isinstance(value, str) else value
    if isinstance(size, str) and _SIZE.fullmatch(size.strip()) is None:
        message = f'{value!r} is not "unlimited" or a rate such as "20 MiB/s"'
        raise ValueError(message)
    rate = parse_size(size)
    if not rate:
        message = f'{value!r} must be more than 0, or "unlimited"'
        raise ValueError(message)
    return rate
