"""A backfill against the sandbox: each month is requested once, whatever happens, and each row is there once."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import aiohttp
import duckdb
import pytest

from dcsync.api.client import DataConnector
from dcsync.api.limiter import Limiter
from dcsync.api.transport import ApiTransport
from dcsync.app.backfills import Backfills
from dcsync.app.from_config import account_settings
from dcsync.core.backfill import Backfill, Mirrored, Part, PartState, allow_more, period
from dcsync.core.coverage import Days
from dcsync.core.model import AccountId, AccountName
from dcsync.errors import AccessRefused, ConfigError, PartsFailed, Unconfirmed
from dcsync.ops.backfill import create_parts, follow, mirrored_activities, refuse_failed, refuse_unselected
from dcsync.ops.context import AccountSettings
from dcsync.sandbox import Fault, Options, Sandbox, World, data
from tests.fakes import FakeClock, FakeTokens, MemoryWindow
from tests.rigs.histories import build
from tests.rigs.mirror import TODAY, Mirror, mirroring, status_of

TABLES = ("activities_admin_activities.csv", "activities_docs_activities.csv")
SCOPES = frozenset({"data:read", "data:create", "data:write"})
AUTUMN = Days(first=date(2026, 9, 1), last=date(2026, 11, 21))


class Killed(BaseException):
    """The process ends here."""


class Tokens(FakeTokens):
    """Gives a token for each call, until the process is killed before one of them."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self.token = token
        self.calls_left = 10_000

    async def access_token(self, *, rejected: str | None = None) -> str:
        if self.calls_left == 0:
            raise Killed
        self.calls_left -= 1
        assert rejected is None
        return self.token


@dataclass(slots=True, kw_only=True)
class Side:
    """A sandbox, its client, and the stored backfill of one account without a mirror."""

    api: DataConnector
    sandbox: Sandbox
    clock: FakeClock
    tokens: Tokens
    store: Backfills
    mirrored: Mirrored = field(default_factory=Mirrored)

    @property
    def account(self) -> AccountSettings:
        return AccountSettings(name=AccountName("acme"), id=AccountId(self.sandbox.world.account_id))

    async def advance(self, of: Days = AUTUMN, *, most: int | None = None) -> Backfill:
        """Do one pass, as the command and the daemon do."""
        known = self.store.of("acme") or Backfill(account="acme", days=of)
        followed = await follow(self.api, self.account, known, self.mirrored, self.clock.now())
        await self._save(followed.backfill)
        return await create_parts(
            self.api,
            self.account,
            followed.backfill,
            clock=self.clock,
            save=self._save,
            most=followed.spare if most is None else most,
        )

    async def _save(self, backfill: Backfill) -> None:
        self.store.save(backfill)

    def descriptions(self) -> list[str]:
        return sorted(entry.description for entry in self.sandbox.world.requests.values())


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[Side]:
    clock = FakeClock(TODAY)
    async with (
        Sandbox(World(now=lambda: clock.now().timestamp()), options=Options(quota_per_minute=None)) as sandbox,
        aiohttp.ClientSession() as session,
    ):
        tokens = Tokens(sandbox.tokens.issue_access_token("ana", 90 * 86400, scopes=SCOPES))
        transport = ApiTransport(
            session,
            base_url=sandbox.base_url,
            tokens=tokens,
            limiter=Limiter(requests_per_minute=10_000, clock=clock, window=MemoryWindow()),
            clock=clock,
            draw=lambda: 0.0,
        )
        yield Side(api=DataConnector(transport), sandbox=sandbox, clock=clock, tokens=tokens, store=Backfills(folder))


# --- each month is requested once -------------------------------------------------------------------------------------


async def test_each_month_is_requested_once(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        await side.advance()
        again = await side.advance()

        assert side.descriptions() == [
            "Activities 2026-09",
            "Activities 2026-10",
            "Activities 2026-11-01 to 2026-11-21",
        ]
        assert again.count(PartState.REQUESTED) == 3
        entry = next(entry for entry in side.sandbox.world.requests.values() if "2026-10" in entry.description)
        assert (entry.schedule, entry.service_groups, entry.date_range) == ("ONE_TIME", ("activities",), "CUSTOM")
        assert entry.start_date == datetime(2026, 10, 1, tzinfo=UTC)
        assert entry.end_date == datetime(2026, 10, 31, 23, 59, 59, 999000, tzinfo=UTC)


@pytest.mark.parametrize("lost", [None, 0, 1, 2])
async def test_killed_at_any_call_it_ends_right_when_run_again(tmp_path: Path, lost: int | None) -> None:
    """`lost` is the POST that Autodesk carries out and whose answer does not arrive."""
    calls, ends = 0, False
    while not ends:
        folder = tmp_path / str(calls)
        folder.mkdir()
        async with connected(folder) as side:
            if lost is not None:
                side.sandbox.faults.add(Fault(server="api", kind="lose-after-commit", match="/requests$", skip=lost))
            side.tokens.calls_left = calls
            try:
                await side.advance()
                ends = True
            except Killed:
                side.tokens.calls_left = 10_000
                await side.advance()

            assert len(side.sandbox.world.requests) == 3, (calls, side.descriptions())
            assert len(set(side.descriptions())) == 3
            found = side.store.of("acme")
            assert found is not None
            assert found.count(PartState.REQUESTED) == 3
        calls += 1
    assert calls > 10


async def test_without_its_record_nothing_is_requested_twice(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        before = await side.advance()
        side.store.forget("acme")

        after = await side.advance()

        assert after == before
        assert len(side.sandbox.world.requests) == 3


async def test_a_record_that_is_damaged_is_no_obstacle(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        before = await side.advance()
        (tmp_path / "backfills.json").write_text('{"acme": [')

        assert await side.advance() == before


async def test_the_daily_limit_divides_it_over_days(tmp_path: Path) -> None:
    years = Days(first=date(2024, 1, 1), last=date(2026, 11, 21))
    async with connected(tmp_path) as side:
        first = await side.advance(years)
        assert (len(first.parts), first.count(PartState.REQUESTED)) == (35, 24)
        # The oldest months come first.
        assert [part.state for part in first.parts][:24] == [PartState.REQUESTED] * 24

        assert (await side.advance()).count(PartState.REQUESTED) == 24
        side.clock.advance(86400)

        assert (await side.advance()).count(PartState.REQUESTED) == 35
        assert len(side.sandbox.world.requests) == 35


async def test_a_limit_that_only_autodesk_knows_ends_a_pass(tmp_path: Path) -> None:
    """Jobs of other users count, and are not visible."""
    async with connected(tmp_path) as side:
        world = side.sandbox.world
        other = world.add_request("Of Bob", owner="bob")
        for _ in range(22):
            world.add_job(other, created_at=side.clock.now(), completed_at=side.clock.now())

        found = await side.advance()

        assert found.count(PartState.REQUESTED) == 2
        assert len(world.requests) == 3
        side.clock.advance(86400 + 3600)
        assert (await side.advance()).count(PartState.REQUESTED) == 3


async def test_a_refusal_ends_it_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        side.sandbox.faults.add(Fault(server="api", kind="status", match="/requests$", status=403))

        with pytest.raises(AccessRefused):
            await side.advance()

        found = side.store.of("acme")
        assert found is not None
        assert all(part.began_at is None for part in found.parts)


async def test_an_answer_that_never_comes_is_looked_up_by_the_next_pass(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        lost = side.sandbox.faults.add(Fault(server="api", kind="lose-after-commit", match="/requests$", times=1))
        unreadable = side.sandbox.faults.add(
            Fault(server="api", kind="status", match=r"/requests\?", status=403, skip=2, times=None)
        )
        with pytest.raises(Unconfirmed):
            await side.advance()
        assert len(side.sandbox.world.requests) == 1
        side.sandbox.faults.remove(lost)
        side.sandbox.faults.remove(unreadable)

        await side.advance()

        assert len(side.sandbox.world.requests) == 3


async def test_a_month_that_fails_is_tried_again_three_times(tmp_path: Path) -> None:
    october = period(date(2026, 10, 1), date(2026, 10, 1), TODAY)
    assert october is not None
    async with connected(tmp_path) as side:
        found = await side.advance(october)
        for hours in (1, 2, 4):
            await side.advance(october)
            side.sandbox.world.complete_jobs("failed")
            found = await side.advance(october)
            side.clock.advance(hours * 3600)

        assert side.descriptions() == [
            "Activities 2026-10",
            "Activities 2026-10 (attempt 2)",
            "Activities 2026-10 (attempt 3)",
        ]
        assert found.count(PartState.FAILED) == 1
        with pytest.raises(PartsFailed, match="2026-10 were requested 3 times: its job failed at Autodesk"):
            refuse_failed(found)
        side.store.save(allow_more(found))
        await side.advance()
        assert side.descriptions()[-1] == "Activities 2026-10 (attempt 4)"


async def test_a_month_whose_pause_is_not_over_waits(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        await side.advance()
        side.sandbox.world.complete_jobs("failed")

        found = await side.advance()

        assert found.count(PartState.WAITING) == 3
        assert len(side.sandbox.world.requests) == 3
        refuse_failed(found)


def test_an_account_that_would_not_mirror_it_refuses() -> None:
    found = Backfill(account="acme", days=AUTUMN)
    account = AccountSettings(name=AccountName("acme"), id=AccountId("x"), requests=("Nightly",))
    refuse_unselected(account, found)
    parts = Backfill(account="acme", days=AUTUMN, parts=(october_part(),))

    with pytest.raises(ConfigError, match="does not select"):
        refuse_unselected(account, parts)
    refuse_unselected(replace(account, requests=("Nightly", "Activities *")), parts)
    refuse_unselected(replace(account, requests=()), parts)


def october_part() -> Part:
    return Part(days=Days(first=date(2026, 10, 1), last=date(2026, 10, 31)))


# --- each row is there once -------------------------------------------------------------------------------------------


def nightly(mirror: Mirror, days: range, *, group: str = "activities") -> str:
    """Add a data request for the day before, with an extract on each of these days of November."""
    request = mirror.world.add_request(
        "Nightly", tables=TABLES, service_groups=(group,), has_windows=True, date_range="YESTERDAY"
    )
    for day in days:
        mirror.world.add_job(request, completed_at=datetime(2026, 11, day, 2, 34, tzinfo=UTC))
    return request


async def fill(mirror: Mirror, first: date, last: date | None = None) -> Backfill:
    """Create the data requests, run their jobs, mirror them, and return the backfill as it is then."""
    config = mirror.configuration()
    (account,) = account_settings(config)
    days = period(first, last, mirror.clock.now())
    assert days is not None
    backfill = Backfill(account="acme", days=days)

    async def save(_: Backfill) -> None:
        return

    async with mirror.opened() as context:
        for _ in range(2):
            mirrored = await mirrored_activities(context.manifest, account, mirror.clock.now())
            found = await follow(context.api, account, backfill, mirrored, mirror.clock.now())
            backfill = await create_parts(
                context.api, account, found.backfill, clock=mirror.clock, save=save, most=found.spare
            )
    mirror.clock.advance(60)
    mirror.world.complete_jobs()
    await mirror.run()
    async with mirror.opened() as context:
        mirrored = await mirrored_activities(context.manifest, account, mirror.clock.now())
        return (await follow(context.api, account, backfill, mirrored, mirror.clock.now())).backfill


@asynccontextmanager
async def with_history(folder: Path) -> AsyncIterator[Mirror]:
    async with mirroring(folder) as mirror:
        mirror.environ["TOKEN"] = mirror.sandbox.tokens.issue_access_token("tester", 90 * 86400, scopes=SCOPES)
        mirror.config["history"] = {"tables": ["*"]}
        yield mirror


def rows(mirror: Mirror, table: str) -> Counter[tuple[str | None, ...]]:
    """Return the rows of a table in the row histories of all data requests."""
    name = table.removesuffix(".csv")
    with duckdb.connect() as connection:
        found = connection.read_parquet(f"{mirror.root}/acme/*/history/{name}.parquet")
        return Counter(found.project("* EXCLUDE (_first_seen)").fetchall())


def expected(mirror: Mirror, table: str, first: date, last: date) -> Counter[tuple[str | None, ...]]:
    """Return the rows that Autodesk has for these days."""
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    text = data.window(mirror.world.seed, table, days).decode()
    found = list(csv.reader(io.StringIO(text, newline="")))[1:]
    return Counter(tuple(value or None for value in row) for row in found)


async def test_the_windows_meet_in_the_row_history_without_gaps_or_doubles(tmp_path: Path) -> None:
    """Three months and a part of the current one, beside a daily data request that missed a day."""
    async with with_history(tmp_path) as mirror:
        request = nightly(mirror, range(11, 23))
        # The extract of the 16th is missing, and with it the 15th.
        mirror.world.jobs = {
            job: entry
            for job, entry in mirror.world.jobs.items()
            if entry.completed_at is None or entry.completed_at.day != 16
        }
        await mirror.run()
        assert "L-GAP" in (await status_of(mirror)).codes

        done = await fill(mirror, date(2026, 8, 1))
        await build(mirror)

        assert done.is_complete
        assert [part.name for part in done.parts] == [
            "2026-08",
            "2026-09",
            "2026-10",
            "2026-11-01 to 2026-11-09",
            "2026-11-15",
        ]
        for table in TABLES:
            assert rows(mirror, table) == expected(mirror, table, date(2026, 8, 1), date(2026, 11, 21))
        status = await status_of(mirror)
        assert "L-GAP" not in status.codes
        assert [item.state.value for item in status.accounts[0].requests if item.request != request] == ["done"] * 5
        found = next(item for known, item in status.accounts[0].coverage.items() if known == request)
        assert (found.gaps, found.covered) == ((), (Days(first=date(2026, 8, 1), last=date(2026, 11, 21)),))


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "America/Los_Angeles"])
async def test_what_the_schedule_brings_is_not_requested(tmp_path: Path, zone: str) -> None:
    """The daily extract of today is at Autodesk, and not in the mirror yet. The zone of the folders does not matter."""
    async with with_history(tmp_path) as mirror:
        mirror.config["mirror"] = {"timezone": zone}
        request = nightly(mirror, range(20, 22))
        await mirror.run()
        mirror.world.add_job(request, completed_at=datetime(2026, 11, 22, 2, 34, tzinfo=UTC))

        done = await fill(mirror, date(2026, 11, 1))
        await build(mirror)

        assert [part.name for part in done.parts] == ["2026-11-01 to 2026-11-18"]
        for table in TABLES:
            assert rows(mirror, table) == expected(mirror, table, date(2026, 11, 1), date(2026, 11, 21))


@pytest.mark.parametrize("group", ["all", "activities"])
async def test_without_another_data_request_all_days_are_requested(tmp_path: Path, group: str) -> None:
    async with with_history(tmp_path) as mirror:
        # One that is inactive and never ran promises nothing.
        request = nightly(mirror, range(0), group=group)
        mirror.world.requests[request].is_active = False
        await mirror.run()

        done = await fill(mirror, date(2026, 10, 1), date(2026, 10, 1))
        await build(mirror)

        assert [part.name for part in done.parts] == ["2026-10"]
        for table in TABLES:
            assert rows(mirror, table) == expected(mirror, table, date(2026, 10, 1), date(2026, 10, 31))


async def test_data_requests_of_other_projects_and_tables_have_none_of_it(tmp_path: Path) -> None:
    async with with_history(tmp_path) as mirror:
        one = nightly(mirror, range(11, 23))
        mirror.world.requests[one].project_ids = ("p-1",)
        # All tables of this one are full, whatever their names.
        full = mirror.world.add_request("Full", tables=("admin_users.csv",), service_groups=("all",))
        mirror.world.add_job(full, completed_at=datetime(2026, 11, 22, 2, 34, tzinfo=UTC))
        await mirror.run()

        async with mirror.opened() as context:
            (account,) = account_settings(mirror.configuration())
            for projects, days in (((), 0), (("p-1",), 12), (("p-1", "p-2"), 0)):
                of = replace(account, projects=projects)
                found = await mirrored_activities(context.manifest, of, mirror.clock.now())
                assert sum(item.count for item in found.covered) == days
                assert (found.promised_from is None) == (days == 0)


async def test_a_month_that_needed_two_attempts_raises_no_alert_when_it_is_there(tmp_path: Path) -> None:
    async with with_history(tmp_path) as mirror:
        await mirror.run()
        config = mirror.configuration()
        (account,) = account_settings(config)
        october = Days(first=date(2026, 10, 1), last=date(2026, 10, 31))
        backfill = Backfill(account="acme", days=october)

        async def save(_: Backfill) -> None:
            return

        for completion in ("failed", "success"):
            async with mirror.opened() as context:
                found = await follow(context.api, account, backfill, Mirrored(), mirror.clock.now())
                backfill = await create_parts(
                    context.api, account, found.backfill, clock=mirror.clock, save=save, most=1
                )
            mirror.world.complete_jobs(completion)
            mirror.clock.advance(3700)
            await mirror.run()
            codes = (await status_of(mirror)).codes
            assert ("L-FAILED" in codes) == (completion == "failed")
            async with mirror.opened() as context:
                backfill = (await follow(context.api, account, backfill, Mirrored(), mirror.clock.now())).backfill
            mirror.clock.advance(3700)

        assert len(mirror.world.requests) == 2
        # It stays silent when the user removes them at Autodesk.
        mirror.world.requests.clear()
        mirror.clock.advance(2 * 86400)
        await mirror.run()
        assert (await status_of(mirror)).codes in ([], ["L-NONE"])
