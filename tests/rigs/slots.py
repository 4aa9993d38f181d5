"""Builders of a data request's history: its schedule, its jobs, and what dcsync knows of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from dcsync.core.freshness import History
from dcsync.core.lifecycle import JobState
from dcsync.core.model import DataRequest, Job, JobId
from dcsync.core.ports import KnownJob
from tests.fakes import make_job, make_request

HOUR, MINUTE, DAY = timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)
#: A slot three weeks later.
TODAY = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
#: Slot 0, and when dcsync first saw the data request: a day before it.
FIRST = datetime(2026, 11, 1, 2, 0, tzinfo=UTC)
SINCE = FIRST - DAY
TAKES = 30 * MINUTE
#: How long after its slot an extract is overdue.
OVERDUE = TAKES + HOUR


def make_daily(**changes: Any) -> DataRequest:
    return make_request(**{"schedule_interval": "DAY", "recurring_interval": 1, "effective_from": FIRST, **changes})


def make_once(**changes: Any) -> DataRequest:
    return make_daily(schedule_interval="ONE_TIME", **changes)


def made(created_at: datetime, *, takes: timedelta = 30 * MINUTE, **changes: Any) -> Job:
    """Return a job that was queued then and took so long."""
    values = {"id": JobId(f"job-{created_at:%d%H%M}"), "created_at": created_at, "completed_at": created_at + takes}
    return make_job(**{**values, **changes})


def days(count: int, *, until: datetime = TODAY, after: timedelta = timedelta(0)) -> list[Job]:
    """Return a job for each of the days before `until`, queued so long after its slot."""
    return [made(until - number * DAY + after) for number in range(1, count + 1)]


def slot(number: int) -> datetime:
    return FIRST + number * DAY


def known(
    number: int, state: JobState = JobState.PUBLISHED, *, after: timedelta = timedelta(0), **changes: Any
) -> KnownJob:
    """Return the job of a slot, queued that long after it."""
    created = slot(number) + after
    values = {"id": JobId(f"job-{created:%d%H%M}"), "created_at": created, "completed_at": created + TAKES}
    return KnownJob(job=make_job(**{**values, **changes}), state=state, folder=f"acme/x/{number}")


def running(number: int, **changes: Any) -> KnownJob:
    pending = {"status": "running", "completion_status": None, "completed_at": None}
    return known(number, JobState.WAITING, **{**pending, **changes})


def failed(number: int, **changes: Any) -> KnownJob:
    return known(number, JobState.EMPTY, **{"completion_status": "failed", **changes})


def history(*jobs: KnownJob, **changes: Any) -> History:
    return History(**{"jobs": jobs, "since": SINCE, **changes})


#: Data requests with a schedule.
SCHEDULED = st.builds(
    lambda interval, times, first: make_request(
        schedule_interval=interval, recurring_interval=times, effective_from=first
    ),
    st.sampled_from(["DAY", "WEEK", "MONTH", "YEAR"]),
    st.integers(0, 30),
    st.datetimes(datetime(2000, 1, 1), datetime(2030, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001 - bounds
)
