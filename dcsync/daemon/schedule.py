"""The schedule of polls and nightly maintenance. APScheduler decides when, and its jobs only emit a trigger.

APScheduler swallows errors and cancellation, so no work runs in its jobs. It follows the wall clock. `check` corrects
the schedule after the clock jumped or the machine slept.
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

#: A larger difference between the wall clock and the monotonic clock means that the wall clock was set.
_JUMP = timedelta(seconds=60)


class Kind(StrEnum):
    """The work that a trigger asks for."""

    POLL = "poll"
    KEEP_ALIVE = "keep-alive"
    TIDY = "tidy"
    PRUNE = "prune"
    VERIFY = "verify"
    CHECK = "check"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """Work is due. A second trigger of the same kind and account changes nothing until the first was handled."""

    kind: Kind
    account: str = ""


class Nightly(BaseTrigger):  # type: ignore[misc]
    """Fires once on each day of a time zone, at `hour` plus `after`, also on nights when the clocks change.

    APScheduler's own CronTrigger with a jitter loops forever in the hour that repeats when summer time ends.
    """

    def __init__(self, *, hour: int, after: timedelta, zone: tzinfo) -> None:
        self._hour, self._after, self._zone = time(hour), after, zone

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the first such time after the previous one, or the first one from `now` on."""
        least = now if previous_fire_time is None else previous_fire_time + timedelta(microseconds=1)
        least = least.astimezone(UTC)
        day = least.astimezone(self._zone).date() - timedelta(days=2)
        while True:
            # UTC from here on: it has no repeated and no skipped hours.
            moment = datetime.combine(day, self._hour, self._zone).astimezone(UTC) + self._after
            if moment >= least:
                return moment
            day += timedelta(days=1)


class Schedule:
    """The triggers of a daemon. `put` is called in the event loop and must only record the trigger."""

    def __init__(self, put: Callable[[Trigger], None], clock: Clock) -> None:
        self._put = put
        self._clock = clock
        self._wall, self._monotonic = clock.now(), clock.monotonic()
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            # Triggers missed while the machine slept fire once, however late.
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def start(self) -> None:
        """Start. Must be called in the event loop."""
        self._scheduler.start()

    def stop(self) -> None:
        """Stop. No trigger fires after this."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def poll(self, account: str, *, every: timedelta, jitter: timedelta, first: datetime) -> None:
        """Poll an account at an interval, for the first time at `first`."""
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
        """Poll an account once at an extra time. If one is planned already, the earlier one stays."""
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
        """Fire each night at a random time within an hour from `hour` on, so that several mirrors do not coincide."""
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
        """Correct the schedule after a clock jump, and fire overdue triggers. Call it every few seconds."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        jump = (now - self._wall) - timedelta(seconds=monotonic - self._monotonic)
        self._wall, self._monotonic = now, monotonic
        if abs(jump) > _JUMP:
            log.warning("wall clock was set", by_seconds=round(jump.total_seconds()))
            for job in self._scheduler.get_jobs():
                if isinstance(job.trigger, Nightly):
                    job.modify(next_run_time=job.trigger.get_next_fire_time(None, now))
                elif job.next_run_time is not None:
                    # A trigger that was due in five minutes is still due in five minutes.
                    job.modify(next_run_time=job.next_run_time + jump)
        if self._scheduler.running:
            self._scheduler.wakeup()

    async def _fire(self, trigger: Trigger) -> None:
        self._put(trigger)
