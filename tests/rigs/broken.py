"""A daemon with three accounts over some days, in which one part after another is broken and mended."""

from __future__ import annotations

import json
import shlex
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from unittest import mock

import stamina

from dcsync.daemon.local_session import LocalSession
from dcsync.ops.status import Status
from dcsync.sandbox import Fault
from tests.rigs.daemon import Rig, running
from tests.rigs.mirror import Mirror, add_extract, assert_identical, sidecar, tables
from tests.rigs.ports import free_port

ACCOUNTS = ("first", "second", "third")
REQUESTS = ("Nightly", "Issues")
#: The projects of the third account, one for each of its data requests.
PROJECTS = {name: f"{number}0000000-0000-4000-8000-000000000000" for number, name in enumerate(REQUESTS, 1)}
#: The extract of a day is completed at this hour.
EXTRACT_HOUR = 6
#: How many days the mirror has when a part breaks.
DAYS_BEFORE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The data request whose part is broken."""

    account: str
    request: str

    def __str__(self) -> str:
        return f"{self.account}/{self.request}"


TARGETS = tuple(Target(account=account, request=request) for account in ACCOUNTS for request in REQUESTS)


@dataclass(slots=True, kw_only=True)
class Bench:
    """The daemon, and what is known of the extracts."""

    rig: Rig
    hubs: dict[str, str]
    requests: dict[Target, str]
    jobs: dict[Target, list[str]] = field(default_factory=dict)
    #: Jobs of further data requests that must be mirrored once everything is mended.
    late: list[str] = field(default_factory=list)
    #: Called with each new job of a data request.
    arrivals: list[tuple[Target, Callable[[str], None]]] = field(default_factory=list)

    @property
    def mirror(self) -> Mirror:
        return self.rig.mirror

    @property
    def folder(self) -> Path:
        """The folder with everything but the mirror."""
        return self.mirror.folder

    def account_of(self, target: Target) -> str:
        """Return the account's ID as paths of the API have it."""
        return self.hubs[target.account].removeprefix("b.")

    def folder_of(self, target: Target) -> Path:
        """Return the folder of a data request."""
        (found,) = self.mirror.root.glob(f"{target.account}/{target.request.lower()}-*")
        return found

    def newest(self, target: Target) -> Path:
        """Return the newest snapshot of a data request."""
        return max(path.parent for path in self.folder_of(target).glob("2*/**/_dcsync.json"))

    def oldest(self, target: Target) -> Path:
        """Return the snapshot that the next prune removes."""
        return min(path.parent for path in self.folder_of(target).glob("2*/**/_dcsync.json"))

    def tomorrow(self, target: Target) -> Path:
        """Return the folder of the day of the next extract."""
        day = self.rig.clock.now() + timedelta(days=1)
        return self.folder_of(target) / f"{day:%Y/%m/%d}"

    def events(self) -> list[dict[str, object]]:
        """Return all events that the hook has heard."""
        file = self.folder / "heard.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def calls(self) -> int:
        """Return how many calls the API has received."""
        return self.rig.sandbox.count("api")

    async def status(self) -> Status:
        """Return what `dcsync status` shows."""
        return await self.rig.service._read_status()

    @contextmanager
    def fault(self, fault: Fault) -> Iterator[None]:
        """Break calls within the block."""
        self.rig.sandbox.faults.add(fault)
        yield
        self.rig.sandbox.faults.remove(fault)

    @contextmanager
    def next_job(self, target: Target, broken: Callable[[str], Fault]) -> Iterator[None]:
        """Break calls for the next jobs of a data request within the block."""
        added: list[Fault] = []

        def arrived(job: str) -> None:
            added.append(self.rig.sandbox.faults.add(broken(job)))

        self.arrivals.append((target, arrived))
        yield
        self.arrivals.remove((target, arrived))
        for fault in added:
            self.rig.sandbox.faults.remove(fault)

    def add_day(self, day: datetime) -> None:
        """Add the extract of each data request for a day."""
        for target, request in self.requests.items():
            completed = day.replace(hour=EXTRACT_HOUR, minute=0)
            number = len(self.jobs.setdefault(target, []))
            files = {
                **tables(2, seed=ACCOUNTS.index(target.account)),
                "admin_day.csv": f"id\n{target} {day}\n".encode(),
            }
            job = add_extract(
                self.mirror,
                files,
                request=request,
                days_ago=(self.mirror.clock.now() - completed) / timedelta(days=1),
                created_at=completed - timedelta(minutes=20),
                with_archive=number % 2 == 1,
            )
            self.jobs[target].append(job)
            for wanted, arrived in self.arrivals:
                if wanted == target:
                    arrived(job)

    async def day(self) -> None:
        """Let a day pass, from the evening to the next evening."""
        await self.night()
        await self.afternoon()

    async def night(self) -> None:
        """Let time pass from the evening until the next noon. The day's extracts arrive in the morning."""
        now = self.rig.clock.now()
        day = now + timedelta(days=1)
        arrival = day.replace(hour=EXTRACT_HOUR, minute=0)
        self.rig.plan.append((arrival, lambda: self.add_day(day)))
        await self.rig.pass_time(hours=(day.replace(hour=12) - now) / timedelta(hours=1))

    async def afternoon(self) -> None:
        """Let time pass from noon until the evening."""
        await self.rig.pass_time(hours=8)

    def published(self) -> dict[str, Path]:
        """Return the folder of each job's snapshot that can be read."""
        found = {}
        for path in self.mirror.root.glob("*/*/2*/**/_dcsync.json"):
            with suppress(OSError, ValueError):
                found[sidecar(path.parent)["job"]["id"]] = path.parent
        return found

    def assert_everything_published(self) -> None:
        """Check that each extract of the last days is in the mirror. Earlier ones are pruned."""
        published = self.published()
        wanted = [job for jobs in self.jobs.values() for job in jobs[-DAYS_BEFORE + 1 :]] + self.late
        assert [job for job in wanted if job not in published] == []

    def assert_newest_published(self, targets: set[Target]) -> None:
        """Check that the newest extract of these data requests is in the mirror, byte for byte."""
        published = self.published()
        missing = [str(target) for target in sorted(targets, key=str) if self.jobs[target][-1] not in published]
        assert not missing, f"not mirrored: {missing}"
        for target in targets:
            job = self.jobs[target][-1]
            assert_identical(published[job], self.mirror.world, job)


@asynccontextmanager
async def broken_bench(folder: Path) -> AsyncIterator[Bench]:
    """Start the daemon and let it mirror some days. It is evening then, and all is well."""
    hubs: dict[str, str] = {}
    requests: dict[Target, str] = {}

    def prepare(mirror: Mirror) -> None:
        world = mirror.world
        hubs.update(dict(zip(ACCOUNTS, [world.hub_id, world.add_account("B"), world.add_account("C")], strict=True)))
        start = (mirror.clock.now() - timedelta(days=60)).replace(hour=EXTRACT_HOUR, minute=0) - timedelta(minutes=20)
        for target in TARGETS:
            requests[target] = world.add_request(
                target.request,
                created_at=start,
                hub_id=hubs[target.account],
                project_id=PROJECTS[target.request] if target.account == "third" else None,
            )
        mirror.config = _configuration(mirror, hubs)
        (folder / "metrics").mkdir()
        (folder / "hook").write_text("#!/bin/sh\nexit 0\n")
        (folder / "hook").chmod(0o755)

    async with patched_ticks(), running(folder, prepare=prepare) as rig:
        bench = Bench(rig=rig, hubs=hubs, requests=requests)
        noon = rig.clock.now()
        for number in reversed(range(DAYS_BEFORE)):
            bench.add_day(noon - timedelta(days=number))
        await bench.afternoon()
        yield bench


@asynccontextmanager
async def patched_ticks() -> AsyncIterator[None]:
    """Let the daemon do its regular checks every quarter of an hour, and retry calls without real waits."""
    with mock.patch.object(LocalSession, "tick_s", 900.0), stamina.set_testing(True, attempts=100):
        yield


def _configuration(mirror: Mirror, hubs: dict[str, str]) -> dict[str, object]:
    heard = shlex.quote(str(mirror.folder / "heard.jsonl"))
    return {
        "poll": {"interval": "4h", "jitter": "0s", "stale_after": "1d"},
        "http": {"listen": f"127.0.0.1:{free_port()}"},
        "metrics": {"textfile": str(mirror.folder / "metrics/dcsync.prom")},
        "verify": {"part_days": 1},
        "keep": {"daily": DAYS_BEFORE},
        "hook": [
            {"on": ["alert", "failure", "recovered"], "run": ["/bin/sh", "-c", f"cat >> {heard}"]},
            {"on": ["snapshot"], "run": [str(mirror.folder / "hook")]},
        ],
        "account": [
            {"name": name, "id": hub, **({"projects": list(PROJECTS.values())} if name == "third" else {})}
            for name, hub in hubs.items()
        ],
    }
