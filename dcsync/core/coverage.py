"""Which days the windows of a data request cover, and which days are missing. Pure.

Tables such as `activities_…` have only the rows of a period (api.md §8). A weekly data request with the default
period gets one day in seven. A day counts as covered when one window has all of it. Days are in UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TypeAlias

from dcsync.core.model import DataRequest, Job, JobId, Json

#: Autodesk returns activities about 12 months back (docs/project/api.md §8). dcsync cannot fetch older days.
SERVED_DAYS = 365
#: The longest period of one extract, by the schema documents of the tables.
MAX_DAYS = 31

_DAY = timedelta(days=1)
#: The number of whole days before the day of the job, for periods of a fixed length. `TODAY` ends before its day does.
_BEFORE = {"YESTERDAY": 1, "PAST_7_DAYS": 7, "TODAY": 0}
_DEFAULT = "YESTERDAY"
#: The shortest time between two extracts, in days.
_STEPS = {"DAY": 1, "WEEK": 7, "MONTH": 28, "YEAR": 365}
_MOST_TIMES = 1000
#: The years that a recorded window may have: sums of its days and of any schedule are dates too.
_YEARS = range(1900, 5000)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Days:
    """A range of days. Both ends belong to it. An empty one ends on the day before its first."""

    first: date
    last: date

    @property
    def count(self) -> int:
        """The number of days."""
        return (self.last - self.first).days + 1

    @property
    def text(self) -> str:
        """The range as ISO 8601 writes an interval."""
        return f"{self.first}/{self.last}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The days that the windows of a data request have and lack, both in order, without overlaps."""

    covered: tuple[Days, ...]
    gaps: tuple[Days, ...]

    def json(self) -> dict[str, Json]:
        """Return the coverage for programs."""
        return {"covered": _days_json(self.covered), "gaps": _days_json(self.gaps)}

    def fillable(self, now: datetime) -> tuple[Days, ...]:
        """Return the part of the gaps that Autodesk still serves."""
        oldest = now.astimezone(UTC).date() - _DAY * SERVED_DAYS
        return tuple(Days(first=max(gap.first, oldest), last=gap.last) for gap in self.gaps if gap.last >= oldest)


NO_COVERAGE = Coverage(covered=(), gaps=())

#: The data requests of an account whose snapshots have window tables, each with its published jobs.
Windows: TypeAlias = "Sequence[tuple[DataRequest, Sequence[Job]]]"


def window_of(request: DataRequest, job: Job) -> Days | None:
    """Return the whole days that the windows of a job have. None if its period is unknown.

    The range is empty if the period has no whole day, such as `TODAY`.
    """
    day = _day_of(job)
    is_of_job = job.start_date is not None or job.end_date is not None
    start, end = (job.start_date, job.end_date) if is_of_job else (request.start_date, request.end_date)
    name = (request.date_range or "").upper()
    # One date alone counts for both (APS, POST requests, startDate).
    given = start or end
    if given is not None and (is_of_job or name in {"", "CUSTOM"}):
        first, last = ((moment or given).astimezone(UTC).date() for moment in (start, end))
        if last < first:
            return None
        if (last - first).days < MAX_DAYS:
            return Days(first=first, last=last)
        # A longer period gives the default period (the same page).
        name = _DEFAULT
    return None if day is None else _relative(name or _DEFAULT, day)


def coverage(
    request: DataRequest,
    jobs: Sequence[Job],
    now: datetime,
    *,
    others: Windows = (),
    recorded: Mapping[JobId, Days] | None = None,
) -> Coverage:
    """Return the days that the windows of a data request cover, given its published jobs in any order.

    Days before its first window do not count, even if that window has no whole day. Days after its last window are a
    gap as soon as the next extract cannot have them. `others` fill gaps: those for the whole account, and those for all
    of its projects. `recorded` are windows as they were known when their jobs were published. The data request may have
    changed since.
    """
    known = recorded or {}
    own = _windows(request, jobs, known)
    if not own:
        return NO_COVERAGE
    fills = [
        window for other, its_jobs in others if _includes(other, request) for window in _windows(other, its_jobs, known)
    ]
    covered = _merged([*own, *fills])
    newest = max(window.last for window in own)
    end = max(newest, _lost_until(request, jobs, now) or newest)
    gaps = []
    last = min(own).first - _DAY
    for days in covered:
        if days.first > last + _DAY and last < end:
            gaps.append(Days(first=last + _DAY, last=min(days.first - _DAY, end)))
        last = max(last, days.last)
    if last < end:
        gaps.append(Days(first=last + _DAY, last=end))
    return Coverage(covered=covered, gaps=tuple(gaps))


def parse_days(value: Json) -> Days | None:
    """Parse a recorded range of days. None for a missing range, or a malformed one."""
    first, slash, last = value.partition("/") if isinstance(value, str) else ("", "", "")
    if not slash:
        return None
    try:
        found = Days(first=date.fromisoformat(first), last=date.fromisoformat(last))
    except ValueError:
        return None
    return found if found.first.year in _YEARS and found.last.year in _YEARS and found.count >= 0 else None


def wider_range(request: DataRequest) -> str | None:
    """Return the date range that would cover every day. None if that of the data request does."""
    step, length = _step_days(request), _length_days(request)
    if step is None or length is None or length >= step:
        return None
    for name in ("YESTERDAY", "PAST_7_DAYS"):
        if _BEFORE[name] >= step:
            return name
    monthly = (request.schedule_interval or "").upper() == "MONTH" and (request.recurring_interval or 1) <= 1
    return "LAST_MONTH" if monthly else "PAST_7_DAYS, with a weekly schedule"


def promised_from(
    request: DataRequest, jobs: Sequence[Job], recorded: Mapping[JobId, Days], now: datetime
) -> date | None:
    """Return the day from which the next extracts of a schedule bring every day. None without such a schedule.

    `jobs` are those that exist now. Their windows are not promised.
    """
    step, length = _step_days(request), _length_days(request)
    if step is None or length is None or length < step or request.is_active is False:
        return None
    if request.effective_to is not None and request.effective_to <= now:
        return None
    own = _windows(request, jobs, recorded)
    if own:
        return max(window.last for window in own) + _DAY
    begins = request.effective_from or now
    return max(begins, now).astimezone(UTC).date() - _DAY * length


def includes(request: DataRequest, projects: Iterable[str]) -> bool:
    """Say whether the extracts of a data request have these projects, or the whole account if no project is given."""
    wide, narrow = request.projects, frozenset(projects)
    return not wide or bool(narrow and narrow <= wide)


def _step_days(request: DataRequest) -> int | None:
    """Return the shortest time between two scheduled extracts. None for a data request without a known schedule."""
    times = max(request.recurring_interval or 1, 1)
    step = _STEPS.get((request.schedule_interval or "").upper())
    return None if step is None or times > _MOST_TIMES else step * times


def _length_days(request: DataRequest) -> int | None:
    """Return how many whole days before its extract a data request covers. None if that is not a fixed number."""
    return _BEFORE.get((request.date_range or _DEFAULT).upper()) if request.start_date is None else None


def _relative(name: str, day: date) -> Days | None:
    """Return the whole days of a period that is relative to the day of the job. None if its name is unknown."""
    month = day.replace(day=1)
    match name:
        case "MONTH_TO_DATE":
            first, last = month, day - _DAY
        case "LAST_MONTH":
            first, last = (month - _DAY).replace(day=1), month - _DAY
        case _ if name in _BEFORE:
            first, last = day - _DAY * _BEFORE[name], day - _DAY
        case _:
            return None
    return Days(first=first, last=last)


def _windows(request: DataRequest, jobs: Iterable[Job], recorded: Mapping[JobId, Days]) -> list[Days]:
    found = (recorded.get(job.id) or window_of(request, job) for job in jobs)
    return [window for window in found if window is not None]


def _merged(windows: Iterable[Days]) -> tuple[Days, ...]:
    """Return the same days in order, without overlaps and without neighbours."""
    merged: list[Days] = []
    for window in sorted(window for window in windows if window.count):
        if merged and window.first <= merged[-1].last + _DAY:
            merged[-1] = Days(first=merged[-1].first, last=max(merged[-1].last, window.last))
        else:
            merged.append(window)
    return tuple(merged)


def _lost_until(request: DataRequest, jobs: Iterable[Job], now: datetime) -> date | None:
    """Return the last day that is over and that the next scheduled extract will not cover."""
    step, length = _step_days(request), _length_days(request)
    if step is None or length is None or request.is_active is False:
        return None
    if request.effective_to is not None and request.effective_to <= now:
        # No extract follows, which another alert says.
        return None
    newest = max((day for job in jobs if (day := _day_of(job)) is not None), default=None)
    if newest is None:
        return None
    return min(newest + _DAY * (step - length - 1), now.astimezone(UTC).date() - _DAY)


def _includes(other: DataRequest, request: DataRequest) -> bool:
    """Say whether the extracts of `other` have the projects of `request`."""
    return other.id != request.id and includes(other, request.projects)


def _day_of(job: Job) -> date | None:
    """Return the day on which a job began, to which its period is relative."""
    moment = job.created_at or job.started_at or job.completed_at
    return None if moment is None else moment.astimezone(UTC).date()


def _days_json(ranges: Iterable[Days]) -> list[Json]:
    """Return intervals as ISO 8601 writes them. Both days belong to an interval."""
    return [days.text for days in ranges]
