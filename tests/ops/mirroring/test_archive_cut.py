"""Downloads from the ZIP that break off: they resume, or the listed files are downloaded one by one."""

from __future__ import annotations

import asyncio
import random
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from dcsync.core.cost import Method
from dcsync.core.model import JobId
from dcsync.ops.context import NullObserver
from dcsync.sandbox import Fault
from tests.rigs.archive import MIB, add_with, sync_until_it_gives_up, whys
from tests.rigs.mirror import ARCHIVE, Mirror, add_extract, sidecar, tables
from tests.rigs.waiting import until
from tests.rigs.zips import make_zip

# --- being cut short --------------------------------------------------------------------------------------------------


async def test_a_cut_range_goes_on_at_the_byte_it_was_cut_at(mirror: Mirror) -> None:
    files = {f"{n}.csv": random.Random(n).randbytes(MIB) for n in range(10)}
    job = add_extract(mirror, files, with_archive=True)
    size = mirror.world.extract(job)[ARCHIVE].size
    # The directory is the first answer; the second is a range.
    mirror.sandbox.faults.add(Fault(server="storage", kind="cut", amount=2 * MIB + MIB // 2, match="zip", skip=1))

    await mirror.sync()

    mirror.assert_identical(job)
    # What was on the line at the cut may be lost, no more.
    assert mirror.fetched_bytes() < size + MIB
    ranges = [call.headers["range"] for call in mirror.sandbox.calls if call.server == "storage"]
    assert len(ranges) >= 3
    assert all("if-match" in call.headers for call in mirror.sandbox.calls[-2:] if call.server == "storage")
    # And not a call more for it while the URL is fresh.
    assert mirror.sandbox.count("api", path_contains="/data/") == 1


async def test_a_large_member_comes_over_a_line_that_keeps_breaking(mirror: Mirror) -> None:
    """No single answer ever brings all of it."""
    files = {"large.csv": random.Random(1).randbytes(12 * MIB), **tables(4)}
    job = add_extract(mirror, files, with_archive=True)
    size = mirror.world.extract(job)[ARCHIVE].size
    mirror.sandbox.faults.add(Fault(server="storage", kind="cut", amount=4 * MIB, match="zip", skip=1, times=None))

    outcome = await mirror.sync_one()

    assert not outcome.failed
    mirror.assert_identical(job)
    assert mirror.fetched_bytes() < 2 * size
    assert mirror.sandbox.count("api", path_contains="/large.csv") == 0


# --- breaking off for good --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["reset", "cut"])
async def test_an_archive_of_which_nothing_comes_leaves_the_single_files_in_the_end(mirror: Mirror, kind: Any) -> None:
    files = tables(6)
    job = add_with(mirror, files, make_zip(files))
    mirror.sandbox.faults.add(Fault(server="storage", kind=kind, amount=100, match="extract.zip", times=None))

    await sync_until_it_gives_up(mirror, "S-NETWORK")

    mirror.assert_identical(job)
    # What an earlier attempt staged is not fetched again.
    assert mirror.sandbox.count("api", path_contains="/data/admin") == 6


@pytest.mark.parametrize("kind", ["reset", "cut"])
async def test_an_archive_whose_members_do_not_come_leaves_the_single_files(mirror: Mirror, kind: Any) -> None:
    files = tables(6)
    job = add_with(mirror, files, make_zip(files))
    mirror.sandbox.faults.add(Fault(server="storage", kind=kind, amount=100, match="extract.zip", skip=1, times=None))

    outcome = await mirror.sync_one()

    assert not outcome.failed
    mirror.assert_identical(job)
    assert mirror.sandbox.count("api", path_contains="/data/admin") == 6


async def test_a_dry_run_plans_what_a_run_would_do_without_the_archive(mirror: Mirror) -> None:
    add_extract(mirror, tables(6), with_archive=True)
    mirror.sandbox.faults.add(Fault(server="storage", kind="reset", match="extract.zip", times=None))

    outcome = await mirror.sync_one(dry_run=True)

    (planned,) = outcome.planned
    assert [price.method for price in planned.choice.prices] == [Method.FILES]
    assert len(planned.plan.fetches) == 6


async def test_what_only_a_broken_archive_has_is_waited_for_and_the_rest_is_not(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(6), with_archive=True)
    fault = Fault(server="storage", kind="reset", match="extract.zip", skip=1, times=None)
    mirror.sandbox.faults.add(fault)

    first = await mirror.sync_one()

    assert [failed.code for failed in first.failed] == ["S-NETWORK"]
    assert mirror.visible() == []
    mirror.sandbox.faults.clear()
    mirror.clock.advance(7 * 3600)
    signed = mirror.sandbox.count("api", path_contains="/data/")
    await mirror.sync()
    mirror.assert_identical(job)
    assert (mirror.snapshot_of(job) / "schemas/admin.json").is_file()
    assert mirror.sandbox.count("api", path_contains="/data/") - signed == 1


@pytest.mark.parametrize("answered", [0, 1], ids=["at once", "after the directory"])
async def test_a_store_that_is_down_is_not_asked_for_every_file(mirror: Mirror, answered: int) -> None:
    add_extract(mirror, tables(50), with_archive=True)
    mirror.sandbox.faults.add(Fault(server="storage", kind="reset", skip=answered, times=None))

    outcome = await mirror.sync_one()

    assert [failed.code for failed in outcome.failed] == ["S-NETWORK"]
    # One call for the archive, five for one file.
    assert mirror.sandbox.count("api", path_contains="/data/") <= 6


@pytest.mark.parametrize("schemas", [{}, {"schemas/a.json": b"{}"}], ids=["all listed", "one not listed"])
async def test_a_store_that_stops_giving_ranges_gives_the_whole_archive(
    mirror: Mirror, schemas: dict[str, bytes]
) -> None:
    files = tables(6, size=50_000)
    job = add_with(mirror, files, make_zip({**files, **schemas}))
    # The directory is the first answer.
    mirror.sandbox.faults.add(Fault(server="storage", kind="no-range", match="zip", skip=1, times=None))

    outcome = await mirror.sync_one()

    assert not outcome.failed
    mirror.assert_identical(job)
    document = sidecar(mirror.snapshot_of(job))
    assert {entry["original"] for entry in document["files"]} == {*files, *schemas}
    assert mirror.sandbox.count("api", path_contains="/data/") == 2


async def test_a_url_that_grew_old_is_signed_again(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(6), with_archive=True)
    mirror.sandbox.faults.add(Fault(server="storage", kind="expired", match="zip", times=2))

    await mirror.sync()

    mirror.assert_identical(job)
    assert mirror.sandbox.count("api", path_contains="/data/") == 3


class Replacing(NullObserver):
    """Puts another archive in place as soon as something came out of the first."""

    def __init__(self, mirror: Mirror, files: Mapping[str, bytes], archive: bytes) -> None:
        self._mirror = mirror
        self._files = files
        self._archive = archive

    def job_started(self, account: object, job: JobId, label: str, *, files: int, size: int) -> None:
        for name, body in self._files.items():
            self._mirror.world.replace_file(job, name, body)
        self._mirror.world.replace_file(job, ARCHIVE, self._archive)


async def test_an_archive_that_changes_in_between_is_compared_member_by_member(mirror: Mirror) -> None:
    old = {f"{n}.csv": random.Random(n).randbytes(200_000) for n in range(5)}
    new = {**old, "3.csv": random.Random(99).randbytes(200_000)}
    job = add_with(mirror, old, make_zip(old, method=zipfile.ZIP_STORED))

    await mirror.sync(observer=Replacing(mirror, new, make_zip(new, method=zipfile.ZIP_STORED)))

    mirror.assert_identical(job)


class Cancelling(NullObserver):
    """Cancels after three of these files, as a signal does. The extract has small ones too, which may come first."""

    def __init__(self, task: asyncio.Task[Any], names: Iterable[str]) -> None:
        self._task = task
        self._names = set(names)
        self._done = 0

    def file_done(self, job: JobId, name: str) -> None:
        self._done += name in self._names
        if self._done == 3:
            self._task.cancel()


async def test_a_cancelled_run_keeps_whole_members_and_the_next_one_takes_the_rest(mirror: Mirror) -> None:
    files = {f"{n}.csv": random.Random(n).randbytes(2 * MIB) for n in range(8)}
    job = add_extract(mirror, files, with_archive=True)
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(asyncio.CancelledError):
        await mirror.sync(observer=Cancelling(task, files))
    task.uncancel()
    assert mirror.visible() == []
    # The storage notices later than the client that the connection is closed, and counts the bytes only then.
    await until(lambda: any(call.headers.get("range", "").startswith("bytes=0-") for call in mirror.sandbox.calls))
    before = mirror.fetched_bytes()

    await mirror.sync()

    mirror.assert_identical(job)
    # One member at least was whole; the directory, at the archive's end, is read again.
    assert mirror.fetched_bytes() - before < mirror.world.extract(job)[ARCHIVE].size - 2 * MIB + (1 << 17)
    assert "staged by an earlier run" in whys(mirror.snapshot_of(job)).values()
