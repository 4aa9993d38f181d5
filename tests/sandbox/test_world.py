"""The sandbox's world: consistent extracts, and a demo that grows without changing earlier days."""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
import zlib
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcsync.sandbox import Synthetic, World, data
from dcsync.sandbox.views import job_json
from dcsync.sandbox.world import window_of

FIRST_DAY = date(2026, 11, 20)
NOW = datetime(2026, 11, 24, tzinfo=UTC)
MIB = 1 << 20


def make_demo(days: int, *, seed: int = 1, tables: int = 12, requests: int = 2) -> World:
    return World.demo(seed=seed, days=days, first_day=FIRST_DAY, tables=tables, requests=requests, now=NOW.timestamp)


def bodies(world: World, job: str) -> dict[str, bytes]:
    return {name: blob.read(0, blob.size) for name, blob in world.extract(job).items()}


def test_more_days_do_not_change_the_ids_and_bytes_of_earlier_days() -> None:
    short, long = make_demo(2), make_demo(4)

    assert list(long.jobs)[: len(short.jobs)] == list(short.jobs)
    assert list(long.requests) == list(short.requests)
    assert (len(short.jobs), len(long.jobs)) == (4, 8)
    for job in short.jobs:
        assert job_json(long, long.jobs[job]) == job_json(short, short.jobs[job])
        assert bodies(long, job) == bodies(short, job)


def test_from_a_day_to_the_next_some_tables_change_and_most_do_not() -> None:
    world = make_demo(2, tables=40, requests=1)
    first, second = (bodies(world, job) for job in world.jobs)
    plain = [name for name in first if name != data.ARCHIVE_NAME]

    changed = [name for name in plain if first[name] != second[name]]

    assert first.keys() == second.keys()
    assert 0 < len(changed) < len(plain) / 2


def test_a_project_s_request_is_narrow_and_the_account_s_is_not() -> None:
    whole, narrow = make_demo(1).requests.values()

    assert (whole.project_id, whole.service_groups) == (None, ("all",))
    assert narrow.project_id is not None
    assert {name.split("_")[0] for name in narrow.tables} == {"issues", "rfis"}


def test_the_zip_contains_all_other_files_and_the_schemas_with_correct_checksums() -> None:
    world = make_demo(1)
    job = next(iter(world.jobs))
    plain = bodies(world, job)
    packed = plain.pop(data.ARCHIVE_NAME)

    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        members = {info.filename: info for info in archive.infolist()}
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in plain} == plain

    assert {name: members[name].CRC for name in plain} == {name: zlib.crc32(body) for name, body in plain.items()}
    more = members.keys() - plain.keys()
    schemas = {name.split("_")[0] for name in plain if "_" in name}
    assert more == {f"schemas/{schema}.{form}" for schema in schemas for form in ("html", "json")}


def test_every_file_says_its_size_and_md5() -> None:
    world = make_demo(1)

    for blob in world.extract(next(iter(world.jobs))).values():
        body = blob.read(0, blob.size)
        assert len(body) == blob.size
        assert hashlib.md5(body, usedforsecurity=False).hexdigest() == blob.md5


def test_a_demo_has_header_only_files() -> None:
    world = make_demo(1, tables=40)

    header = b"id,project_id,title,description,created_by,created_at,status,attributes,amount"
    found = [name for name, body in bodies(world, next(iter(world.jobs))).items() if body.strip() == header]
    assert len(found) >= 2


@settings(max_examples=25)
@given(st.integers(0, 3 * MIB), st.lists(st.integers(0, 3 * MIB), min_size=2, max_size=4))
def test_a_synthetic_file_reads_the_same_in_any_pieces(size: int, cuts: list[int]) -> None:
    blob = Synthetic(size, seed=3)
    bounds = sorted({0, size, *(min(cut, size) for cut in cuts)})

    pieces = [blob.read(start, stop) for start, stop in pairwise(bounds)]

    whole = b"".join(blob.pieces())
    assert len(whole) == blob.size == size
    assert b"".join(pieces) == whole


def test_no_two_pieces_of_a_synthetic_file_are_the_same() -> None:
    blob = Synthetic(2 * MIB + 5)

    assert blob.read(0, MIB) != blob.read(MIB, 2 * MIB)
    assert blob.md5 == hashlib.md5(b"".join(blob.pieces()), usedforsecurity=False).hexdigest()
    assert Synthetic(MIB, seed=1).read(0, MIB) != Synthetic(MIB, seed=2).read(0, MIB)


def test_activities_have_the_rows_of_a_period_and_their_schema_says_so() -> None:
    world = World(now=NOW.timestamp)
    tables = ("admin_users.csv", "activities_docs_activities.csv")
    request = world.add_request("All", tables=tables, service_groups=("all",), has_windows=True)
    # Days around a weekend: NOW is a Tuesday.
    jobs = [world.add_job(request, completed_at=NOW - timedelta(days=number)) for number in (2, 1, 0)]

    days = [rows_by_day(bodies(world, job)[tables[1]]) for job in jobs]

    assert [list(found) for found in days][2] == ["2026-11-23"]
    assert days[2]["2026-11-23"] >= 10
    assert all(count <= 4 for found in days[:2] for count in found.values())
    archive = zipfile.ZipFile(io.BytesIO(bodies(world, jobs[0])[data.ARCHIVE_NAME]))
    assert b"<p>Rows of docs_activities. Date Range Extractions Supported" in archive.read("schemas/activities.html")


@pytest.mark.parametrize(
    ("changes", "first", "last"),
    [
        ({}, "2026-11-23", "2026-11-23"),
        ({"date_range": "TODAY"}, "2026-11-24", "2026-11-24"),
        ({"date_range": "PAST_7_DAYS"}, "2026-11-17", "2026-11-23"),
        ({"date_range": "MONTH_TO_DATE"}, "2026-11-01", "2026-11-24"),
        ({"date_range": "LAST_MONTH"}, "2026-10-01", "2026-10-31"),
        ({"start_date": NOW - timedelta(days=3), "end_date": NOW - timedelta(days=2)}, "2026-11-21", "2026-11-22"),
        ({"start_date": NOW - timedelta(days=99)}, "2026-08-17", "2026-08-17"),
        ({"end_date": NOW - timedelta(days=99)}, "2026-08-17", "2026-08-17"),
        ({"start_date": NOW - timedelta(days=40), "end_date": NOW - timedelta(days=10)}, "2026-10-15", "2026-11-14"),
        ({"start_date": NOW - timedelta(days=41), "end_date": NOW - timedelta(days=10)}, "2026-11-23", "2026-11-23"),
    ],
)
def test_the_dates_of_a_request_say_which_days_its_windows_have(changes: dict[str, Any], first: str, last: str) -> None:
    world = World(now=NOW.timestamp)
    request = world.add_request("All", tables=("activities_x.csv",), has_windows=True, **changes)

    days = window_of(world.jobs[world.add_job(request)])

    assert (str(days[0]), str(days[-1])) == (first, last)


def rows_by_day(body: bytes) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in csv.DictReader(io.StringIO(body.decode())):
        found[row["created_at"][:10]] = found.get(row["created_at"][:10], 0) + 1
    return found


def test_the_dates_of_a_request_limit_the_hours_of_its_rows() -> None:
    """Whoever ends a period at midnight does not get that day."""
    world = World(now=NOW.timestamp)
    begin = NOW.replace(hour=12) - timedelta(days=9)
    request = world.add_request(
        "All",
        tables=("activities_x.csv",),
        has_windows=True,
        start_date=begin,
        end_date=begin.replace(hour=0) + timedelta(days=2),
    )
    whole = world.add_request("All", tables=("activities_x.csv",), has_windows=True, start_date=begin)

    body = world.extract(world.add_job(request))["activities_x.csv"]
    rows = [row["created_at"] for row in csv.DictReader(io.StringIO(body.read(0, body.size).decode()))]
    day = world.extract(world.add_job(whole))["activities_x.csv"]

    assert min(rows) >= f"{begin:%Y-%m-%dT%H}"
    assert max(rows) <= f"{begin + timedelta(days=2):%Y-%m-%d}T00:00:00.000Z"
    # One date alone stands for the whole day.
    hours = {row["created_at"] for row in csv.DictReader(io.StringIO(day.read(0, day.size).decode()))}
    assert min(hours) < f"{begin:%Y-%m-%dT%H}"
