"""The daemon continues backfills and extends schedules, beside its polls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import date, timedelta
from pathlib import Path

import pytest

from dcsync.api.client import DataConnector
from dcsync.app.backfills import Backfills
from dcsync.app.from_config import account_settings
from dcsync.app.sync import open_dispatcher
from dcsync.core.backfill import Backfill, Part
from dcsync.core.coverage import Days
from dcsync.daemon.request_chores import RequestChores
from dcsync.errors import ReadOnlySignIn
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.sandbox import Fault
from tests.rigs.daemon import Rig, running
from tests.rigs.listener import DAY, add_schedule
from tests.rigs.mirror import TODAY, Mirror, mirroring, status_of
from tests.rigs.waiting import until

pytestmark = pytest.mark.timeout(240)

SCOPES = frozenset({"data:read", "data:create", "data:write"})
SUMMER = Days(first=date(2026, 6, 1), last=date(2026, 11, 21))


def with_backfill(mirror: Mirror, days: Days = SUMMER, *, scopes: frozenset[str] = SCOPES) -> None:
    mirror.world.jobs_take_s = 600
    mirror.environ["TOKEN"] = mirror.sandbox.tokens.issue_access_token("tester", 400 * DAY, scopes=scopes)
    mirror.config["history"] = {"tables": []}
    mirror.state.mkdir(exist_ok=True)
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


# --- one pass, without a daemon around it -----------------------------------------------------------------------------


@asynccontextmanager
async def chores_of(
    folder: Path, opening: Callable[[], AbstractAsyncContextManager[DataConnector]]
) -> AsyncIterator[tuple[Mirror, RequestChores]]:
    """Yield the chores of a mirror with a backfill. `opening` opens the API to change something."""
    async with mirroring(folder) as mirror:
        with_backfill(mirror)
        await mirror.run()
        config = mirror.configuration()
        async with mirror.opened(role="run") as context:
            dispatcher = await open_dispatcher(config, mirror.stores(), context, environ=mirror.environ)
            yield (
                mirror,
                RequestChores(
                    config=config,
                    context=context,
                    dispatcher=dispatcher,
                    accounts=account_settings(config),
                    opening=opening,
                ),
            )


async def one_pass(chores: RequestChores) -> list[BrokenPart]:
    """Do what is due once, and return what is broken then."""
    (account,) = chores.accounts
    await chores._contained(account)
    return list(await BrokenParts(chores.context.manifest, account.name).load())


def refused(error: Exception) -> Callable[[], AbstractAsyncContextManager[DataConnector]]:
    def opening() -> AbstractAsyncContextManager[DataConnector]:
        raise error

    return opening


async def test_with_a_sign_in_in_a_browser_the_alert_says_to_run_the_command(tmp_path: Path) -> None:
    async with chores_of(tmp_path, refused(ReadOnlySignIn("it only reads"))) as (_, chores):
        (part,) = await one_pass(chores)

        assert (part.code, part.subject) == ("D-CHORE", "backfill")
        assert "6 of its data requests are not created: it only reads" in part.message
        assert "run dcsync requests backfill activities, which signs you in once more" in part.hint
        # It stands while nothing is due, and ends with the backfill.
        assert await one_pass(chores) == [part]
        Backfills(Path(chores.config.state.dir)).forget("acme")
        assert await one_pass(chores) == []


async def test_a_backfill_that_a_command_continues_is_left_alone(tmp_path: Path) -> None:
    async with chores_of(tmp_path, refused(ReadOnlySignIn("it only reads"))) as (mirror, chores):
        with Backfills(mirror.state).lock():
            assert await one_pass(chores) == []
        assert len(await one_pass(chores)) == 1


async def test_a_bug_in_it_is_an_alert_and_stops_nothing(tmp_path: Path) -> None:
    async with chores_of(tmp_path, refused(RuntimeError("a secret"))) as (_, chores):
        (part,) = await one_pass(chores)

        assert "failed because of a bug in dcsync (RuntimeError)" in part.message


async def test_months_that_failed_for_good_are_an_alert(tmp_path: Path) -> None:
    async with chores_of(tmp_path, refused(ReadOnlySignIn("it only reads"))) as (mirror, chores):
        store = Backfills(mirror.state)
        days = Days(first=SUMMER.first, last=SUMMER.first.replace(day=30))
        failed = Part(days=days, failures=3, problem="its job failed at Autodesk")
        store.save(Backfill(account="acme", days=days, parts=(failed,)))

        (part,) = await one_pass(chores)

        assert "the activities of 2026-06 were requested 3 times: its job failed at Autodesk" in part.message
        assert "run dcsync requests backfill activities again" in part.hint
