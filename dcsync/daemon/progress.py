"""The daemon's progress, which feeds the watchdog of systemd and the status line."""

from __future__ import annotations

from collections import Counter

from dcsync.clock import Clock
from dcsync.core.model import AccountName, JobId

#: Longer than any intended wait. The API asks for pauses of one hour at most.
_STUCK_S = 2 * 3600.0
#: A disk that takes longer for one call counts as not responding.
SLOW_DISK_S = 30.0


class Progress:
    """Implements the ports `Observer` and `ReadingObserver`. Every event is progress. Workers report start and end."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock.monotonic()
        self._busy: Counter[str] = Counter()
        self._jobs: dict[JobId, str] = {}

    @property
    def is_busy(self) -> bool:
        """Whether any work is running."""
        return bool(self._busy)

    def begin(self, what: str) -> None:
        """Record that work started."""
        self._busy[what] += 1
        self._note()

    def end(self, what: str) -> None:
        """Record that work ended, in success or failure."""
        self._busy[what] -= 1
        self._busy += Counter()
        self._note()

    def is_stuck(self) -> bool:
        """Return whether work is running without progress for longer than any intended wait."""
        return self.is_busy and self._clock.monotonic() - self._last > _STUCK_S

    def describe(self) -> str:
        """Return the running work for the status line, or an empty text."""
        if self._jobs:
            names = ", ".join(sorted(set(self._jobs.values())))
            return f"mirroring {len(self._jobs)} extract{'s' if len(self._jobs) > 1 else ''} ({names})"
        return ", ".join(sorted(self._busy))

    def _note(self) -> None:
        self._last = self._clock.monotonic()

    def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:  # noqa: ARG002 - the port's
        """Record that the download of a job starts."""
        self._jobs[job] = account
        self._note()

    def file_started(self, job: JobId, name: str, size: int) -> None:  # noqa: ARG002 - the port's
        """Record that a file was requested."""
        self._note()

    def file_advanced(self, job: JobId, name: str, size: int) -> None:  # noqa: ARG002 - the port's
        """Record that bytes arrived."""
        self._note()

    def file_done(self, job: JobId, name: str) -> None:  # noqa: ARG002 - the port's
        """Record that a file is staged."""
        self._note()

    def snapshot(self, folder: str, number: int, of: int) -> None:  # noqa: ARG002 - the port's
        """Record that a snapshot is being read."""
        self._note()

    def read(self, size: int) -> None:  # noqa: ARG002 - the port's
        """Record that bytes were read."""
        self._note()

    def job_done(self, job: JobId) -> None:
        """Record that a job was published, or failed for now."""
        self._jobs.pop(job, None)
        self._note()
