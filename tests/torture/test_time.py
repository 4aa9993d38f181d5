"""Days of a daemon in seconds: faults by the hour, storms, lists that drift while they are read."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Final

import pytest
import stamina

from dcsync.api.client import ListOptions
from dcsync.app.from_config import account_settings
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.ops.context import AccountSettings, SyncContext
from dcsync.ops.mirroring import poll as polling
from dcsync.sandbox import Fault, World
from dcsync.sandbox.faults import Kind
from dcsync.sandbox.world import JobEntry
from tests.rigs.daemon import Rig, running
from tests.rigs.mirror import Mirror, add_extract, mirroring, tables
from tests.rigs.quota import most_in_a_minute
from tests.torture.conftest import Figure, pick

pytestmark = [pytest.mark.timeout(3600), pytest.mark.usefixtures("quiet")]


@pytest.fixture(autouse=True)
def retries_do_not_wait() -> Iterator[None]:
    """Let the waits between the attempts at one call be none: they would be in real time. The rest is virtual."""
    with stamina.set_testing(True, attempts=100):
        yield


def api_times(rig: Rig) -> list[float]:
    """Return when each call of the API came, by the world's clock."""
    return [call.dated for call in rig.sandbox.calls if call.server == "api"]


# --- a day ------------------------------------------------------------------------------------------------------------

_STORE_KINDS: Final[tuple[Kind, ...]] = (
    *("cut", "reset", "expired", "short", "short-chunked"),
    *("long", "no-range", "etag", "gzip", "status"),
)
_STATUS: Final = (400, 404, 408, 429, 500, 502, 503, 504)


def any_fault(chance: random.Random) -> Fault:
    """Return a fault that passes: as often as a day has, and of any kind that a day can be survived with."""
    server = chance.choice(("api", "api", "storage"))
    times = chance.randrange(1, 30)
    if server == "api":
        kind: Kind = chance.choice(("status", "status", "json", "reset"))
        match = chance.choice(("", "/jobs$", "data-listing", "/data/"))
        status = chance.choice(_STATUS if match else (429, 500, 502, 503))
        headers = {"Retry-After": chance.choice(("1", "30", "120", "x", "-5", "900"))} if status == 429 else {}
        # A listing that is wrong three times in a row sets its job aside, as it should.
        times = min(times, 2) if kind == "json" and match in {"", "data-listing"} else times
        body = chance.choice((b"<html>login</html>", b"", b"[", b"null", b'{"results": 5}', b"\xff\xfe"))
        return Fault(server="api", kind=kind, match=match, status=status, headers=headers, body=body, times=times)
    kind = chance.choice(
        ("cut", "reset", "expired", "short", "short-chunked", "long", "no-range", "etag", "gzip", "status")
    )
    # Wrong content three times in a row would set a job aside, as it should.
    times = times if kind in {"cut", "reset", "expired", "no-range", "status"} else 1
    body = b'"other"' if kind == "etag" else b""
    return Fault(server="storage", kind=kind, times=times, amount=chance.randrange(1, 900), status=503, body=body)


@pytest.mark.first
@pytest.mark.parametrize("day", range(5))
async def test_a_day_of_seeded_faults_ends_with_the_mirror_whole(
    memory_path: Path, chance: random.Random, figure: Figure, day: int
) -> None:
    """Twenty-four hours and a quiet night after them; the quota is the server's real one."""
    if day >= pick(5, 1):
        return
    began = time.monotonic()
    async with running(memory_path, quota_per_minute=60) as rig:
        mirror = rig.mirror
        jobs: list[str] = []
        requests = [mirror.world.add_request(f"Request {number}") for number in range(3)]
        start = rig.clock.now()

        def at(hours: float, what: Callable[[], object]) -> None:
            rig.plan.append((start + timedelta(hours=hours), what))

        def job(request: str, with_archive: bool) -> None:
            files = tables(chance.randrange(1, 20), seed=len(jobs))
            jobs.append(add_extract(mirror, files, request=request, with_archive=with_archive))

        faults = [(chance.uniform(0, 24), any_fault(chance)) for _ in range(25)]
        for hours, fault in faults:
            at(hours, lambda fault=fault: rig.sandbox.faults.add(fault))  # type: ignore[misc]
        for _ in range(18):
            request, with_archive = chance.choice(requests), chance.random() < 0.5
            at(chance.uniform(0, 24), lambda r=request, w=with_archive: job(r, w))  # type: ignore[misc]
        at(24, rig.sandbox.faults.clear)
        await rig.pass_time(hours=24)
        took = time.monotonic() - began
        # What failed late waits for at most six hours.
        await rig.pass_time(hours=12)

        assert len(jobs) == 18
        for identifier in jobs:
            mirror.assert_identical(identifier)
        calls = api_times(rig)
        assert most_in_a_minute(calls) <= 60
        given = Counter(call.status for call in rig.sandbox.calls if call.server == "api")
        # The quota itself was never hit: each 429 was one of the script's.
        scripted = sum(30 for _, fault in faults if fault.status == 429)
        assert given[429] <= scripted
        for _ in range(20):
            # The night can end during a poll.
            if json.loads((mirror.state / "daemon.json").read_text())["status"].startswith("waiting"):
                break
            await rig.pass_time(minutes=1)
        else:
            pytest.fail("it never waits")
    figure(
        f"a day of 25 faults and 18 extracts, {day + 1}",
        f"whole; {len(calls)} calls, at most {most_in_a_minute(calls)} a minute; {took:.1f} s",
    )


# --- storms -----------------------------------------------------------------------------------------------------------

RETRY_AFTER: Final[dict[str, tuple[Callable[[datetime], str | None], float]]] = {
    # What the header says, and the least pause that it means (docs/project/faults.md A1: 1 s to 1 h).
    "seconds": (lambda _: "90", 90),
    "zero": (lambda _: "0", 1),
    "a date ahead": (lambda now: format_datetime(now + timedelta(seconds=200), usegmt=True), 199),
    "a date past": (lambda now: format_datetime(now - timedelta(days=9), usegmt=True), 1),
    "a thousand million": (lambda _: "1000000000", 3600),
    "negative": (lambda _: "-5", 0),
    "garbage": (lambda _: "soon\u00a0; q=1", 0),
    "empty": (lambda _: "", 0),
    "missing": (lambda _: None, 0),
}


@pytest.mark.parametrize("kind", RETRY_AFTER)
async def test_a_storm_of_429_is_sat_out(memory_path: Path, figure: Figure, kind: str) -> None:
    """docs/project/faults.md A1, A2: no call of anybody's before what was asked for; then everything is mirrored."""
    say, least = RETRY_AFTER[kind]
    async with running(memory_path, quota_per_minute=60) as rig:
        jobs = [add_extract(rig.mirror, tables(30, seed=number), days_ago=number) for number in range(3)]
        for round_ in range(6):
            asked = say(rig.clock.now() + timedelta(seconds=round_))
            headers = {} if asked is None else {"Retry-After": asked.encode("ascii", "replace").decode()}
            rig.sandbox.faults.add(
                Fault(server="api", kind="status", status=429, headers=headers, times=2, skip=0 if round_ == 0 else 9)
            )
        rig.service.poll_now()
        for _ in range(40):
            await rig.pass_time(hours=0.5)
            if len(rig.mirror.snapshots()) == len(jobs) and rig.sandbox.count("api", status=429) == 12:
                break

        for job in jobs:
            rig.mirror.assert_identical(job)
        calls = [call for call in rig.sandbox.calls if call.server == "api"]
        refused = [call for call in calls if call.status == 429]
        assert len(refused) == 12
        for refusal in refused:
            # A date that was said long before is past by now; those that were not are.
            pause = least if kind != "a date ahead" else 1
            assert not [call for call in calls if refusal.dated < call.dated < refusal.dated + pause]
        assert most_in_a_minute([call.dated for call in calls]) <= 60
    figure(f"storm of 429, Retry-After: {kind}", f"{len(refused)} refusals, no call within the pause")


async def test_the_quota_of_a_day_is_waited_for_and_not_hammered(memory_path: Path, figure: Figure) -> None:
    """faults.md A3: a 429 that says an hour, again and again, as a daily quota does; one call an hour is made."""
    async with running(memory_path) as rig:
        rig.sandbox.faults.add(
            Fault(server="api", kind="status", status=429, headers={"Retry-After": "80000"}, times=None)
        )
        job = add_extract(rig.mirror, tables(2))
        rig.service.poll_now()
        await rig.settle()
        began = rig.sandbox.count("api")
        await rig.pass_time(hours=12)
        asked = rig.sandbox.count("api") - began
        assert 1 <= asked <= 13

        rig.sandbox.faults.clear()
        await rig.pass_time(hours=2)
        rig.mirror.assert_identical(job)
    figure("429 of a daily quota for 12 h", f"{asked} calls, then mirrored")


@pytest.mark.first
async def test_a_storm_of_5xx_is_probed_once_a_minute_at_most(
    memory_path: Path, chance: random.Random, figure: Figure
) -> None:
    """docs/project/faults.md A4: six hours, four accounts, and a person who is impatient."""
    status, hours = chance.choice((500, 502, 503, 504)), pick(6, 1)

    def prepare(mirror: Mirror) -> None:
        mirror.config["poll"] = {"interval": "30s", "jitter": "0s"}
        projects = [{"name": f"p{n}", "id": mirror.world.hub_id, "projects": [f"project-{n}"]} for n in range(3)]
        mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id}, *projects]

    async with running(memory_path, prepare=prepare) as rig:
        await rig.pass_time(minutes=2)
        job = add_extract(rig.mirror, tables(3))
        rig.sandbox.faults.add(Fault(server="api", kind="status", status=status, times=None))
        # Until it is clear: one call that was tried five times for each of the four.
        await rig.pass_time(minutes=2)
        clear = rig.clock.now().timestamp()
        for _ in range(6 * hours):
            await rig.pass_time(minutes=10)
            rig.service.poll_now()
        during = [at for at in api_times(rig) if at > clear]
        rig.sandbox.faults.clear()
        # Three minutes are enough; a busy machine may get less done while they pass, for they are not real ones.
        for _ in range(10):
            await rig.pass_time(minutes=3)
            if rig.mirror.snapshots():
                break

        assert 30 * hours <= len(during) <= 60 * hours + 1
        # To a millisecond of what adding up fractions leaves.
        assert all(later - earlier > 59.999 for earlier, later in itertools.pairwise(during))
        rig.mirror.assert_identical(job)
    figure(f"{hours} h of {status}", f"{len(during)} probes, no two within a minute; mirrored after it")


# --- expiry -----------------------------------------------------------------------------------------------------------


@pytest.mark.first
async def test_extracts_that_nobody_can_fetch_are_shouted_about_and_then_named_as_losses(
    memory_path: Path, chance: random.Random, figure: Figure
) -> None:
    """Fault A31: forty days without the store; each is warned of from day 20, lost at day 30, then left alone."""

    def prepare(mirror: Mirror) -> None:
        mirror.config["poll"] = {"interval": "6h", "jitter": "0s", "stale_after": "90d"}
        mirror.config["hook"] = [{"on": ["alert"], "run": ["/bin/sh", "-c", f"cat >> {mirror.folder}/heard"]}]

    async with running(memory_path, prepare=prepare) as rig:
        rig.sandbox.faults.add(Fault(server="storage", kind="status", status=503, times=None))
        # In the slice they are old already, and fewer days pass.
        ages = sorted((chance.uniform(pick(0, 14), 18) for _ in range(4)), reverse=True)
        jobs = [add_extract(rig.mirror, tables(1, seed=n), days_ago=age) for n, age in enumerate(ages)]
        rig.service.poll_now()
        for _ in range(pick(40, 17) * 4):
            await quarter_day(rig)

        session = rig.service._session
        assert session is not None
        known = await session.context.manifest.jobs(AccountName("acme"))
        assert {known[JobId(job)].state for job in jobs} == {JobState.EXPIRED}
        told = (memory_path / "heard").read_text()
        assert "EXPIR" in told.upper()
        before = len(rig.sandbox.calls)
        for _ in range(3 * 4):
            await quarter_day(rig)
        later = [call.path for call in rig.sandbox.calls[before:]]
        # What is lost is not asked for any more: nothing but the poll itself.
        assert later
        assert all(path.endswith(("/jobs", "/requests")) for path in later), set(later)
        # Oldest first, each time.
        listings = [call.path for call in rig.sandbox.calls if call.path.endswith("data-listing")]
        assert jobs[0] in listings[0]
        fresh = add_extract(rig.mirror, tables(2, seed=99))
        rig.sandbox.faults.clear()
        for _ in range(2):
            await quarter_day(rig)
        rig.mirror.assert_identical(fresh)
    figure("extracts that pass their 30 days", "4 of 4 named as losses, none asked for again")


async def quarter_day(rig: Rig) -> None:
    """Let six hours pass, most of them at once."""
    rig.clock.leap(timedelta(hours=5, minutes=57))
    await rig.pass_time(minutes=3)


# --- lists that drift -------------------------------------------------------------------------------------------------


class Drifting(dict[str, JobEntry]):
    """The jobs of a world that change before each look: some appear, now and then some vanish or change their mind."""

    def __init__(self, mirror: Mirror, chance: random.Random, request: str, *, vanish: int, minds: int) -> None:
        super().__init__()
        self.appeared = self.vanished = self.minds_changed = 0
        self.is_still = True
        #: Jobs that were there all the time since the last `mark`.
        self.steady: set[str] = set()
        self._mirror, self._chance, self._request = mirror, chance, request
        self._vanish, self._minds = vanish, minds
        mirror.world.jobs = self

    def values(self) -> Any:
        if not self.is_still:
            self._turn()
        return super().values()

    def add(self, status: str = "complete") -> None:
        """Let a job appear, the newest; often in the same second as the one before."""
        self._mirror.clock.advance(self._chance.choice((0, 0, 1, 600)))
        now = self._mirror.clock.now()
        self.appeared += 1
        self._mirror.world.add_job(
            self._request,
            created_at=now,
            completed_at=now if status == "complete" else None,
            status=status,
            files={},
            job_id=f"job-{id(self):x}-{self.appeared:06}",
        )

    def mark(self) -> None:
        self.steady = set(self)

    def _turn(self) -> None:
        # Less than a page: as many at once as that could not be told from as many that vanished.
        for _ in range(self._chance.choice((0, 0, 0, 1, 2, 5))):
            self.add(self._chance.choice(("complete", "complete", "running", "queued", "failed")))
        # A look starts over three times; that many may vanish under it.
        if self._vanish and self._chance.random() < 0.4:
            self._vanish -= 1
            for gone in self._chance.sample(sorted(self), min(len(self), self._chance.choice((1, 1, 2, 10)))):
                del self[gone]
                self.steady.discard(gone)
                self.vanished += 1
        for entry in self._chance.sample(list(super().values()), min(self._minds, len(self))):
            # Complete, then running again, then failed.
            self.minds_changed += 1
            entry.status = self._chance.choice(("complete", "running", "failed"))
            self._settle(entry)

    def settle_all(self) -> None:
        """Let every job come to its end."""
        self.is_still = True
        for entry in super().values():
            entry.status = "complete"
            self._settle(entry)

    def _settle(self, entry: JobEntry) -> None:
        entry.completion = "success" if entry.status == "complete" else None
        if entry.status == "complete":
            entry.completed_at = entry.completed_at or self._mirror.clock.now()


def the_account(mirror: Mirror) -> AccountSettings:
    (account,) = account_settings(mirror.configuration())
    return account


async def test_a_list_that_drifts_while_it_is_read_is_read_whole(
    memory_path: Path, chance: random.Random, figure: Figure
) -> None:
    """Fault A13, A14, A15: jobs appear, disappear and change their mind between pages; none is missed or twice."""
    runs = pick(1_000, 40)
    found: Counter[str] = Counter()
    async with mirroring(memory_path, max_limit=9, require_auth=False) as mirror, mirror.opened() as context:
        request = mirror.world.add_request("Nightly")
        account = the_account(mirror)
        for run in range(runs):
            jobs = Drifting(mirror, chance, request, vanish=chance.randrange(4), minds=1)
            for _ in range(chance.randrange(60)):
                jobs.add()
            jobs.mark()
            jobs.is_still = False
            seen: list[str] = []
            async for page in context.api.job_pages(account.id, ListOptions()):
                seen += [job.id for job in page]
            jobs.is_still = True
            assert len(seen) == len(set(seen))
            assert jobs.steady <= set(seen), (run, sorted(jobs.steady - set(seen)))
            found.update(read=len(seen), appeared=jobs.appeared, vanished=jobs.vanished)
    figure(
        "lists read while they drift",
        f"{runs:,}: {found['appeared']:,} jobs appeared, {found['vanished']:,} disappeared, {found['read']:,} read, "
        "0 missed, 0 twice",
    )


async def test_polls_over_a_drifting_list_leave_no_job_behind(
    memory_path: Path, chance: random.Random, figure: Figure
) -> None:
    """faults.md A13, A15: a poll ends at a page of what is known; over many polls nothing is left behind it."""
    rounds = pick(100, 3)
    found: Counter[str] = Counter()
    for number in range(rounds):
        folder = memory_path / str(number)
        folder.mkdir()
        async with mirroring(folder, max_limit=20, require_auth=False) as mirror, mirror.opened() as context:
            account = the_account(mirror)
            jobs = Drifting(mirror, chance, mirror.world.add_request("Nightly"), vanish=0, minds=2)

            async def poll(mirror: Mirror = mirror, context: SyncContext = context) -> None:
                account = the_account(mirror)
                polled = await polling.poll(
                    context.api, context.manifest, mirror.clock, account, before=polling.PollBefore()
                )
                await context.manifest.record_poll(
                    account.name, jobs=polled.changed, requests=polled.new_requests, at=mirror.clock.now()
                )
                mirror.clock.advance(900)

            jobs.is_still = False
            for _ in range(10):
                await poll()
            jobs.settle_all()
            await poll()
            known = await context.manifest.jobs(account.name)
            assert set(known) == set(jobs)
            assert JobState.WAITING not in {job.state for job in known.values()}
            found.update(known=len(known), minds=jobs.minds_changed)
    figure(
        "polls over a drifting list",
        f"{rounds * 11:,}: {found['known']:,} jobs, {found['minds']:,} changes of mind, 0 left behind",
    )


@pytest.mark.parametrize("kind", ["ignores the offset", "is empty with a total", "has no end"])
async def test_a_list_that_lies_about_its_length_ends(memory_path: Path, figure: Figure, kind: str) -> None:
    """docs/project/faults.md A17: within three pages of the lie."""
    page = {
        "ignores the offset": b'{"pagination": {"limit": 100, "offset": 0, "totalResults": 5000}, "results": [%b]}',
        "is empty with a total": b'{"pagination": {"limit": 100, "offset": 0, "totalResults": 5000}, "results": []}',
        "has no end": b'{"results": [%b]}',
    }[kind]
    world = World(seed=4)
    request = world.add_request("Nightly")
    row = b'{"id": "j%d", "requestId": "%b", "status": "running"}'
    rows = b",".join(row % (number, request.encode()) for number in range(100))
    body = page % rows if b"%b" in page else page
    async with mirroring(memory_path, world) as mirror, mirror.opened() as context:
        mirror.sandbox.faults.add(Fault(server="api", kind="json", match="/jobs", body=body, times=None))
        found = [job.id for job in await context.api.jobs(the_account(mirror).id)]

    assert len(found) == len(set(found)) == (0 if "empty" in kind else 100)
    assert mirror.sandbox.count("api") <= 3
    figure(f"a list that {kind}", f"{mirror.sandbox.count('api')} calls, then it ends")
