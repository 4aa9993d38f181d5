"""A backfill: the activities of a past period, month by month, each from a one-time data request. Pure.

A period is divided into parts. A part is a month, or the days of a month that no snapshot has. Each part gets a data
request of its own. If its job fails, the part gets a new data request. The description names the days and the
attempt, so that a data request is found again at Autodesk whatever happened to the record of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Final

from dcsync.core.coverage import Days, includes
from dcsync.core.lifecycle import has_expired
from dcsync.core.model import DataRequest, Job, JobPhase, Json, RequestId
from dcsync.core.new_request import JOBS_A_DAY, NewRequest
from dcsync.core.schedule import runs_once
from dcsync.core.wire import time_json

#: The service groups whose extracts have the activities.
GROUP: Final = "activities"
GROUPS: Final = frozenset({GROUP, "all"})
#: How many data requests a part may use up before it needs attention.
MOST_TRIES: Final = 3
#: The pause after a failed job. It doubles with each further one.
_PAUSE: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_BEGIN: Final = datetime(1, 1, 1, tzinfo=UTC)


class PartState(StrEnum):
    """The state of a part."""

    #: No data request exists for it.
    WAITING = "waiting"
    #: Its data request exists. The extract is not in the mirror.
    REQUESTED = "requested"
    MIRRORED = "mirrored"
    #: The jobs of all its data requests failed.
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a backfill: some days of one month."""

    days: Days
    is_mirrored: bool = False
    #: How many of its data requests failed, and how many may fail before it needs attention.
    failures: int = 0
    most_failures: int = MOST_TRIES
    #: When the creation of its current data request began, by this machine's clock. It is stored before the call.
    began_at: datetime | None = None
    request: RequestId | None = None
    #: When it may get the next data request, and why the last one failed.
    retry_at: datetime | None = None
    problem: str = ""

    @property
    def state(self) -> PartState:
        """Its state."""
        if self.is_mirrored:
            return PartState.MIRRORED
        if self.request is not None:
            return PartState.REQUESTED
        return PartState.FAILED if self.failures >= self.most_failures else PartState.WAITING

    @property
    def name(self) -> str:
        """The month, or the days if they are not the whole month."""
        first, last = self.days.first, self.days.last
        if first.day == 1 and (last + _DAY).day == 1:
            return f"{first:%Y-%m}"
        return f"{first}" if first == last else f"{first} to {last}"

    @property
    def description(self) -> str:
        """The description of its current data request, which no other one has."""
        again = f" (attempt {self.failures + 1})" if self.failures else ""
        return f"Activities {self.name}{again}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """A period whose activities the mirror is to have, and its parts in order."""

    account: str
    days: Days
    parts: tuple[Part, ...] = ()

    def count(self, state: PartState) -> int:
        """Return how many parts have a state."""
        return sum(part.state is state for part in self.parts)

    @property
    def is_complete(self) -> bool:
        """Whether every part is in the mirror."""
        return all(part.is_mirrored for part in self.parts)

    def replaced(self, part: Part) -> Backfill:
        """Return the backfill with another state of a part, which its days identify."""
        return replace(self, parts=tuple(part if other.days == part.days else other for other in self.parts))

    def next_part(self, now: datetime) -> Part | None:
        """Return the oldest part that may get a data request now. Autodesk stops serving the oldest days first."""
        ready = (part for part in self.parts if part.state is PartState.WAITING)
        return next((part for part in ready if part.retry_at is None or part.retry_at <= now), None)

    def json(self) -> dict[str, Json]:
        """Return the stable keys of a backfill."""
        return {
            "account": self.account,
            "first": self.days.first.isoformat(),
            "last": self.days.last.isoformat(),
            "parts": [
                {
                    "first": part.days.first.isoformat(),
                    "last": part.days.last.isoformat(),
                    "state": part.state.value,
                    "request": part.request,
                    "failures": part.failures,
                    "problem": part.problem or None,
                    "retry_at": time_json(part.retry_at),
                }
                for part in self.parts
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrored:
    """What the mirror has of the activities of an account."""

    covered: tuple[Days, ...] = ()
    #: The days of the extracts that exist at Autodesk and are not in the mirror yet.
    coming: tuple[Days, ...] = ()
    #: From this day on, the schedule of a running data request brings the activities.
    promised_from: date | None = None
    #: The newest job of each data request, as the manifest knows it.
    jobs: Mapping[RequestId, Job] = field(default_factory=dict)


def period(first_month: date, last_month: date | None, now: datetime) -> Days | None:
    """Return the days from one month to another, up to yesterday in UTC. None if all of them are in the future."""
    yesterday = now.astimezone(UTC).date() - _DAY
    last = yesterday if last_month is None else min(_month_end(last_month), yesterday)
    first = first_month.replace(day=1)
    return Days(first=first, last=last) if first <= last else None


def divide(backfill: Backfill, mirrored: Mirrored) -> Backfill:
    """Return a backfill with new parts for the days that neither the mirror nor a part has.

    What runs on a schedule brings the days from `promised_from` on. Parts that are no longer in the period are left
    out, unless they have a data request.
    """
    wanted, parts = backfill.days, []
    for part in backfill.parts:
        is_inside = wanted.first <= part.days.first and part.days.last <= wanted.last
        if is_inside or part.state is PartState.REQUESTED or part.began_at is not None:
            parts.append(part)
    if mirrored.promised_from is not None:
        wanted = Days(first=wanted.first, last=min(wanted.last, mirrored.promised_from - _DAY))
    missing = missing_days(wanted, [*mirrored.covered, *mirrored.coming, *(part.days for part in parts)])
    parts += [Part(days=days) for gap in missing for days in _months(gap)]
    return replace(backfill, parts=tuple(sorted(parts, key=lambda part: part.days)))


def note_mirrored(backfill: Backfill, mirrored: Mirrored) -> Backfill:
    """Return a backfill in which the parts are done whose days are in the mirror."""
    parts = [
        part if part.is_mirrored or missing_days(part.days, mirrored.covered) else replace(part, is_mirrored=True)
        for part in backfill.parts
    ]
    return replace(backfill, parts=tuple(parts))


def note_requests(
    backfill: Backfill,
    requests: Iterable[DataRequest],
    jobs: Mapping[RequestId, Job],
    now: datetime,
    *,
    projects: Collection[str] = (),
) -> Backfill:
    """Return a backfill in which each part knows its data request at Autodesk, and how its job ended.

    `jobs` has the newest job of each data request, and `projects` are those of the account.
    """
    known: dict[str, DataRequest] = {}
    for request in requests:
        known[request.id] = request
        if runs_once(request) and request.service_groups == (GROUP,) and includes(request, projects):
            known.setdefault(_key(request.description, _days_of(request)), request)
    parts = [part if part.is_mirrored else _followed(part, known, jobs, now) for part in backfill.parts]
    return replace(backfill, parts=tuple(parts))


def allow_more(backfill: Backfill) -> Backfill:
    """Return a backfill whose failed parts may try again at once, as often as at first. A user asks for this."""
    parts = [
        replace(part, retry_at=None, most_failures=max(part.most_failures, part.failures + MOST_TRIES))
        if part.state is PartState.FAILED or part.retry_at is not None
        else part
        for part in backfill.parts
    ]
    return replace(backfill, parts=tuple(parts))


def request_for(part: Part, now: datetime, project_ids: Sequence[str] = ()) -> NewRequest:
    """Return the data request of a part. Its period are whole days in UTC, and both ends belong to it."""
    return NewRequest(
        service_groups=(GROUP,),
        starts_at=now,
        description=part.description,
        project_ids=tuple(project_ids),
        date_range="CUSTOM",
        start_date=datetime.combine(part.days.first, time(), UTC),
        end_date=datetime.combine(part.days.last + _DAY, time(), UTC) - timedelta(milliseconds=1),
    )


def spare_jobs(requests: Iterable[DataRequest], jobs: Iterable[Job], now: datetime) -> int:
    """Return how many jobs a backfill may start now without taking one from a schedule.

    Two jobs a day are kept for each data request with a schedule: a job may start less than
    24 hours after the previous one. One job a day is always left for the backfill.
    """
    running = {
        request.id
        for request in requests
        if not runs_once(request)
        and request.is_active is not False
        and (request.effective_to is None or request.effective_to > now)
    }
    recent = [job for job in jobs if job.created_at is not None and now - _DAY < job.created_at]
    others = sum(job.request_id not in running for job in recent)
    return max(0, min(JOBS_A_DAY - len(recent), max(1, JOBS_A_DAY - 2 * len(running)) - others))


def _followed(part: Part, known: Mapping[str, DataRequest], jobs: Mapping[RequestId, Job], now: datetime) -> Part:
    """Return a part after a look at Autodesk. `known` are the data requests there, by ID and by description.

    Each turn leaves one failed data request behind.
    """
    while True:
        request = known.get(part.request or "") or known.get(_key(part.description, part.days))
        if request is None:
            return part if part.request is None else _failed(part, "its data request was deleted", now)
        problem = _problem_of(jobs.get(request.id), now)
        if problem is None:
            return replace(part, request=request.id, began_at=None, retry_at=None)
        part = _failed(part, problem, now)


def _key(description: str, days: Days | None) -> str:
    return f"{description}/{'' if days is None else days.text}"


def _days_of(request: DataRequest) -> Days | None:
    start, end = request.start_date, request.end_date
    if start is None or end is None:
        return None
    return Days(first=start.astimezone(UTC).date(), last=end.astimezone(UTC).date())


def _failed(part: Part, problem: str, now: datetime) -> Part:
    pause = _PAUSE * 2**part.failures
    return replace(part, request=None, began_at=None, failures=part.failures + 1, retry_at=now + pause, problem=problem)


def _problem_of(job: Job | None, now: datetime) -> str | None:
    """Return why the job of a data request brings nothing, or None while it may."""
    match None if job is None else job.phase:
        case JobPhase.FAILED:
            return "its job failed at Autodesk"
        case JobPhase.CANCELLED:
            return "its job was cancelled at Autodesk"
        case JobPhase.SUCCEEDED if job is not None and has_expired(job.completed_at, now):
            return "Autodesk deleted its extract before it was mirrored"
        case _:
            return None


def newest_jobs(jobs: Iterable[Job]) -> dict[RequestId, Job]:
    """Return the newest job of each data request."""
    found: dict[RequestId, Job] = {}
    for job in jobs:
        other = found.get(job.request_id)
        if other is None or (job.created_at or _BEGIN) > (other.created_at or _BEGIN):
            found[job.request_id] = job
    return found


def missing_days(wanted: Days, covered: Collection[Days]) -> list[Days]:
    """Return the days of a range that none of the others has, in order."""
    missing, begin = [], wanted.first
    for days in sorted(covered):
        if days.last < begin or not days.count:
            continue
        if days.first > wanted.last:
            break
        if days.first > begin:
            missing.append(Days(first=begin, last=days.first - _DAY))
        begin = days.last + _DAY
    return [*missing, Days(first=begin, last=wanted.last)] if begin <= wanted.last else missing


def _months(days: Days) -> list[Days]:
    """Return a range divided at the ends of months."""
    found, begin = [], days.first
    while begin <= days.last:
        end = min(_month_end(begin), days.last)
        found.append(Days(first=begin, last=end))
        begin = end + _DAY
    return found


def _month_end(day: date) -> date:
    return (day.replace(day=1) + 31 * _DAY).replace(day=1) - _DAY
