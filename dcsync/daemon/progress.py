"""Whether the daemon gets on: what systemd's watchdog is fed by, and what its status line says."""

from __future__ import annotations

from collections import Counter

from dcsync.clock import Clock
from dcsync.core.model import AccountName, JobId

#: Longer than any wait that is meant: a pause that the API asks for is at most an hour.
_STUCK_S = 2 * 3600.0
#: A call to the disk that takes longer is a disk that does not answer.
SLOW_DISK_S = 30.0


class Progress:
    """Meets the ports `Observer` and `ReadingObserver`: every event is progress. Workers tell their begin and end."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock.monotonic()
        self._busy: Counter[str] = Counter()
        self._jobs: dict[JobId, str] = {}

    @property
    def is_busy(self) -> bool:
        """Whether any work is under way."""
        return bool(self._busy)

    def begin(self, what: str) -> None:
        """Note that work begins."""
        self._busy[what] += 1
        self._note()

    def end(self, what: str) -> None:
        """Note that it ended, however."""
        self._busy[what] -= 1
        self._busy += Counter()
        self._note()

    def is_stuck(self) -> bool:
        """Say whether work is under way and nothing moved for longer than anything should take."""
        return self.is_busy and self._clock.monotonic() - self._last > _STUCK_S

    def describe(self) -> str:
        """Return what is in progress, for the status line; empty when nothing is."""
        if self._jobs:
            names = ", ".join(sorted(set(self._jobs.values())))
            return f"mirroring {len(self._jobs)} extract{'s' if len(self._jobs) > 1 else ''} ({names})"
        return ", ".join(sorted(self._busy))

    def _note(self) -> None:
        self._last = self._clock.monotonic()

    def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:  # noqa: ARG002 - the port's
        """Note that a job's files are about to come."""
        self._jobs[job] = account
        self._note()

    def file_started(self, job: JobId, name: str, size: int) -> None:  # noqa: ARG002 - the port's
        """Note that a file is asked for."""
        self._note()

    def file_advanced(self, job: JobId, name: str, size: int) -> None:  # noqa: ARG002 - the port's
        """Note that bytes came."""
        self._note()

    def file_done(self, job: JobId, name: str) -> None:  # noqa: ARG002 - the port's
        """Note that a file is staged."""
        self._note()

    def snapshot(self, folder: str, number: int, of: int) -> None:  # noqa: ARG002 - the port's
        """Note that a snapshot is looked at."""
        self._note()

    def read(self, size: int) -> None:  # noqa: ARG002 - the port's
        """Note that bytes were read again."""
        self._note()

    def job_done(self, job: JobId) -> None:
        """Note that a job is published or given up for now."""
        self._jobs.pop(job, None)
        self._note()
