"""A thousand jobs, and a thousand polls, through one process: nothing grows."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from dcsync.sandbox import Fault, World
from tests.cli.test_run import Daemon, descriptors, end, launched, resident, running
from tests.rigs.daemon import running as running_here
from tests.rigs.mirror import Mirror, add_extract, assert_identical, mirroring, tables
from tests.rigs.waiting import until
from tests.torture.conftest import Figure, pick

pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("quiet")]

#: How many are published before the first look: all that is loaded and kept by then is loaded and kept.
FIRST: Final = 100
#: And how many come with one poll.
AT_ONCE: Final = 25
#: A pool takes another thread when more is to be done at once than ever before, up to its bound. A leak is one for each
#: job, or for each poll.
MORE_THREADS: Final = 2


@dataclass(frozen=True, slots=True)
class Used:
    """What a process holds."""

    descriptors: int
    threads: int
    resident: int

    @classmethod
    def by(cls, pid: int) -> Used:
        return cls(descriptors(pid), len(list(Path(f"/proc/{pid}/task").iterdir())), resident(pid))


class Counting(Daemon):
    """A daemon whose published jobs are counted in its log as it grows."""

    def said_published(self) -> int:
        return self.log.read_bytes().count(b"snapshot published")


async def publish(daemon: Counting, world: World, request: str, upto: int) -> None:
    """Add jobs, so many at a time, and wait until all of them are published."""
    while len(world.jobs) < upto:
        for _ in range(min(AT_ONCE, upto - len(world.jobs))):
            at = datetime.now(UTC) - timedelta(days=1) + timedelta(seconds=len(world.jobs))
            body = tables(1, seed=len(world.jobs), size=200)
            world.add_job(request, completed_at=at, files=body, with_archive=False)
        daemon.send(signal.SIGUSR1)
        # It may have used up the quota of a minute: a thousand calls are five hundred jobs.
        await daemon.until(lambda: daemon.said_published() >= len(world.jobs), "its jobs", within_s=120)


async def test_a_thousand_jobs_leave_no_more_behind_than_a_hundred(tmp_path: Path, figure: Figure) -> None:
    """Descriptors equal, no threads but for those that a busier moment calls for.

    Memory: the more jobs are known, the more a look at all of them takes. So it is compared with that of a daemon that
    was started anew, knows as many, and has mirrored as few as the first look had.
    """
    world = World(seed=31)
    request, last = world.add_request("Nightly"), pick(1000, FIRST + 2 * AT_ONCE)
    async with running(tmp_path, world=world) as founder:
        # It makes the manifest, and has in memory what that takes.
        founder.send(signal.SIGTERM)
        assert await end(founder) == 0
        async with launched(tmp_path, founder.sandbox) as started:
            daemon = counting(started)
            await publish(daemon, world, request, FIRST)
            before = await at_rest(daemon)
            await publish(daemon, world, request, last)
            after = await at_rest(daemon)
            daemon.send(signal.SIGTERM)
            assert await end(daemon) == 0
        async with launched(tmp_path, founder.sandbox) as again:
            await publish(counting(again), world, request, last + FIRST)
            anew = await at_rest(again)

        assert after.descriptors == before.descriptors
        assert after.threads <= before.threads + MORE_THREADS
        # What the allocator keeps; a leak of 10 kB a job would show as more.
        assert after.resident < 1.1 * anew.resident, (before, after, anew)
        for job in list(world.jobs)[:: max(1, len(world.jobs) // 50)]:
            (snapshot,) = (tmp_path / "mirror").glob(f"acme/*/[0-9]*/*/*/*-{job[:8]}")
            assert_identical(snapshot, world, job)
    figure(
        f"{last:,} jobs through one process, against {FIRST} through it, and {FIRST} more through a new one",
        f"{after.descriptors}/{before.descriptors}/{anew.descriptors} descriptors, "
        f"{after.threads}/{before.threads}/{anew.threads} threads, "
        f"{after.resident >> 20}/{before.resident >> 20}/{anew.resident >> 20} MiB",
    )


def counting(daemon: Daemon) -> Counting:
    return Counting(process=daemon.process, sandbox=daemon.sandbox, folder=daemon.folder, log=daemon.log)


async def at_rest(daemon: Daemon) -> Used:
    """Return what the daemon holds when it has nothing to do: the least of some looks."""
    found = []
    for _ in range(10):
        await asyncio.sleep(0.2)  # noqa: TID251 - another process comes to rest
        found.append(Used.by(daemon.pid))
    return Used(*(min(getattr(used, name) for used in found) for name in ("descriptors", "threads", "resident")))


async def test_a_thousand_jobs_leave_no_task_and_no_thread_behind(memory_path: Path, figure: Figure) -> None:
    """The same in this process, where tasks can be counted, on a virtual clock."""

    def prepare(mirror: Mirror) -> None:
        mirror.config["api"] = {"base_url": mirror.sandbox.base_url, "requests_per_minute": 1000}

    async with running_here(memory_path, prepare=prepare) as rig:
        counts = {}
        for number in range(pick(1000, 2 * FIRST) // AT_ONCE):
            for index in range(AT_ONCE):
                add_extract(rig.mirror, tables(1, seed=number * AT_ONCE + index, size=100), days_ago=index / 100)
            rig.service.poll_now()
            await rig.settle()
            await rig.pass_time(seconds=20)
            done = (number + 1) * AT_ONCE
            assert len(rig.mirror.world.jobs) == done
            if done >= FIRST and done % FIRST == 0:
                gc.collect()
                # The daemon looks into the manifest now and then, and its thread closes what was read.
                await until(lambda: not any("close" in repr(task.get_coro()) for task in asyncio.all_tasks()))
                counts[done] = (len(asyncio.all_tasks()), len(open_files()), threading.active_count())
        assert len(rig.mirror.snapshots()) == len(rig.mirror.world.jobs)

        first, last = counts[FIRST], counts[max(counts)]
        assert first[:2] == last[:2], counts
        assert last[2] <= first[2] + MORE_THREADS, counts
    figure(f"tasks, descriptors and threads after {FIRST} and {max(counts):,} jobs", f"{first} and {last}")


def open_files() -> list[Path]:
    """Return the open files that are no sockets: the sandbox's connections come and go."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = entry.readlink()
        except FileNotFoundError:
            continue
        if not str(target).startswith("socket:"):
            found.append(target)
    return found


async def test_no_signed_url_is_used_when_it_is_older_than_five_seconds(memory_path: Path, figure: Figure) -> None:
    """Fault A25: what waits for its turn waits before it is signed; the sandbox refuses a URL after five seconds."""
    world, jobs, files = World(seed=33, now=time.time), pick(40, 2), pick(250, 100)
    async with mirroring(memory_path, world, url_lifetime_s=5.0) as mirror:
        mirror.config["mirror"] = {"strategy": "files"}
        now = datetime.now(UTC)
        request = world.add_request("Nightly")
        for number in range(jobs):
            body = tables(files, seed=number, size=100)
            world.add_job(request, completed_at=now - timedelta(hours=number), files=body, with_archive=False)
        # Slow enough that all slots are taken all the time.
        mirror.sandbox.faults.add(Fault(server="storage", kind="delay", seconds=0.01, times=None))
        outcome = await mirror.sync_one()
        assert len(outcome.published) == jobs
        store = [call for call in mirror.sandbox.calls if call.server == "storage"]
        assert len(store) == jobs * files
        assert {call.status for call in store} == {200}
        ages = [call.dated + 5.0 - float(call.query["Expires"]) for call in store]
    figure("age of a signed URL when it was answered", f"{max(ages):.2f} s at most in {len(ages):,} downloads")


async def test_memory_after_a_thousand_polls_is_that_after_ten(tmp_path: Path, figure: Figure) -> None:
    """With nothing new: what a day and more of polls at their usual interval leave behind."""
    async with running(tmp_path) as daemon:
        sizes = {}
        last = pick(1000, 100)
        for number in range(1, last + 1):
            before = daemon.polls()
            daemon.send(signal.SIGUSR1)
            await daemon.until(lambda: daemon.polls() > before, "a poll")  # noqa: B023 - called before the next round
            if number in {10, last}:
                sizes[number] = resident(daemon.pid)

        # A tenth for what the allocator keeps; a leak of a kilobyte a poll would show as more.
        assert sizes[last] < 1.1 * sizes[10] + (1 << 20), sizes
        assert descriptors(daemon.pid) < 60
    figure(f"memory after {last:,} polls, after 10", f"{sizes[last] >> 20} MiB, {sizes[10] >> 20} MiB")
