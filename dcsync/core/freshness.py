"""How fresh the mirrored data of a data request is: what is expected next, what is missing, and when it ends. Pure.

A slot stays missed until an extract of that slot, or of a later one, is published. A job at Autodesk is not enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from dcsync.core.lifecycle import EXTRACT_LIFE, WAS_PUBLISHED, JobState
from dcsync.core.model import DataRequest, Job, JobId, JobPhase, Json, RequestId
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.core.schedule import (
    AHEAD,
    EARLY,
    GRACE,
    UsualTimes,
    dated_jobs,
    has_slots,
    runs_once,
    slot_after,
    slot_before,
    usual_times,
)
from dcsync.core.wire import time_json

#: The end of a schedule raises an alert this long before.
ENDS_SOON = timedelta(days=14)
#: A data request that runs once and was older than this when dcsync first saw it had its job before.
_ONCE_LOOK_BACK = timedelta(days=7)
#: More missed slots than these are not counted.
_MOST_MISSED = 1000
_MOMENT = timedelta(microseconds=1)


# --- missed slots -----------------------------------------------------------------------------------------------------


class Cause(StrEnum):
    """Why the extract of a slot is overdue."""

    #: Autodesk started no job in time.
    NOT_STARTED = "not started"
    #: Autodesk started a job in time. It took too long, or is still running.
    SLOW = "slow"
    #: The job failed or was cancelled at Autodesk.
    FAILED = "failed"
    #: Autodesk completed the extract in time. dcsync has not mirrored it.
    NOT_MIRRORED = "not mirrored"


@dataclass(frozen=True, slots=True, kw_only=True)
class MissedSlot:
    """A slot whose extract is overdue: neither it nor a later one is in the mirror."""

    queued_at: datetime
    due_at: datetime
    cause: Cause
    #: The phase of the slot's newest job at Autodesk. None without a job.
    phase: JobPhase | None
    jobs: tuple[JobId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the mirror knows about a data request: all its jobs, and the times from which its slots count."""

    jobs: Sequence[KnownJob]
    #: When dcsync first saw the data request. A slot that was due before does not count. None: only the last slot does.
    since: datetime | None = None
    #: `[[account]] start`. Extracts from before are not mirrored.
    start: datetime | None = None
    #: The oldest slot of an earlier schedule that was missed when the schedule changed.
    owed: MissedSlot | None = None

    @property
    def is_mirrored(self) -> bool:
        """Whether the mirror has, or had, an extract of the data request."""
        return any(known.state in WAS_PUBLISHED for known in self.jobs)

    def was_over(self, request: DataRequest | None) -> bool:
        """Whether the data request was over before dcsync first saw it, and Autodesk had deleted every extract."""
        if self.since is None or not self.jobs or self.is_mirrored:
            return False
        if request is not None and will_run(request, self.since):
            return False
        ends = [known.job.completed_at or known.job.created_at for known in self.jobs]
        return all(end is not None and end <= self.since - EXTRACT_LIFE for end in ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slot:
    """A slot that is not satisfied yet."""

    queued_at: datetime
    due_at: datetime
    overdue_at: datetime
    #: The jobs of the slot and when each was queued, oldest first.
    jobs: tuple[tuple[datetime, Job], ...]


def missed_slots(request: DataRequest, history: History, as_of: datetime) -> tuple[MissedSlot, ...]:
    """Return the slots that are overdue at a time and not satisfied, oldest first. A new schedule satisfies none."""
    owed = history.owed
    missed = _missed_slots(request, history, as_of)
    if owed is None or any(at >= owed.queued_at - EARLY for at in _mirrored_at(history)):
        return missed
    return missed if missed and missed[0].queued_at <= owed.queued_at else (owed, *missed)


def still_owed(
    before: RequestFreshness, sighting: Sighting, history: History, request: DataRequest
) -> MissedSlot | None:
    """Return the oldest missed slot if the schedule of `request` no longer has it.

    The other arguments are those of the schedule before. A slot that came due after the schedule was changed is not
    missed: the new schedule does not promise it.
    """
    oldest, polled_at, old = before.missed[0] if before.missed else None, sighting.polled_at, sighting.document
    if oldest is None or polled_at is None or old is None:
        return None
    changed_at = request.updated_at
    if changed_at is not None and changed_at != old.updated_at and oldest.due_at > changed_at:
        return None
    missed = _missed_slots(request, history, polled_at)
    return None if missed and missed[0].queued_at <= oldest.queued_at else oldest


def _mirrored_at(history: History) -> list[datetime]:
    """Return when the mirrored jobs were queued."""
    times = (known.job.created_at or known.job.completed_at for known in history.jobs if known.state in WAS_PUBLISHED)
    return [at for at in times if at is not None]


def _missed_slots(request: DataRequest, history: History, as_of: datetime) -> tuple[MissedSlot, ...]:
    return tuple(
        MissedSlot(
            queued_at=slot.queued_at,
            due_at=slot.due_at,
            cause=_cause(slot),
            phase=slot.jobs[-1][1].phase if slot.jobs else None,
            jobs=tuple(job.id for _, job in slot.jobs),
        )
        for slot in _open_slots(request, history, as_of)
        if slot.overdue_at <= as_of
    )


def _cause(slot: _Slot) -> Cause:
    """Return why the slot is overdue. Only what was known in time counts, so that the cause stays the same."""
    in_time = [job for created_at, job in slot.jobs if created_at < slot.overdue_at]
    if not in_time:
        return Cause.NOT_STARTED
    ended = [job for job in in_time if job.completed_at is None or job.completed_at < slot.overdue_at]
    if any(job.phase is JobPhase.SUCCEEDED for job in ended):
        return Cause.NOT_MIRRORED
    is_over = len(ended) == len(in_time) and all(job.phase in {JobPhase.FAILED, JobPhase.CANCELLED} for job in in_time)
    return Cause.FAILED if is_over else Cause.SLOW


def _open_slots(request: DataRequest, history: History, as_of: datetime) -> list[_Slot]:
    """Return the slots up to now that no published extract satisfies, oldest first."""
    is_single = runs_once(request)
    past = dated_jobs([known.job for known in history.jobs], as_of)
    usual = usual_times(request, past)
    found = _single_slot(request, history, as_of) if is_single else _repeated_slots(request, history, usual, as_of)
    slots = list(found)
    jobs: dict[datetime, list[tuple[datetime, Job]]] = {slot: [] for slot in slots}
    for created_at, job in past:
        # Of thousands of jobs, few belong to an open slot.
        if slots and (is_single or created_at >= slots[0] - EARLY):
            slot = slots[0] if is_single else slot_before(request, created_at + EARLY)
            if slot in jobs:
                jobs[slot].append((created_at, job))
    return [
        _Slot(
            queued_at=slot + usual.offset,
            due_at=slot + usual.offset + usual.duration,
            overdue_at=slot + usual.offset + usual.duration + usual.grace,
            jobs=tuple(jobs[slot]),
        )
        for slot in slots
    ]


def _single_slot(request: DataRequest, history: History, as_of: datetime) -> Iterator[datetime]:
    """Yield the time from which a data request that runs once should run, unless its extract is in the mirror."""
    slot = request.effective_from or request.created_at
    if slot is None or slot > as_of or history.is_mirrored:
        return
    if history.since is None or slot < history.since - _ONCE_LOOK_BACK:
        return
    if history.start is None or slot >= history.start:
        yield slot


def _repeated_slots(request: DataRequest, history: History, usual: UsualTimes, as_of: datetime) -> Iterator[datetime]:
    """Yield the slots after the last satisfied one, as far as they count, until the schedule's end."""
    first, last = request.effective_from, slot_before(request, as_of - usual.offset)
    if first is None or last is None:
        return
    begin = last if history.since is None else history.since - usual.offset - usual.duration + _MOMENT
    if history.start is not None:
        begin = max(begin, history.start - usual.offset)
    # A time far in the future comes from a wrong clock.
    times = [at for at in _mirrored_at(history) if at < as_of + AHEAD]
    satisfied = slot_before(request, max(times) + EARLY) if times else None
    if satisfied is not None:
        begin = max(begin, satisfied + _MOMENT)
    before = slot_before(request, begin - _MOMENT)
    slot = first if before is None else slot_after(request, before)
    for _ in range(_MOST_MISSED):
        if slot > last or (request.effective_to is not None and slot >= request.effective_to):
            return
        yield slot
        slot = slot_after(request, slot)


# --- the freshness of a data request ----------------------------------------------------------------------------------


class FreshnessState(StrEnum):
    """The state of a data request's data. Stable: `status --json` shows it."""

    #: Everything that was due is in the mirror.
    OK = "ok"
    #: An extract is expected, and not yet overdue.
    DUE = "due"
    #: At least one extract is overdue.
    LATE = "late"
    #: The schedule has ended: no more extracts will come.
    ENDED = "ended"
    #: The configuration says that the data request is over.
    RETIRED = "retired"
    #: It runs once, and nothing more is expected.
    DONE = "done"
    #: It was set inactive.
    INACTIVE = "inactive"
    #: It is no longer visible.
    GONE = "gone"
    #: Its schedule is unknown, or the job list could not be read since the last extract was due.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What dcsync knows about a data request from outside its jobs."""

    request: KnownRequest
    #: The data request as Autodesk last described it. None if it never could be read.
    document: DataRequest | None
    #: The last successful poll of the account.
    polled_at: datetime | None
    is_retired: bool = False
    is_gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFreshness:
    """How fresh the mirrored data of one data request is. Every reader shows these values."""

    request: RequestId
    description: str
    state: FreshnessState
    #: The newest snapshot in the mirror: its folder, relative to the root, and when Autodesk completed the extract.
    newest_folder: str | None = None
    newest_completed_at: datetime | None = None
    #: When the next extract should be complete. None if none is expected.
    next_expected_at: datetime | None = None
    #: The overdue slots, as of the last successful poll, oldest first.
    missed: tuple[MissedSlot, ...] = ()
    #: The end of the schedule. None if it has none, or if the data request runs once.
    ends_at: datetime | None = None

    @property
    def slots_missed(self) -> int:
        """The number of overdue extracts."""
        return len(self.missed)

    @property
    def oldest_missed_at(self) -> datetime | None:
        """The time at which the job of the oldest overdue extract should have been queued."""
        return self.missed[0].queued_at if self.missed else None

    @property
    def name(self) -> str:
        """The description, or else the ID."""
        return self.description or self.request

    def json(self) -> dict[str, Json]:
        """Return the stable keys of `status --json`."""
        return {
            "id": self.request,
            "description": self.description,
            "state": self.state.value,
            "newest_snapshot": self.newest_folder,
            "newest_completed_at": time_json(self.newest_completed_at),
            "next_expected_at": time_json(self.next_expected_at),
            "slots_missed": self.slots_missed,
            "oldest_missed_at": time_json(self.oldest_missed_at),
            "ends_at": time_json(self.ends_at),
        }


def request_freshness(sighting: Sighting, history: History, now: datetime) -> RequestFreshness:
    """Return the freshness of a data request.

    Lateness is judged as of the last successful poll: without a poll, dcsync does not know what Autodesk has done.
    """
    newest = max(
        (known for known in history.jobs if known.state is JobState.PUBLISHED),
        key=lambda known: (known.job.completed_at is not None, known.job.completed_at, known.job.id),
        default=None,
    )
    document, state = sighting.document, _standing_state(sighting, history, now)
    missed: tuple[MissedSlot, ...] = ()
    next_at = None
    if document is not None and sighting.polled_at is not None and state in {None, FreshnessState.ENDED}:
        missed = missed_slots(document, history, sighting.polled_at)
        next_at = _next_expected_at(document, history, now)
        current = _current_state(document, history, sighting.polled_at, now, is_over=next_at is None)
        state = state or (FreshnessState.LATE if missed else current)
    return RequestFreshness(
        request=sighting.request.id,
        description=sighting.request.description,
        state=state or FreshnessState.UNKNOWN,
        newest_folder=None if newest is None else newest.folder,
        newest_completed_at=None if newest is None else newest.job.completed_at,
        next_expected_at=next_at,
        missed=missed,
        ends_at=None if document is None or runs_once(document) else document.effective_to,
    )


def ends_soon(freshness: RequestFreshness, now: datetime) -> bool:
    """Say whether the schedule of a data request that still runs ends within 14 days."""
    is_running = freshness.state in {FreshnessState.OK, FreshnessState.DUE, FreshnessState.LATE, FreshnessState.UNKNOWN}
    return is_running and freshness.ends_at is not None and freshness.ends_at - now <= ENDS_SOON


def will_run(request: DataRequest, now: datetime) -> bool:
    """Say whether a data request that has no job yet should get one: dcsync follows it from now on."""
    if request.is_active is False:
        return False
    if runs_once(request):
        slot = request.effective_from or request.created_at
        return slot is not None and slot >= now - _ONCE_LOOK_BACK
    return has_slots(request) and (request.effective_to is None or request.effective_to > now)


def _standing_state(sighting: Sighting, history: History, now: datetime) -> FreshnessState | None:
    """Return the state that needs no look at the slots, if there is one."""
    document = sighting.document
    if sighting.is_retired:
        return FreshnessState.RETIRED
    if document is not None and runs_once(document) and history.is_mirrored:
        return FreshnessState.DONE
    if sighting.is_gone:
        return FreshnessState.GONE
    if document is None:
        return None
    if document.is_active is False:
        return FreshnessState.INACTIVE
    if document.effective_to is not None and document.effective_to <= now and not runs_once(document):
        return FreshnessState.ENDED
    return None if runs_once(document) or has_slots(document) else FreshnessState.UNKNOWN


def _current_state(
    request: DataRequest, history: History, polled_at: datetime, now: datetime, *, is_over: bool
) -> FreshnessState:
    """Return the state of a data request that still runs and misses no slot. `is_over`: no more extracts come."""
    open_slots = _open_slots(request, history, now)
    overdue = [slot for slot in open_slots if slot.overdue_at <= now]
    if any(_cause(slot) is Cause.NOT_MIRRORED for slot in overdue):
        return FreshnessState.LATE
    # Just after it became overdue, the next poll decides. Without one, it is unknown what Autodesk has done.
    if overdue and now - polled_at > GRACE:
        return FreshnessState.UNKNOWN
    if open_slots:
        return FreshnessState.DUE
    return FreshnessState.DONE if runs_once(request) and is_over else FreshnessState.OK


def _next_expected_at(request: DataRequest, history: History, now: datetime) -> datetime | None:
    """Return when the next extract should be complete: that of the current slot until it is overdue, then the next."""
    waiting = [slot for slot in _open_slots(request, history, now) if slot.overdue_at > now]
    if waiting:
        return waiting[0].due_at
    usual = usual_times(request, dated_jobs([known.job for known in history.jobs], now))
    last = slot_before(request, now - usual.offset)
    slot = request.effective_from if last is None else slot_after(request, last)
    if slot is None or (runs_once(request) and slot <= now):
        return None
    if request.effective_to is not None and slot >= request.effective_to and not runs_once(request):
        return None
    return slot + usual.offset + usual.duration
