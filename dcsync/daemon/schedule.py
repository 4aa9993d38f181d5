"""When what is due: APScheduler decides, and all that it ever does is to put a trigger down.

It swallows errors and cancellation, so no work runs in its jobs. It goes by the wall clock; `check` keeps it right when
that one jumps or the machine slept.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import StrEnum

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

from dcsync.clock import Clock

log = structlog.get_logger(__name__)

#: The wall clock moved by itself when it differs by more than this from the one that nobody sets.
_JUMP = timedelta(seconds=60)


class Kind(StrEnum):
    """What a trigger asks for."""

    POLL = "poll"
    KEEP_ALIVE = "keep-alive"
    TIDY = "tidy"
    PRUNE = "prune"
    VERIFY = "verify"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """Something is due. A second one of the same kind and account before the first was taken up changes nothing."""

    kind: Kind
    account: str = ""


class Nightly(BaseTrigger):  # type: ignore[misc]
    """Once on each day of a zone's calendar, `after` an hour of it began, whatever the law does to clocks that night.

    APScheduler's own CronTrigger, with a jitter, goes back in the hour that comes twice in autumn, and never returns.
    """

    def __init__(self, *, hour: int, after: timedelta, zone: tzinfo) -> None:
        self._hour, self._after, self._zone = time(hour), after, zone

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the first such moment after the previous one, or from now on."""
        least = now if previous_fire_time is None else previous_fire_time + timedelta(microseconds=1)
        least = least.astimezone(UTC)
        day = least.astimezone(self._zone).date() - timedelta(days=2)
        while True:
            # In UTC from here on: there no hour comes twice, and none is left out.
            moment = datetime.combine(day, self._hour, self._zone).astimezone(UTC) + self._after
            if moment >= least:
                return moment
            day += timedelta(days=1)


class Schedule:
    """The triggers of a daemon. `put` is called from the event loop and must only note."""

    def __init__(self, put: Callable[[Trigger], None], clock: Clock) -> None:
        self._put = put
        self._clock = clock
        self._wall, self._monotonic = clock.now(), clock.monotonic()
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            # What was missed while the machine slept happens once, however late.
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def start(self) -> None:
        """Begin. Call it from the event loop."""
        self._scheduler.start()

    def stop(self) -> None:
        """End; nothing is put down any more."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def poll(self, account: str, *, every: timedelta, jitter: timedelta, first: datetime) -> None:
        """Poll an account from `first` on, at an interval."""
        seconds, spread = every.total_seconds(), int(jitter.total_seconds())
        self._scheduler.add_job(
            self._fire,
            IntervalTrigger(seconds=int(seconds), jitter=spread or None, timezone=UTC),
            args=[Trigger(kind=Kind.POLL, account=account)],
            id=f"poll:{account}",
            next_run_time=first,
            replace_existing=True,
        )

    def poll_once(self, account: str, at: datetime) -> None:
        """Poll an account once more at a time; the earlier of two such times stays."""
        known = self._scheduler.get_job(f"once:{account}")
        if known is not None and known.next_run_time is not None and known.next_run_time <= at:
            return
        self._scheduler.add_job(
            self._fire,
            DateTrigger(run_date=at, timezone=UTC),
            args=[Trigger(kind=Kind.POLL, account=account)],
            id=f"once:{account}",
            replace_existing=True,
        )

    def nightly(self, kind: Kind, *, hour: int, zone: tzinfo) -> None:
        """Put a trigger down each night, within an hour from `hour` on: several mirrors need not start as one."""
        self._scheduler.add_job(
            self._fire,
            Nightly(hour=hour, after=timedelta(seconds=random.uniform(0, 3600)), zone=zone),  # noqa: S311 - no secret
            args=[Trigger(kind=kind)],
            id=kind.value,
            replace_existing=True,
        )

    def next_poll(self) -> datetime | None:
        """Return when the next poll of any account is due."""
        times = [job.next_run_time for job in self._scheduler.get_jobs() if job.id.startswith(("poll:", "once:"))]
        return min((time for time in times if time is not None), default=None)

    def check(self) -> None:
        """Put right what a clock that jumped has shifted, and put down what is overdue. Call it every few seconds."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        jump = (now - self._wall) - timedelta(seconds=monotonic - self._monotonic)
        self._wall, self._monotonic = now, monotonic
        if abs(jump) > _JUMP:
            log.warning("the wall clock was set", by_seconds=round(jump.total_seconds()))
            for job in self._scheduler.get_jobs():
                if isinstance(job.trigger, Nightly):
                    job.modify(next_run_time=job.trigger.get_next_fire_time(None, now))
                elif job.next_run_time is not None:
                    # What was due in five minutes is due in five minutes.
                    job.modify(next_run_time=job.next_run_time + jump)
        if self._scheduler.running:
            self._scheduler.wakeup()

    async def _fire(self, trigger: Trigger) -> None:
        self._put(trigger)
