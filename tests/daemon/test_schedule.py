"""The schedule, and its correction after the wall clock was set."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import time_machine

from dcsync.daemon.schedule import Kind, Nightly, Schedule, Trigger
from tests.rigs.virtual import VirtualClock

NOON = datetime(2026, 3, 27, 12, tzinfo=UTC)


@dataclass(slots=True)
class Rig:
    clock: VirtualClock
    schedule: Schedule
    put: list[tuple[datetime, Trigger]] = field(default_factory=list)

    async def pass_time(self, span: timedelta, *, step: timedelta = timedelta(seconds=30)) -> None:
        """Let time pass, and check the schedule every half minute as the daemon's ticker does."""
        until = self.clock.now() + span
        while self.clock.now() < until:
            self.clock.leap(min(step, until - self.clock.now()))
            self.schedule.check()
            for _ in range(20):
                await asyncio.sleep(0)  # noqa: TID251 - the scheduler's own steps

    def times(self, kind: Kind = Kind.POLL) -> list[datetime]:
        return [at for at, trigger in self.put if trigger.kind is kind]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    with time_machine.travel(NOON, tick=False) as traveller:
        clock = VirtualClock(NOON, traveller)
        ready = Rig(clock, Schedule(lambda trigger: ready.put.append((clock.now(), trigger)), clock))
        ready.schedule.start()
        yield ready
        ready.schedule.stop()


def every_quarter(rig: Rig) -> None:
    rig.schedule.poll("acme", every=timedelta(minutes=15), jitter=timedelta(0), first=NOON + timedelta(minutes=15))


async def test_polls_come_at_their_interval(rig: Rig) -> None:
    every_quarter(rig)

    await rig.pass_time(timedelta(hours=2))

    assert len(rig.times()) == 8
    assert {trigger.account for _, trigger in rig.put} == {"acme"}


async def test_missed_triggers_fire_once(rig: Rig) -> None:
    every_quarter(rig)

    rig.clock.leap(timedelta(days=3))
    await rig.pass_time(timedelta(minutes=1))

    assert len(rig.times()) == 1


@pytest.mark.parametrize("jump", [timedelta(days=-3650), timedelta(hours=-1), timedelta(hours=1), timedelta(days=3650)])
async def test_a_clock_change_causes_neither_silence_nor_a_burst(rig: Rig, jump: timedelta) -> None:
    every_quarter(rig)
    await rig.pass_time(timedelta(minutes=5))

    rig.clock.set_wall(rig.clock.now() + jump)
    await rig.pass_time(timedelta(minutes=9))
    assert rig.times() == []
    await rig.pass_time(timedelta(minutes=52))

    assert len(rig.times()) == 4


async def test_an_extra_poll_fires_on_time_and_the_earlier_of_two_wins(rig: Rig) -> None:
    every_quarter(rig)
    rig.schedule.poll_once("acme", NOON + timedelta(minutes=4))
    rig.schedule.poll_once("acme", NOON + timedelta(minutes=8))

    await rig.pass_time(timedelta(minutes=14))

    assert [at - NOON for at in rig.times()] == [timedelta(minutes=4)]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns", "Pacific/Apia", "UTC"])
async def test_a_nightly_task_runs_once_a_night_also_when_the_clock_changes(rig: Rig, zone: str) -> None:
    """faults.md C2: the start of summer time on 2026-03-29, and a shift of half an hour on Lord Howe on 04-05."""
    rig.schedule.nightly(Kind.PRUNE, hour=2, zone=ZoneInfo(zone))

    await rig.pass_time(timedelta(days=14), step=timedelta(minutes=10))

    nights = [at.astimezone(ZoneInfo(zone)).date() for at in rig.times(Kind.PRUNE)]
    assert len(nights) == len(set(nights)) == 14
    hours = {at.astimezone(ZoneInfo(zone)).hour for at in rig.times(Kind.PRUNE)}
    assert hours <= {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("zone", "first"),
    [
        ("Europe/Berlin", datetime(2026, 10, 22, 12, tzinfo=UTC)),
        ("America/New_York", datetime(2026, 10, 29, 12, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2026, 4, 2, 12, tzinfo=UTC)),
        ("Pacific/Apia", datetime(2011, 12, 27, 12, tzinfo=UTC)),
    ],
)
@pytest.mark.parametrize("hour", [0, 1, 2, 3])
def test_a_nightly_task_runs_once_in_nights_with_repeated_or_skipped_hours(
    zone: str, first: datetime, hour: int
) -> None:
    """docs/project/faults.md C2."""
    trigger = Nightly(hour=hour, after=timedelta(minutes=55), zone=ZoneInfo(zone))
    moments = [trigger.get_next_fire_time(None, first)]
    for _ in range(5):
        # A little late, as the ticker is.
        moments.append(trigger.get_next_fire_time(moments[-1], moments[-1] + timedelta(minutes=10)))

    days = [moment.astimezone(ZoneInfo(zone)).date() for moment in moments]
    assert len(set(days)) == 6
    spans = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert all(timedelta(hours=23) <= span <= timedelta(hours=25) for span in spans)


async def test_the_next_poll_is_known(rig: Rig) -> None:
    assert rig.schedule.next_poll() is None
    every_quarter(rig)
    rig.schedule.nightly(Kind.TIDY, hour=12, zone=UTC)

    assert rig.schedule.next_poll() == NOON + timedelta(minutes=15)


async def test_a_stopped_schedule_fires_no_trigger(rig: Rig) -> None:
    every_quarter(rig)
    rig.schedule.stop()

    await rig.pass_time(timedelta(hours=1))

    assert rig.put == []
