"""Rows of a query as they come."""

from __future__ import annotations

from dcsync.rows import opened


def test_all_rows_come_in_their_order() -> None:
    with opened(memory=128 << 20, spill=None) as engine:
        rows = [row for part in engine.stream("SELECT range::VARCHAR FROM range(10000)", 1000) for row in part]

    assert rows == [(str(number),) for number in range(10_000)]


def test_few_long_rows_come_at_once_and_many_short_ones() -> None:
    query = "SELECT CASE WHEN range BETWEEN 1000 AND 1100 THEN repeat('x', 3000000) ELSE 'x' END FROM range(2000)"
    with opened(memory=1 << 30, spill=None) as engine:
        parts = [(len(part), sum(len(str(row[0])) for row in part)) for part in engine.stream(query, 500)]

    assert sum(count for count, _ in parts) == 2000
    assert max(count for count, _ in parts) == 500
    # After the first long rows, at most one comes at once.
    assert sorted(length for _, length in parts)[-2] <= 2 * 3_000_000


def test_a_query_without_rows_yields_nothing() -> None:
    with opened(memory=128 << 20, spill=None) as engine:
        assert list(engine.stream("SELECT 1 WHERE false", 10)) == []
