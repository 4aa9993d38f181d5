"""Durations, sizes and addresses as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.config.units import parse_address, parse_duration, parse_rate, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("1h30m", timedelta(minutes=90)),
        (" 1 h 30 m ", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        ("1d", timedelta(days=1)),
        ("2w", timedelta(days=14)),
        ("250ms", timedelta(milliseconds=250)),
        ("0s", timedelta(0)),
    ],
)
def test_a_duration_is_read(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["15", "m", "15 minutes", "-5m", "1h-30m", "1,5h", "15M", "∞", "15m!", "1e3s"])
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r'is not a duration such as "90s", "15m", "1h30m" or "1d"'):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the duration is empty"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["9999999999w", "9" * 400 + "s"])
def test_a_duration_beyond_all_bounds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is too long"):
        parse_duration(text)


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59), st.sampled_from(["", " "]))
def test_a_duration_of_several_parts_is_their_sum(days: int, hours: int, minutes: int, seconds: int, gap: str) -> None:
    text = gap.join([f"{days}d", f"{hours}h", f"{minutes}m", f"{seconds}s"])

    assert parse_duration(text) == timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        parsed = parse_duration(text)
    except ValueError:
        return
    assert parsed >= timedelta(0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("5 GiB", 5 * 2**30),
        ("5GiB", 5 * 2**30),
        ("5 Gi", 5 * 2**30),
        ("500 MB", 500_000_000),
        ("500M", 500_000_000),
        ("1.5 KiB", 1536),
        ("64 kib", 65536),
        ("2 TiB", 2 * 2**40),
        ("1 PB", 10**15),
        ("123", 123),
        ("7 B", 7),
        (123, 123),
        (0, 0),
    ],
)
def test_a_size_is_read(value: str | int, expected: int) -> None:
    assert parse_size(value) == expected


@pytest.mark.parametrize("text", ["", "GiB", "5 GuB", "5 giga", "-5 GiB", "5,5 GiB", "1e3", "0x10", "5 GiB/s"])
def test_what_is_no_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r'is not a size such as "5 GiB" or "500 MB"'):
        parse_size(text)


def test_a_negative_number_of_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 is negative"):
        parse_size(-1)


UNITS = {"k": 1000, "M": 1000**2, "G": 1000**3, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3}


@given(st.integers(0, 10**5), st.sampled_from(sorted(UNITS)), st.sampled_from(["", "B"]), st.sampled_from(["", " "]))
def test_a_size_is_its_number_times_its_unit(number: int, unit: str, byte: str, gap: str) -> None:
    text = f"{number}{gap}{unit}{byte}"

    assert parse_size(text) == parse_size(text.lower()) == parse_size(f" {text} ") == number * UNITS[unit]


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        parsed = parse_size(text)
    except ValueError:
        return
    assert parsed >= 0


def test_sizes_are_exact_and_end_where_file_offsets_do() -> None:
    assert parse_size(2**53 + 1) == 2**53 + 1
    with pytest.raises(ValueError, match="too large for any disk"):
        parse_size("9" * 400)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9321", ("127.0.0.1", 9321)),
        (" 127.0.0.1:9321 ", ("127.0.0.1", 9321)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("localhost:65535", ("localhost", 65535)),
        ("[::1]:9321", ("::1", 9321)),
        ("[::]:9321", ("::", 9321)),
        (":9321", ("127.0.0.1", 9321)),
    ],
)
def test_an_address_is_read(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "9321",
        "localhost",
        "localhost:",
        "localhost:http",
        "localhost:0",
        "localhost:65536",
        "localhost:-1",
        "localhost:+1",
        "localhost:١",  # a digit, but no port
        "::1:9321",
        "::1",
        "[::1]",
        "[::1:9321",
        "::1]:9321",
        "[localhost]:9321",
        "[]:9321",
        "http://localhost:9321",
        "local host:9321",
        "localhost :9321",
        "localhost: 9321",
    ],
)
def test_what_is_no_address_and_port_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r'is not an address and port such as "127\.0\.0\.1:9321"'):
        parse_address(text)


@given(st.text(max_size=20))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        host, port = parse_address(text)
    except ValueError:
        return
    assert host
    assert 0 < port < 65536


@pytest.mark.parametrize(
    ("text", "rate"), [("unlimited", None), ("20 MiB/s", 20 << 20), ("5 KB", 5000), ("7", 7), (9, 9)]
)
def test_a_rate_is_read(text: str | int, rate: int | None) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["0", 0, "fast", "-1 KB/s", "1/s/s"])
def test_what_is_no_rate_is_refused(text: str | int) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_rate(text)
