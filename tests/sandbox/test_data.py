"""Extracts from a seed: the same bytes each time, and the oddities of real extracts."""

from __future__ import annotations

import csv
import io
import zipfile
from functools import cache
from itertools import pairwise

from dcsync.sandbox import data

NAMES = data.table_names(data.MAX_TABLES)
#: A quarter of the tables, to save time.
SOME = NAMES[:65]


@cache
def header_only() -> set[str]:
    """Return the tables without rows. Computed by the first test that asks, not by every process that collects."""
    return {name for name in SOME if data.table(1, name, 0).count(b"\n") == 1}


def test_the_same_seed_name_and_version_give_the_same_bytes() -> None:
    name = next(name for name in SOME if name not in header_only())
    first = data.table(1, name, 2)
    data.table.cache_clear()

    assert data.table(1, name, 2) == first
    assert data.table(2, name, 2) != first
    assert data.table(1, name, 3) != first


def test_a_full_extract_has_260_tables_with_distinct_names() -> None:
    assert len(NAMES) == len(set(NAMES)) == 260
    assert data.table_names(10) == NAMES[:10]
    assert data.table_names(9999) == NAMES
    assert all(name.endswith(".csv") and "_" in name for name in NAMES)


def test_about_one_table_in_six_is_header_only_and_stays_so() -> None:
    assert 5 <= len(header_only()) <= 18
    assert {data.table(1, name, 5) == data.table(1, name, 0) for name in header_only()} == {True}


def test_a_table_is_csv_in_utf8_with_quotes_line_breaks_and_both_line_ends() -> None:
    bodies = [data.table(1, name, 0) for name in SOME[:20]]

    assert {len(row) for body in bodies for row in csv.reader(io.StringIO(body.decode(), newline=""))} == {9}
    assert {b"\r\n" in body for body in bodies} == {True, False}
    assert any(b'""' in body and not body.isascii() for body in bodies)


def test_a_later_version_has_more_rows_and_most_of_the_former_ones() -> None:
    name = max(SOME[:20], key=lambda name: len(data.table(1, name, 0)))
    before, after = (data.table(1, name, version).splitlines() for version in (0, 1))

    assert len(after) > len(before)
    assert len(set(before) - set(after)) <= 2


def test_about_one_table_in_five_changes_from_a_day_to_the_next() -> None:
    versions = [[data.versions_on(1, name, day) for day in range(8)] for name in NAMES]
    changed = sum(row[day + 1] - row[day] for row in versions for day in range(7))

    assert {row[0] for row in versions} == {0}
    assert all(later - former in {0, 1} for row in versions for former, later in pairwise(row))
    assert 0.15 < changed / (7 * len(NAMES)) < 0.25


def test_an_archive_is_the_same_bytes_each_time_and_whole() -> None:
    files = {name: data.table(1, name, 0) for name in NAMES[:5]}
    packed = data.archive(files)

    with zipfile.ZipFile(io.BytesIO(packed)) as opened:
        assert opened.testzip() is None
        assert {name: opened.read(name) for name in opened.namelist()} == files
    assert data.archive(files) == packed
