"""The daemon continues backfills and extends schedules, beside its polls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from pathlib import Path

import pytest

from dcsync.app.backfills import Backfills
from dcsync.core.backfill import Backfill, Part
from dcsync.core.coverage import Days
from dcsync.sandbox import Fault
from tests.rigs.daemon import Rig, running
from tests.rigs.listener import DAY, add_schedule
from tests.rigs.mirror import TODAY, Mirror, status_of
from tests.rigs.waiting import until

pytestmark = pytest.mark.timeout(240)

SCOPES = frozenset({"data:read", "data:create", "data:write"})
SUMMER = Days(first=date(2026, 6, 1), last=date(2026, 11, 21))


def with_backfill(mirror: Mirror, days: Days = SUMMER, *, scopes: frozenset[str] = SCOPES) -> None:
    mirror.world.jobs_take_s = 600
    mirror.environ["TOKEN"] = mirror.sandbox.tokens.issue_access_token("tester", 400 * DAY, scopes=scopes)
    mirror.config["history"] = {"tables": []}
    mirror.state.mkdir()
    Backfills(mirror.state).save(Backfill(account="acme", days=days, parts=(part(days),)))


def part(days: Days) -> Part:
    return Part(days=Days(first=days.first, last=days.first.replace(day=30)))


def requested(rig: Rig) -> list[str]:
    return sorted(entry.description for entry in rig.mirror.world.requests.values())


async def pass_until(rig: Rig, is_so: Callable[[], bool | Awaitable[bool]]) -> None:
    """Let time pass, and jobs run, until something is so. The chores are no part of what the rig waits for."""
    for _ in range(400):
        found = is_so()
        if found if isinstance(found, bool) else await found:
            return
        await rig.pass_time(minutes=15)
        await until(lambda: not rig.sandbox.active, "the calls")
    raise AssertionError("it did not come to this")


def posts(rig: Rig) -> list[str]:
    return [call.path for call in rig.sandbox.calls if call.method == "POST"]


async def codes(rig: Rig) -> list[str]:
    return (await status_of(rig.mirror)).codes


async def test_a_backfill_goes_on_until_every_month_is_in_the_mirror(tmp_path: Path) -> None:
    async with running(tmp_path, prepare=with_backfill) as rig:
        await until(lambda: len(requested(rig)) == 4, "the first months")
        await pass_until(rig, lambda: Backfills(rig.mirror.state).of("acme") is None)

        assert len(requested(rig)) == 6
        assert requested(rig)[0] == "Activities 2026-06"
        assert len(rig.mirror.snapshots()) == 6


async def test_it_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, prepare=with_backfill) as rig:
        await until(lambda: len(requested(rig)) == 4, "the first months")
        before = requested(rig)
        rig.service.reload()
        await rig.settle()
        await pass_until(rig, lambda: Backfills(rig.mirror.state).of("acme") is None)

        assert set(before) < set(requested(rig))
        assert len(requested(rig)) == 6


async def test_a_sign_in_that_only_reads_is_an_alert_that_names_the_command(tmp_path: Path) -> None:
    only = frozenset({"data:read"})
    async with running(tmp_path, prepare=lambda mirror: with_backfill(mirror, scopes=only)) as rig:

        async def is_told() -> bool:
            return "D-CHORE" in await codes(rig)

        await pass_until(rig, is_told)
        before = len(posts(rig))
        await rig.pass_time(minutes=30)

        assert requested(rig) == []
        (account,) = (await status_of(rig.mirror)).accounts
        (found,) = [item.alert for item in account.alerts]
        assert (found.code, found.subject) == ("D-CHORE", "backfill")
        assert "the backfill of activities failed" in found.message
        # Once an hour, however often the daemon polls.
        assert len(posts(rig)) == before
        # What is mirrored does not depend on it.
        assert account.last_success is not None


async def test_an_outage_is_no_alert_of_the_backfill(tmp_path: Path) -> None:
    outage = Fault(server="api", kind="status", match="/requests", status=503, times=9_999)

    def prepare(mirror: Mirror) -> None:
        with_backfill(mirror)
        mirror.sandbox.faults.add(outage)

    async with running(tmp_path, prepare=prepare) as rig:
        await pass_until(rig, lambda: (outage.times or 0) < 9_999)
        await rig.pass_time(minutes=15)

        assert "D-CHORE" not in await codes(rig)
        rig.sandbox.faults.clear()
        await pass_until(rig, lambda: len(requested(rig)) == 6)


async def test_a_schedule_is_extended_by_the_daemon_once(tmp_path: Path) -> None:
    def prepare(mirror: Mirror) -> None:
        mirror.environ["TOKEN"] = mirror.sandbox.tokens.issue_access_token("tester", 400 * DAY, scopes=SCOPES)
        mirror.config["requests"] = {"extend": "365d"}
        mirror.world.requests[add_schedule(mirror)].ends_at = TODAY + timedelta(days=5)

    async with running(tmp_path, prepare=prepare) as rig:
        (request,) = rig.mirror.world.requests.values()
        end = TODAY + timedelta(days=5 + 365)
        await pass_until(rig, lambda: request.ends_at == end)
        await rig.pass_time(hours=2)

        assert request.ends_at == end
        assert sum(call.method == "PATCH" for call in rig.sandbox.calls) == 1
        assert "L-ENDS" not in await codes(rig)
