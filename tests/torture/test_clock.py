"""Clocks that are wrong, set, or change by law: one folder a job, no night twice, no night missed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

import pytest
import stamina
import time_machine

from dcsync.core.layout import parse_layout, place, recognise
from dcsync.core.model import AccountName, JobId
from dcsync.daemon.schedule import Kind, Schedule, Trigger
from tests.rigs.daemon import running
from tests.rigs.mirror import TODAY, add_extract, tables
from tests.rigs.virtual import VirtualClock
from tests.torture.conftest import Figure, pick

pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("quiet")]

#: Two years ahead, and the days that no calendar of Samoa has: it went over the date line at the end of 2011.
YEARS: Final = ((datetime(2026, 1, 1, tzinfo=UTC), 730), (datetime(2011, 12, 20, tzinfo=UTC), 30))


def changes_of(zone: ZoneInfo) -> list[datetime]:
    """Return the moments of the years under test at which a zone's offset changes, to the hour."""
    found = []
    for first, days in YEARS:
        before = first.astimezone(zone).utcoffset()
        for day in range(1, days + 1):
            after = (first + timedelta(days=day)).astimezone(zone).utcoffset()
            if after != before:
                hours = [first + timedelta(days=day - 1, hours=hour) for hour in range(24)]
                found += [at for at in hours if at.astimezone(zone).utcoffset() != before][:1]
            before = after
    return found


def test_each_job_has_one_folder_in_every_zone_over_two_years(chance: random.Random, figure: Figure) -> None:
    """Fault C2, C3: around every change of every zone, and at any other time; the name leads back to the moment."""
    layout = parse_layout("dated")
    zones = sorted(available_timezones())
    places = changes = 0
    for name in zones if pick(1, 0) else [*chance.sample(zones, 40), "Australia/Lord_Howe", "Pacific/Apia"]:
        zone = ZoneInfo(name)
        around = changes_of(zone)
        changes += len(around)
        moments = [at + timedelta(minutes=10 * step) for at in around for step in range(-18, 19)]
        moments += [YEARS[0][0] + timedelta(seconds=chance.randrange(730 * 86400)) for _ in range(50)]
        folders: dict[str, datetime] = {}
        for number, moment in enumerate(moments):
            found = place(
                layout,
                account=AccountName("acme"),
                request_slug="nightly-00000000",
                project=None,
                completed_at=moment,
                job=JobId(f"{number:08x}-0000"),
                zone=zone,
            )
            assert found not in folders
            folders[found] = moment
            again = recognise(layout, found, zone)
            assert again is not None
            assert again.completed_at == moment.replace(microsecond=0)
            local = moment.astimezone(zone)
            assert f"/{local.year:04}/{local.month:02}/{local.day:02}/" in found
        places += len(folders)
    figure("folders of jobs in every zone over two years", f"{places:,} around {changes:,} changes, each its own")


async def test_each_night_has_its_chore_once_in_every_zone(chance: random.Random, figure: Figure) -> None:
    """Fault C2: five nights around each change of each kind of zone, and no poll is skipped or doubled meanwhile."""
    kinds: dict[tuple[datetime, timedelta | None], str] = {}
    for name in sorted(available_timezones()):
        for change in changes_of(ZoneInfo(name)):
            kinds.setdefault((change, change.astimezone(ZoneInfo(name)).utcoffset()), name)
    cases = sorted(kinds.items(), key=lambda item: (item[1], item[0][0]))
    if not pick(1, 0):
        cases = chance.sample(cases, min(4, len(cases)))
    nights = 0
    for (change, _), name in cases:
        zone, first = ZoneInfo(name), change - timedelta(days=2)
        with time_machine.travel(first, tick=False) as traveller:
            clock = VirtualClock(first, traveller)
            put: list[tuple[datetime, Trigger]] = []
            schedule = Schedule(lambda trigger, put=put, clock=clock: put.append((clock.now(), trigger)), clock)  # type: ignore[misc]
            schedule.start()
            for hour, kind in enumerate((Kind.KEEP_ALIVE, Kind.PRUNE, Kind.VERIFY), 1):
                schedule.nightly(kind, hour=hour, zone=zone)
            schedule.poll("acme", every=timedelta(hours=1), jitter=timedelta(0), first=first + timedelta(hours=1))
            for _ in range(5 * 24 * 4):
                clock.leap(timedelta(minutes=15))
                schedule.check()
                for _ in range(12):
                    await asyncio.sleep(0)  # noqa: TID251 - the scheduler's own steps
            schedule.stop()
        polls = [at for at, trigger in put if trigger.kind is Kind.POLL]
        assert len(polls) == 5 * 24, (name, change)
        for kind in (Kind.KEEP_ALIVE, Kind.PRUNE, Kind.VERIFY):
            days = Counter(_day(at, zone) for at, trigger in put if trigger.kind is kind)
            # Each day at most once; of five days, the first and the last may be cut.
            assert set(days.values()) == {1}, (name, change, kind, days)
            assert len(days) >= 4, (name, change, kind, days)
            nights += len(days)
    figure(
        "nights around the changes of all zones", f"{len(cases)} changes, {nights:,} chores, none twice, none missed"
    )


def _day(at: datetime, zone: ZoneInfo) -> date:
    return at.astimezone(zone).date()


@pytest.mark.parametrize("hours", [-87600, -1, 1, 87600])
async def test_a_clock_that_is_wrong_from_the_start_and_then_set_changes_no_folder(
    memory_path: Path, figure: Figure, hours: int
) -> None:
    """faults.md C1, C3: the folder's date is the job's own; nothing is taken for lost, and no file comes twice."""
    offset = timedelta(hours=hours)
    with stamina.set_testing(True, attempts=100):
        async with running(memory_path) as rig:
            # The server's clock is right, this machine's is off, and is set later.
            rig.sandbox.world.now = lambda: TODAY.timestamp() + rig.clock.monotonic() - 1000.0
            rig.clock.set_wall(rig.clock.now() + offset)
            nightly = rig.mirror.world.add_request("Nightly")
            jobs = [rig.mirror.world.add_job(nightly, completed_at=TODAY, files=tables(3), with_archive=False)]
            await rig.pass_time(minutes=20)
            rig.clock.set_wall(rig.clock.now() - offset)
            jobs.append(add_extract(rig.mirror, tables(3, seed=1)))
            await rig.pass_time(minutes=20)

            days = set()
            for job in jobs:
                rig.mirror.assert_identical(job)
                days.add("/".join(rig.mirror.snapshot_of(job).parts[-4:-1]))
            assert days == {"2026/11/22"}
            assert len(rig.mirror.snapshots()) == 2
    figure(f"a clock that is {hours} h off at the start, and set", "2 of 2 snapshots in the job's own day")


async def test_a_machine_that_begins_in_1970_dates_nothing_there(memory_path: Path, figure: Figure) -> None:
    """docs/project/faults.md C6: no battery for its clock, and no time server for a while."""
    begin = datetime(1970, 1, 1, 0, 1, tzinfo=UTC)
    with stamina.set_testing(True, attempts=100):
        async with running(memory_path, now=begin) as rig:
            rig.sandbox.world.now = lambda: TODAY.timestamp() + rig.clock.monotonic() - 1000.0
            # A token by the server's clock.
            granted = rig.sandbox.tokens._access
            granted |= {token: replace(grant, expires_at=TODAY.timestamp() + 9e6) for token, grant in granted.items()}
            nightly = rig.mirror.world.add_request("Nightly")
            job = rig.mirror.world.add_job(nightly, completed_at=TODAY, files=tables(3), with_archive=False)
            await rig.pass_time(minutes=20)
            rig.mirror.assert_identical(job)
            rig.clock.set_wall(TODAY + timedelta(hours=1))
            later = add_extract(rig.mirror, tables(3, seed=1))
            await rig.pass_time(minutes=20)
            rig.mirror.assert_identical(later)
            shown = [path for path in rig.mirror.visible() if "1970" in str(path.relative_to(rig.mirror.root))]
    assert shown == []
    figure("a machine that begins in 1970", "the snapshot is in the job's own year, also after the clock was set")
