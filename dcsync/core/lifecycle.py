"""What can become of a job: one table. A transition that is not in it is a bug and is refused."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from dcsync.core.model import EXTRACT_LIFE_DAYS, JobPhase


class JobState(StrEnum):
    """What is known of a job here; docs/design.md, "Job states", has the picture."""

    #: Not complete upstream yet.
    WAITING = "waiting"
    #: Complete upstream, nothing done here.
    SEEN = "seen"
    #: Its data listing was read.
    LISTED = "listed"
    #: Files are being fetched.
    STAGING = "staging"
    PUBLISHED = "published"
    PRUNED = "pruned"
    #: Something went wrong; tried again at its time.
    FAILED = "failed"
    #: Failed or cancelled upstream: there is no extract.
    EMPTY = "empty"
    #: Gone from the server before it was mirrored, or from the disk after the server had deleted it: a loss.
    EXPIRED = "expired"
    #: Its content is wrong each time it is tried; the others go on without it.
    QUARANTINED = "quarantined"


S = JobState

#: From each state, the states it may go to. A state is always reachable from itself: recovery repeats what it did.
#: Where several hosts share the manifest, a poll that read a job as waiting may record it as seen when another host has
#: already moved it on. So SEEN is reachable from every state.
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    # Complete, or failed or cancelled upstream.
    S.WAITING: frozenset({S.SEEN, S.EMPTY}),
    # PUBLISHED, here and below: the job's folder was already there and is adopted.
    S.SEEN: frozenset({S.LISTED, S.FAILED, S.EXPIRED, S.QUARANTINED, S.PUBLISHED}),
    S.LISTED: frozenset({S.SEEN, S.STAGING, S.FAILED, S.EXPIRED, S.QUARANTINED, S.PUBLISHED}),
    # LISTED, here and below: the job is tried again.
    S.STAGING: frozenset({S.SEEN, S.LISTED, S.FAILED, S.EXPIRED, S.QUARANTINED, S.PUBLISHED}),
    S.FAILED: frozenset({S.SEEN, S.LISTED, S.EXPIRED, S.QUARANTINED, S.PUBLISHED}),
    # SEEN: its folder is gone, and the server still has the extract. EXPIRED: the server has deleted it too.
    S.PUBLISHED: frozenset({S.SEEN, S.PRUNED, S.EXPIRED}),
    S.PRUNED: frozenset({S.SEEN}),
    # Upstream first called it failed and then complete.
    S.EMPTY: frozenset({S.SEEN}),
    # Asked for by name.
    S.EXPIRED: frozenset({S.SEEN}),
    S.QUARANTINED: frozenset({S.SEEN}),
}

#: States in which there is work to do.
OPEN = frozenset({S.SEEN, S.LISTED, S.STAGING, S.FAILED})
#: States of which a person should hear.
LOSSES = frozenset({S.EXPIRED, S.QUARANTINED})

#: What to do about a loss: it is not tried again.
LOSS_HINTS = {
    S.EXPIRED: "this extract can no longer be downloaded; the next extract has the account's data as of its own day",
    S.QUARANTINED: "dcsync no longer retries it: try it again with dcsync sync --job ID, or run the data request again",
}

_UPSTREAM = {
    JobPhase.SUCCEEDED: S.SEEN,
    JobPhase.FAILED: S.EMPTY,
    JobPhase.CANCELLED: S.EMPTY,
    JobPhase.PENDING: S.WAITING,
    JobPhase.UNKNOWN: S.WAITING,
}

#: Poison is tried this often before the job is set aside.
POISON_ATTEMPTS = 3
#: A listing that is missing for a complete job is looked for this long before it is called lost.
LISTING_PATIENCE = timedelta(hours=24)
#: From this age on, an extract that is not mirrored is warned about.
WARN_AGE = timedelta(days=20)
EXTRACT_LIFE = timedelta(days=EXTRACT_LIFE_DAYS)
RETRY_BASE_S = 60.0
RETRY_CAP_S = 6 * 3600.0


def may_go(current: JobState, new: JobState) -> bool:
    """Say whether a job may go from one state to another."""
    return new is current or new in TRANSITIONS[current]


def state_for(phase: JobPhase, known: JobState | None) -> JobState:
    """Return the state of a job as the list shows it, given what is known: upstream never undoes what is done here."""
    upstream = _UPSTREAM[phase]
    if known is None or known is S.WAITING:
        return upstream
    if known is S.EMPTY and upstream is S.SEEN:
        return S.SEEN
    return known


def is_known_for_good(phase: JobPhase, known: JobState | None) -> bool:
    """Say whether the list tells nothing new of a job: a page of only such ends the poll."""
    return known is not None and known is not S.WAITING and state_for(phase, known) is known


def has_expired(completed_at: datetime | None, now: datetime) -> bool:
    """Say whether the server has deleted the extract by now."""
    return completed_at is not None and now - completed_at >= EXTRACT_LIFE


def nears_expiry(completed_at: datetime | None, now: datetime) -> bool:
    """Say whether an unmirrored extract is old enough to be shouted about."""
    return completed_at is not None and now - completed_at >= WARN_AGE


def is_due(next_try_at: datetime | None, now: datetime) -> bool:
    """Say whether a job may be tried.

    A time further ahead than any that is given was written under a clock that was wrong.
    """
    return next_try_at is None or not now < next_try_at <= now + timedelta(seconds=RETRY_CAP_S)


def next_try_after(attempts: int, *, asked_s: float | None, draw: float) -> timedelta:
    """Return the wait before a failed job is tried again: what the server asked for, else 1 min to 6 h, half jittered.

    Half, so that a retry never comes at once: what failed was already tried several times within the run.
    """
    if asked_s is not None:
        return timedelta(seconds=asked_s)
    bound = min(RETRY_CAP_S, RETRY_BASE_S * 2.0 ** min(max(attempts, 1) - 1, 16))
    return timedelta(seconds=bound * (0.5 + draw / 2))
