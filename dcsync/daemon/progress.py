"""The daemon's progress, which feeds the watchdog of systemd and the status line."""

from __future__ import annotations

import asyncio
from collections import Counter

import structlog

from dcsync.clock import Clock
from dcsync.core.model import AccountName, JobId
from dcsync.core.waits import WaitReason
from dcsync.ops.mirroring.outcome import AccountOutcome
from dcsync.ops.progress import RunProgress

log = structlog.get_logger(__name__)

#: Longer than any intended wait. The API asks for pauses of one hour at most.
_STUCK_S = 2 * 3600.0
#: A disk that takes longer for one call counts as not responding.
SLOW_DISK_S = 30.0


class Progress(RunProgress):
    """Implements the ports `Observer` and `ReadingObserver`. Every event is progress. Workers report start and end."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        #: Set when the status line changes by more than a number.
        self.has_changed = asyncio.Event()
        self._busy: Counter[str] = Counter()
        #: The snapshot that is being read.
        self._reading = ""

    @property
    def is_busy(self) -> bool:
        """Whether any work is running."""
        return bool(self._busy)

    def begin(self, what: str) -> None:
        """Record that work started."""
        self._busy[what] += 1
        self.note_event()

    def end(self, what: str) -> None:
        """Record that work ended, in success or failure."""
        self._busy[what] -= 1
        self._busy += Counter()
        self._reading = ""
        self.note_event()

    def is_stuck(self) -> bool:
        """Return whether work is running without progress for longer than any intended wait."""
        return self.is_busy and self.clock.monotonic() - self.changed_at > _STUCK_S

    def describe(self) -> str:
        """Return the running work for the status line, or an empty text."""
        words, busy = self.words(), ", ".join(sorted(self._busy))
        if self.jobs or self.place() is not None:
            return f"mirroring {words}"
        return "; ".join(part for part in (busy and f"{busy}{self._reading}", words) if part)

    def jobs_left(self, account: AccountName, jobs: int) -> None:
        """Count the snapshots."""
        super().jobs_left(account, jobs)
        self.has_changed.set()

    def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:
        """Begin to count a job, or correct what is left of it."""
        super().job_started(account, job, label, files=files, size=size)
        self.has_changed.set()

    def waiting(self, reason: WaitReason, seconds: float) -> None:
        """Note until when something is waited for."""
        super().waiting(reason, seconds)
        self.has_changed.set()

    def snapshot(self, folder: str, number: int, of: int) -> None:  # noqa: ARG002 - the port's
        """Record that a snapshot is being read."""
        self._reading = f" (snapshot {number} of {of})"
        self.note_event()

    def read(self, size: int) -> None:  # noqa: ARG002 - the port's
        """Record that bytes were read."""
        self.note_event()


def log_run(outcome: AccountOutcome) -> None:
    """Log one line for a run. It is for debugging only if the run had nothing to do."""
    error = outcome.error
    level = log.warning if error else log.info if outcome.published or outcome.failed else log.debug
    level(
        "run ended",
        account=outcome.account.name,
        code=None if error is None else error.code,
        error=None if error is None else error.message,
        published=len(outcome.published),
        files=sum(published.files for published in outcome.published),
        fetched_bytes=sum(published.transfer.fetched_bytes for published in outcome.published),
        linked_bytes=sum(published.transfer.linked_bytes for published in outcome.published),
        failed=len(outcome.failed),
        waiting=outcome.waiting,
        later=outcome.due_later,
        calls=outcome.calls,
    )
