"""How far a run is: its snapshots, the bytes on the network, their rate, and what it waits for."""

from __future__ import annotations

from dataclasses import dataclass, field

from dcsync.clock import Clock
from dcsync.core.formatting import share_text
from dcsync.core.model import AccountName, JobId
from dcsync.core.waits import WaitReason, waits_text

#: A rate is that of the last seconds: long enough to be steady, short enough to show a line that has stopped.
_RATE_S = 15


class Rate:
    """Bytes per second, over the last seconds since the first byte."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._sizes: dict[int, int] = {}

    def add(self, now: float, size: int) -> None:
        """Count bytes."""
        self._began = now if self._began is None else self._began
        second = int(now)
        self._sizes[second] = self._sizes.get(second, 0) + size
        for old in [old for old in self._sizes if old < second - _RATE_S]:
            del self._sizes[old]

    def per_s(self, now: float) -> float | None:
        """Return the rate. None in the first second."""
        elapsed = 0.0 if self._began is None else min(now - self._began, float(_RATE_S))
        if elapsed < 1:
            return None
        return max(0, sum(size for second, size in list(self._sizes.items()) if second >= now - _RATE_S)) / elapsed


@dataclass(slots=True, kw_only=True)
class Transfer:
    """A job or a file that is being downloaded."""

    name: str
    size: int
    rate: Rate = field(default_factory=Rate)
    received: int = 0
    #: Only of a job.
    account: str = ""
    files: int = 0
    files_done: int = 0

    def seconds_left(self, now: float) -> float | None:
        """Return the time for the rest at the current rate. None is unknown."""
        left, rate = max(0, self.size - self.received), self.rate.per_s(now)
        if not left:
            return 0.0
        return left / rate if rate else None


@dataclass(slots=True)
class _Due:
    """The jobs of one account in a run."""

    jobs: int
    left: int


@dataclass(slots=True)
class RunProgress:
    """Implements the port `Observer`. Other threads may read it."""

    clock: Clock
    #: By ID, those that have a plan.
    jobs: dict[JobId, Transfer] = field(default_factory=dict)
    files: dict[tuple[JobId, str], Transfer] = field(default_factory=dict)
    #: The bytes of the whole run.
    received: int = 0
    rate: Rate = field(default_factory=Rate)
    #: When the last event came.
    changed_at: float = field(init=False)
    _due: dict[AccountName, _Due] = field(default_factory=dict)
    _waits: dict[WaitReason, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.changed_at = self.clock.monotonic()

    def place(self) -> tuple[int, int] | None:
        """Return the number of the current snapshot and how many the run has. None if it has none."""
        accounts = list(self._due.values())
        running = sum(account.left > 0 for account in accounts)
        total = sum(account.jobs for account in accounts)
        return (total - sum(account.left for account in accounts) + running, total) if running else None

    def waits(self) -> dict[WaitReason, float]:
        """Return what is waited for, with the seconds that are left."""
        now = self.clock.monotonic()
        return {reason: until - now for reason, until in list(self._waits.items()) if until > now}

    def words(self) -> str:
        """Return everything in one line. Empty if nothing is known."""
        place, jobs = self.place(), list(self.jobs.values())
        what = "" if place is None else f"snapshot {place[0]} of {place[1]}"
        if jobs:
            what = what or f"{len(jobs)} extract{'s' if len(jobs) > 1 else ''}"
            names = ", ".join(sorted({job.account for job in jobs}))
            size, received = sum(job.size for job in jobs), sum(min(job.received, job.size) for job in jobs)
            what += f" ({names}), {share_text(received, size)}" if size else f" ({names})"
        return "; ".join(part for part in (what, waits_text(self.waits())) if part)

    def note_event(self) -> None:
        """Record that something happened."""
        self.changed_at = self.clock.monotonic()

    # --- the port -----------------------------------------------------------------------------------------------------

    def jobs_left(self, account: AccountName, jobs: int) -> None:
        """Count the snapshots. A run ends for all its accounts together."""
        self.note_event()
        due = self._due.setdefault(account, _Due(jobs, jobs))
        due.jobs, due.left = (jobs, jobs) if not due.left else (due.jobs, jobs)
        if not any(due.left for due in self._due.values()):
            self._due.clear()
            self._waits.clear()

    def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:
        """Begin to count a job, or correct what is left of it."""
        self.note_event()
        if job not in self.jobs:
            self.jobs[job] = Transfer(name=label, size=0, account=account)
        known = self.jobs[job]
        known.size, known.files = known.received + size, known.files_done + files

    def job_advanced(self, job: JobId, size: int) -> None:
        """Count bytes."""
        self.note_event()
        self.received += max(0, size)
        self.rate.add(self.changed_at, max(0, size))
        if job in self.jobs:
            self.jobs[job].received += size
            self.jobs[job].rate.add(self.changed_at, max(0, size))

    def file_started(self, job: JobId, name: str, size: int) -> None:
        """Begin to count a file. A retry continues."""
        self.note_event()
        known = self.files.get((job, name))
        if known is None or known.size != size:
            self.files[job, name] = Transfer(name=name, size=size)

    def file_resumed(self, job: JobId, name: str, size: int) -> None:
        """Count what is there without a rate."""
        self.note_event()
        for transfer in (self.jobs.get(job), self.files.get((job, name))):
            if transfer is not None:
                transfer.received += size

    def file_advanced(self, job: JobId, name: str, size: int) -> None:
        """Count bytes."""
        self.note_event()
        if (job, name) in self.files:
            self.files[job, name].received += size
            self.files[job, name].rate.add(self.changed_at, max(0, size))

    def file_unchanged(self, job: JobId, name: str) -> None:
        """Leave the rest of a file out of what has to be downloaded."""
        self.note_event()
        file = self.files.get((job, name))
        if file is not None and job in self.jobs:
            self.jobs[job].size -= file.size - file.received

    def file_done(self, job: JobId, name: str) -> None:
        """Forget a file, and count it as done."""
        self.note_event()
        self.files.pop((job, name), None)
        if job in self.jobs:
            self.jobs[job].files_done += 1

    def job_done(self, job: JobId) -> None:
        """Forget a job."""
        self.note_event()
        for key in [key for key in self.files if key[0] == job]:
            del self.files[key]
        self.jobs.pop(job, None)

    def waiting(self, reason: WaitReason, seconds: float) -> None:
        """Note until when something is waited for."""
        self.note_event()
        until = self.changed_at + seconds
        self._waits[reason] = max(until, self._waits.get(reason, until))


class ReadingProgress:
    """Implements the port `ReadingObserver`. Other threads may read it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.folder = ""
        #: The current snapshot, from 1 on, and how many there are.
        self.number = self.of = 0
        #: The bytes read. A file that several snapshots share is read once.
        self.size = 0
        self.rate = Rate()
        self._began = clock.monotonic()

    def snapshot(self, folder: str, number: int, of: int) -> None:
        """Record the current snapshot."""
        if not self.number:
            self._began = self.clock.monotonic()
        self.folder, self.number, self.of = folder, number, of

    def read(self, size: int) -> None:
        """Count bytes."""
        self.size += size
        self.rate.add(self.clock.monotonic(), size)

    def seconds_left(self) -> float | None:
        """Return the time for the rest, as if all snapshots took equally long. None before the second one."""
        done = self.number - 1
        return (self.clock.monotonic() - self._began) / done * (self.of - done) if done > 0 else None
