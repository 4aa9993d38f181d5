"""Large files and large ZIP entries over a long line: several connections, the same bytes, hardly an API call more."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from dcsync.core.model import JobId
from dcsync.ops import connections
from dcsync.ops.context import NullObserver
from dcsync.ops.mirroring import reader
from dcsync.ops.mirroring.remote import URL_GOOD_S
from dcsync.sandbox import Fault
from tests.rigs.archive import sync_until_it_gives_up
from tests.rigs.mirror import ARCHIVE, Mirror, add_extract, assert_proved_by_sums, mirroring, tables

MIB = 1 << 20
LARGE = {"activities_large.csv": random.Random(1).randbytes(24 * MIB)}


class LongLine(NullObserver):
    """Moves the clock on with each piece, as a line does on which every connection gets 10 MB/s."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    def file_advanced(self, job: JobId, name: str, size: int) -> None:
        if size > 0:
            connections = min(16, max(1, len(ranges(self._mirror))))
            self._mirror.clock.advance(size / 10e6 / connections)


def ranges(mirror: Mirror) -> list[Any]:
    """Return the requests for a part of a file that began after its first request."""
    return [call for call in mirror.sandbox.calls if call.server == "storage" and "if-match" in call.headers]


def add_large(mirror: Mirror, way: str) -> str:
    """Add an extract whose large table comes by its own URL, or from the ZIP."""
    mirror.config["mirror"] = {"strategy": "files" if way == "files" else "zip"}
    return add_extract(mirror, {**LARGE, **tables(3)}, with_archive=way == "zip")


@pytest.fixture
def slow_start(mirror: Mirror) -> None:
    """Slow the first connections down, which could else have the whole file before the answers of others arrive."""
    mirror.sandbox.faults.add(Fault(server="storage", kind="slow", amount=16 * MIB, match="large|zip", times=3))


@pytest.fixture
def few_parts(mirror: Mirror, slow_start: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave parts that are requested late.

    With more connections, or more memory, every part could be requested before the test changes something.
    """
    mirror.config["transfer"] = {"concurrency": 3}
    for module in (connections, reader):
        monkeypatch.setattr(module, "AHEAD_BYTES", 8 * MIB)


@pytest.fixture(params=["files", "zip"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.usefixtures("slow_start")
async def test_a_large_table_comes_through_several_connections(mirror: Mirror, way: str) -> None:
    job = add_large(mirror, way)

    await mirror.sync(observer=LongLine(mirror))

    mirror.assert_identical(job)
    assert_proved_by_sums(mirror.snapshot_of(job))
    assert len(ranges(mirror)) >= 8
    # Each with the ETag of the first answer, and all of them with one signed URL.
    assert len({(call.path, call.headers["if-match"]) for call in ranges(mirror)}) == 1
    assert mirror.sandbox.count("api", path_contains="/data/") == (4 if way == "files" else 1)
    # What is on the line when the first connection is closed comes twice.
    assert mirror.fetched_bytes() < 31 * MIB


class Pausing(LongLine):
    """Lets the URL grow old as soon as two further connections asked for parts."""

    is_done = False

    def file_advanced(self, job: JobId, name: str, size: int) -> None:
        super().file_advanced(job, name, size)
        if not self.is_done and len(ranges(self._mirror)) >= 3:
            self.is_done = True
            self._mirror.clock.advance(URL_GOOD_S + 1)


@pytest.mark.usefixtures("few_parts")
async def test_a_new_url_is_signed_when_the_last_one_grew_old(mirror: Mirror, way: str) -> None:
    job = add_large(mirror, way)
    line = Pausing(mirror)

    await mirror.sync(observer=line)

    mirror.assert_identical(job)
    assert line.is_done
    # One call more for all parts that are requested after that.
    assert mirror.sandbox.count("api", path_contains="large.csv" if way == "files" else "zip") == 2


@pytest.mark.parametrize("kind", ["cut", "reset", "expired", "status"])
async def test_what_breaks_ahead_is_requested_again(mirror: Mirror, way: str, kind: Any) -> None:
    job = add_large(mirror, way)
    mirror.sandbox.faults.add(
        Fault(server="storage", kind=kind, amount=MIB // 2, status=503, match="large|zip", skip=4, times=3)
    )

    outcome = await mirror.sync_one(observer=LongLine(mirror))

    assert not outcome.failed
    mirror.assert_identical(job)
    # The first request of a file has no condition, and is made once: nothing started over.
    first = [call for call in mirror.sandbox.calls if call.server == "storage" and "range" not in call.headers]
    assert len([call for call in first if "large" in call.path]) == (way == "files")


async def test_a_storage_that_breaks_every_connection_but_the_first_is_no_failure(mirror: Mirror, way: str) -> None:
    job = add_large(mirror, way)
    mirror.sandbox.faults.add(
        Fault(server="storage", kind="status", status=503, match="large|zip", skip=3 if way == "zip" else 1, times=None)
    )

    outcome = await mirror.sync_one(observer=LongLine(mirror))

    assert not outcome.failed
    mirror.assert_identical(job)


async def test_a_storage_that_ignores_ranges_of_files_sends_them_whole(mirror: Mirror) -> None:
    job = add_large(mirror, "files")
    mirror.sandbox.faults.add(Fault(server="storage", kind="no-range", times=None))

    await mirror.sync(observer=LongLine(mirror))

    mirror.assert_identical(job)
    # Each further connection requested a part once, and closed the answer.
    assert len(ranges(mirror)) < 16
    assert mirror.sandbox.count("api", path_contains="/data/") == 4


class Replacing(LongLine):
    """Puts another file in place as soon as three connections asked for parts."""

    def __init__(self, mirror: Mirror, job: str, body: bytes) -> None:
        super().__init__(mirror)
        self._job, self._body = job, body
        self._mirror = mirror
        self.is_done = False

    def file_advanced(self, job: JobId, name: str, size: int) -> None:
        super().file_advanced(job, name, size)
        if not self.is_done and len(ranges(self._mirror)) >= 3:
            self.is_done = True
            self._mirror.world.replace_file(self._job, next(iter(LARGE)), self._body)


@pytest.mark.usefixtures("few_parts")
async def test_a_file_that_changes_in_between_starts_over_and_is_not_mixed(mirror: Mirror) -> None:
    job = add_large(mirror, "files")
    new = random.Random(2).randbytes(24 * MIB)
    observer = Replacing(mirror, job, new)

    await mirror.sync(observer=observer)

    assert observer.is_done
    assert (mirror.snapshot_of(job) / next(iter(LARGE))).read_bytes() == new
    assert_proved_by_sums(mirror.snapshot_of(job))


async def test_a_store_without_strong_etags_is_read_through_one_connection(mirror: Mirror) -> None:
    job = add_large(mirror, "files")
    mirror.sandbox.faults.add(Fault(server="storage", kind="etag", body=b'W/"weak"', times=None))

    await mirror.sync(observer=LongLine(mirror))

    mirror.assert_identical(job)
    assert [call for call in mirror.sandbox.calls if "range" in call.headers] == []


async def test_a_store_whose_etags_change_with_each_answer_is_read_through_one_connection(tmp_path: Path) -> None:
    """As storage that encrypts again may do."""
    async with mirroring(tmp_path, etag="opaque") as mirror:
        job = add_large(mirror, "files")

        await mirror.sync(observer=LongLine(mirror))

        mirror.assert_identical(job)
        assert len(ranges(mirror)) < 16
        assert mirror.sandbox.count("api", path_contains="/data/") == 4


@pytest.mark.parametrize("kind", ["reset", "cut"])
async def test_a_large_archive_of_which_nothing_comes_gives_up_as_before(mirror: Mirror, kind: Any) -> None:
    job = add_large(mirror, "zip")
    mirror.sandbox.faults.add(Fault(server="storage", kind=kind, amount=100, match="zip", times=None))

    await sync_until_it_gives_up(mirror, "S-NETWORK")

    mirror.assert_identical(job)
    assert ARCHIVE not in {path.name for path in mirror.snapshot_of(job).iterdir()}


async def test_the_bandwidth_is_kept_by_all_connections_together(mirror: Mirror) -> None:
    mirror.config["transfer"] = {"bandwidth": "4MB"}
    job = add_large(mirror, "files")
    began = mirror.clock.monotonic()

    await mirror.sync(observer=LongLine(mirror))

    mirror.assert_identical(job)
    assert mirror.clock.monotonic() - began >= 24 * MIB / 4e6 - 2
