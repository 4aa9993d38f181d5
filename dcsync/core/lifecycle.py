"""The states of a job and its transitions, in one table. A transition that is not in it is a bug and is refused."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from dcsync.core.model import EXTRACT_LIFE_DAYS, Job, JobPhase
from dcsync.core.names import printable


class JobState(StrEnum):
    """A job's state in the manifest (docs/project/design.md, Job states)."""

    #: Autodesk has not completed the job, or reports a status that dcsync does not know.
    WAITING = "waiting"
    #: Autodesk has completed the job, and dcsync has done nothing with it.
    SEEN = "seen"
    #: The data listing was read.
    LISTED = "listed"
    #: Files are being downloaded.
    STAGING = "staging"
    PUBLISHED = "published"
    #: The retention policy removed the full tables. The tables whose rows exist nowhere else are in the folder.
    REDUCED = "reduced"
    PRUNED = "pruned"
    #: An attempt failed. The next one is due at `next_try_at`.
    FAILED = "failed"
    #: The job failed, was cancelled, or did not end within 30 days at Autodesk, so it has no extract.
    EMPTY = "empty"
    #: The job was older than 30 days when dcsync first saw it. Its extract was never dcsync's to mirror.
    TOO_OLD = "too_old"
    #: A loss: Autodesk deleted the extract before it was mirrored, or before its lost folder could be downloaded again.
    EXPIRED = "expired"
    #: The content was wrong at every attempt. It is tried once a day, and the other jobs continue without it.
    QUARANTINED = "quarantined"


S = JobState

#: The states that each state may change to. Each state may also change to itself, because recovery repeats its steps.
#: Where several hosts share the manifest, a poll may have read a job as waiting that another host has moved on since.
#: The poll then records it as seen, so SEEN is reachable from every state.
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    # Autodesk completed the job, or the job failed, was cancelled or never ended there. EXPIRED: its status is still
    # unknown after 30 days. SEEN: also when the operator named a job with an unknown status (`sync --job ID`).
    S.WAITING: frozenset({S.SEEN, S.EMPTY, S.EXPIRED}),
    # PUBLISHED, here and below: the job's folder already exists and is adopted.
    # WAITING, here and below: a named job with an unknown status has no data listing.
    S.SEEN: frozenset({S.WAITING, S.LISTED, S.FAILED, S.EXPIRED, S.QUARANTINED, S.PUBLISHED}),
    S.LISTED: frozenset({S.SEEN, S.STAGING, S.FAILED, S.EXPIRED, S.QUARANTINED, S.PUBLISHED}),
    # LISTED, here and below: dcsync retries the job.
    S.STAGING: frozenset({S.SEEN, S.LISTED, S.FAILED, S.EXPIRED, S.QUARANTINED, S.PUBLISHED}),
    S.FAILED: frozenset({S.WAITING, S.SEEN, S.LISTED, S.EXPIRED, S.QUARANTINED, S.PUBLISHED}),
    # The folder is missing. SEEN: Autodesk still has the extract. EXPIRED: Autodesk has deleted it.
    S.PUBLISHED: frozenset({S.SEEN, S.REDUCED, S.PRUNED, S.EXPIRED}),
    S.REDUCED: frozenset({S.SEEN, S.EXPIRED}),
    S.PRUNED: frozenset({S.SEEN}),
    # Autodesk first reported the job as failed and later as complete.
    S.EMPTY: frozenset({S.SEEN}),
    # The clock was wrong when dcsync first saw the job, or Autodesk completed a very old job now.
    S.TOO_OLD: frozenset({S.SEEN}),
    # Here and below, SEEN: the operator named the job (`sync --job ID`). TOO_OLD: up to version 0.2, a job that was too
    # old when dcsync first saw it was recorded as a loss.
    S.EXPIRED: frozenset({S.SEEN, S.TOO_OLD}),
    # EXPIRED: Autodesk has deleted the extract.
    S.QUARANTINED: frozenset({S.SEEN, S.EXPIRED}),
}

#: The states of jobs that have a folder in the mirror.
ON_DISK = frozenset({S.PUBLISHED, S.REDUCED})
#: The states of jobs that were published, whatever the retention policy did later.
WAS_PUBLISHED = ON_DISK | {S.PRUNED}
#: The states of jobs that dcsync still has to process.
OPEN = frozenset({S.SEEN, S.LISTED, S.STAGING, S.FAILED})
#: Codes of failures after which a job waits for space on the disk. They say nothing about the job.
ROOM_CODES = frozenset({"F-SPACE", "F-INODES"})
#: The states of jobs that are lost, or will be if nothing changes at Autodesk. Each such job raises an alert.
LOSSES = frozenset({S.EXPIRED, S.QUARANTINED})

#: The hint for each loss. The hint of the error would promise an earlier retry.
LOSS_HINTS = {
    S.EXPIRED: "this extract can no longer be downloaded. The next extract has the account's data as of its own day",
    S.QUARANTINED: "dcsync tries this job once a day until Autodesk deletes its extract. To try it now, run dcsync "
    "sync --job ID. If it fails again, run the data request again",
}

_STATE_AT_AUTODESK = {
    JobPhase.SUCCEEDED: S.SEEN,
    JobPhase.FAILED: S.EMPTY,
    JobPhase.CANCELLED: S.EMPTY,
    JobPhase.PENDING: S.WAITING,
    JobPhase.UNKNOWN: S.WAITING,
}

#: The state of a job that is still waiting when Autodesk has deleted its extract, if it has any. A job with an unknown
#: status may have had one: a loss.
_STATE_AFTER_WAITING = {JobPhase.PENDING: S.EMPTY, JobPhase.UNKNOWN: S.EXPIRED}

#: A job whose content is wrong is quarantined after this many attempts in a row.
POISON_ATTEMPTS = 3
#: How often a quarantined job is tried. What was wrong at Autodesk may have been corrected.
QUARANTINE_RETRY = timedelta(days=1)
#: How long dcsync looks for the missing data listing of a complete job before it quarantines the job.
LISTING_PATIENCE = timedelta(hours=24)
#: An extract that is still not mirrored at this age raises an alert.
WARN_AGE = timedelta(days=20)
EXTRACT_LIFE = timedelta(days=EXTRACT_LIFE_DAYS)
RETRY_BASE_S = 60.0
RETRY_CAP_S = 6 * 3600.0


def may_go(current: JobState, new: JobState) -> bool:
    """Whether a job may change from one state to the other."""
    return new is current or new in TRANSITIONS[current]


def state_for(job: Job, known: JobState | None, now: datetime) -> JobState:
    """Return the state of a job after a poll. Autodesk's list never undoes work that dcsync has done."""
    at_autodesk, is_over = _STATE_AT_AUTODESK[job.phase], has_expired(job.dated_at, now)
    if known is None:
        return S.TOO_OLD if is_over and at_autodesk is not S.EMPTY else at_autodesk
    if known is S.WAITING:
        return _STATE_AFTER_WAITING.get(job.phase, at_autodesk) if is_over else at_autodesk
    if known is S.QUARANTINED and is_over:
        return S.EXPIRED
    if known in {S.EMPTY, S.TOO_OLD} and at_autodesk is S.SEEN and not is_over:
        return S.SEEN
    return known


def is_known_for_good(job: Job, known: JobState | None, now: datetime) -> bool:
    """Whether Autodesk's list has no news of a job. A page that has only such jobs ends the poll."""
    return known is not None and known is not S.WAITING and state_for(job, known, now) is known


def was_too_old(job: Job, first_seen_at: datetime | None) -> bool:
    """Whether the extract was already gone when dcsync first saw the job."""
    return first_seen_at is not None and has_expired(job.dated_at, first_seen_at)


def has_expired(completed_at: datetime | None, now: datetime) -> bool:
    """Whether Autodesk has deleted the extract by now."""
    return completed_at is not None and now - completed_at >= EXTRACT_LIFE


def describe_status(job: Job) -> str:
    """Return a clause about a status that dcsync does not know."""
    status = f"the status {printable(job.status, 40)!r}" if job.status else "no status"
    completion = printable(job.completion_status or "", 40)
    second = f"the completion status {completion!r}" if completion else "no completion status"
    return f"has {status} and {second}, which dcsync does not know"


def nears_expiry(completed_at: datetime | None, now: datetime) -> bool:
    """Whether an extract is so old that dcsync alerts you if it is not mirrored."""
    return completed_at is not None and now - completed_at >= WARN_AGE


def is_due(next_try_at: datetime | None, now: datetime, *, longest: timedelta = timedelta(seconds=RETRY_CAP_S)) -> bool:
    """Whether a job may be tried now.

    A time further ahead than dcsync ever waits was written while the clock was wrong, and does not count.
    """
    return next_try_at is None or not now < next_try_at <= now + longest


def next_try_after(attempts: int, *, asked_s: float | None, draw: float) -> timedelta:
    """Return the wait before a failed job is retried: the one that Autodesk asked for, else 1 min to 6 h.

    Only half of the wait is random, so that no retry comes at once: the run itself has already tried several times.
    """
    if asked_s is not None:
        return timedelta(seconds=asked_s)
    bound = min(RETRY_CAP_S, RETRY_BASE_S * 2.0 ** min(max(attempts, 1) - 1, 16))
    return timedelta(seconds=bound * (0.5 + draw / 2))
