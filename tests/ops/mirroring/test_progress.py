"""The progress of a run is that of the network: every byte that has to come, and no other."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from dcsync.core.model import AccountName, JobId
from dcsync.core.ziplayout import TAIL_SIZE
from dcsync.ops.progress import RunProgress
from dcsync.sandbox import Fault, Synthetic
from tests.rigs.mirror import Mirror, add_extract, tables

MIB = 1 << 20
#: Rows that shrink to a fifth in a ZIP.
TEXT = ("id,name,project,status\n" + "".join(f"{n},name {n},project {n % 7},open\n" for n in range(40_000))).encode()
#: Reading the directory of a ZIP costs at most this much, which is not part of what has to come.
DIRECTORY = TAIL_SIZE


class Watch(RunProgress):
    """Remembers how far each job was at its end, the places of the run, and the most bytes that were to come."""

    def __init__(self, mirror: Mirror) -> None:
        super().__init__(mirror.clock)
        self.ends: list[tuple[int, int]] = []
        self.places: list[tuple[int, int] | None] = []
        self.most = 0
        self.had = 0

    def jobs_left(self, account: AccountName, jobs: int) -> None:
        super().jobs_left(account, jobs)
        self.places.append(self.place())

    def file_resumed(self, job: JobId, name: str, size: int) -> None:
        super().file_resumed(job, name, size)
        self.had += size

    def job_done(self, job: JobId) -> None:
        if job in self.jobs:
            self.ends.append((self.jobs[job].received, self.jobs[job].size))
            assert not self.files
        super().job_done(job)


def sent(mirror: Mirror, since: int = 0) -> int:
    return sum(call.body_bytes_sent for call in mirror.sandbox.calls[since:] if call.server == "storage")


def make_files(seed: int = 0) -> dict[str, Any]:
    return {**tables(3, seed=seed), "big.csv": TEXT, "random.bin": random.Random(seed).randbytes(MIB)}


def current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


@pytest.mark.parametrize("strategy", ["files", "zip"])
@pytest.mark.parametrize("with_archive", [True, False])
async def test_at_the_end_of_each_job_all_that_had_to_come_has_come(
    mirror: Mirror, strategy: str, with_archive: bool
) -> None:
    mirror.config["mirror"] = {"strategy": strategy}
    for day in range(3):
        add_extract(mirror, make_files(day), days_ago=3 - day, with_archive=with_archive)
    watch = Watch(mirror)

    await mirror.sync(observer=watch)

    assert watch.places == [(1, 3), (2, 3), (3, 3), None]
    assert [received for received, _ in watch.ends] == [size for _, size in watch.ends]
    total = sum(size for _, size in watch.ends)
    directories = 3 * DIRECTORY if with_archive else 0
    assert total <= sent(mirror) <= total + directories
    if strategy == "zip" and with_archive:
        # What comes from the ZIP is counted packed.
        assert watch.ends[0][1] < sum(len(body) for body in make_files().values())


@pytest.mark.parametrize("with_archive", [True, False])
async def test_a_snapshot_of_links_has_nothing_to_come(mirror: Mirror, with_archive: bool) -> None:
    """By the ZIP no file is asked for, and without it each one is, and answered with 304."""
    for day in range(2):
        add_extract(mirror, tables(4), days_ago=2 - day, with_archive=with_archive)
    await mirror.sync()
    mirror.clock.advance(3600)
    add_extract(mirror, tables(4), with_archive=with_archive)
    watch = Watch(mirror)

    await mirror.sync(observer=watch)

    assert watch.ends == [(0, 0)]


async def test_a_resumed_download_begins_at_what_is_there(mirror: Mirror) -> None:
    add_extract(mirror, {"forms_forms.csv": Synthetic(6 * MIB)})

    class Cancelling(Watch):
        def file_advanced(self, job: JobId, name: str, size: int) -> None:
            super().file_advanced(job, name, size)
            if self.received > 4 * MIB:
                task.cancel()

    task = current()
    with pytest.raises(asyncio.CancelledError):
        await mirror.sync(observer=Cancelling(mirror))
    task.uncancel()
    watch, before = Watch(mirror), len(mirror.sandbox.calls)

    await mirror.sync(observer=watch)

    assert watch.had >= 3 * MIB
    assert watch.ends == [(6 * MIB, 6 * MIB)]
    assert watch.received == sent(mirror, before) == 6 * MIB - watch.had


FAULTS = {
    "the line breaks": Fault(server="storage", kind="cut", amount=MIB // 2, match="random|zip", skip=1, times=2),
    "the file starts over": Fault(server="storage", kind="no-range", match="random", times=None),
    "the content is wrong": Fault(server="storage", kind="etag", body=b'"0123456789abcdef0123456789abcdef"', times=2),
    "no ranges of the ZIP": Fault(server="storage", kind="no-range", match="zip", times=None),
}


@pytest.mark.parametrize("with_archive", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
async def test_whatever_happens_on_the_way_the_job_ends_complete(
    mirror: Mirror, fault: str, with_archive: bool
) -> None:
    job = add_extract(mirror, make_files(), with_archive=with_archive)
    mirror.sandbox.faults.add(FAULTS[fault])
    watch = Watch(mirror)

    await mirror.sync(observer=watch)

    mirror.assert_identical(job)
    assert [received for received, _ in watch.ends] == [size for _, size in watch.ends]


async def test_a_zip_that_is_kept_is_what_comes(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"keep_archive": True}
    job = add_extract(mirror, make_files(), with_archive=True)
    watch = Watch(mirror)

    await mirror.sync(observer=watch)

    archive = next(blob for name, blob in mirror.world.extract(job).items() if name.endswith(".zip"))
    assert watch.ends == [(archive.size, archive.size)]
