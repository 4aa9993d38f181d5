"""How a run is seen: bars on a terminal, a line every 30 s elsewhere. Both are told by the port `Observer`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import structlog

from dcsync.clock import Clock
from dcsync.core.model import AccountName, JobId
from dcsync.ops.context import Observer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

log = structlog.get_logger(__name__)

#: Often enough to see that it goes on, seldom enough for a log that is kept.
INTERVAL_S = 30.0


@asynccontextmanager
async def watching(clock: Clock) -> AsyncIterator[Observer]:
    """Give an observer for the run: bars when stderr is a terminal, else lines of the log."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with Bars(console) as bars:
            yield bars
        return
    lines = Lines()
    async with asyncio.TaskGroup() as group:
        reporter = group.create_task(_report(lines, clock))
        try:
            yield lines
        finally:
            reporter.cancel()


class Bars:
    """A bar for each job with its true total, and one for each file under way."""

    def __init__(self, console: Console) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self._jobs: dict[JobId, TaskID] = {}
        self._files: dict[tuple[JobId, str], TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:  # noqa: ARG002 - the port's signature
        """Add the job's bar."""
        self._jobs[job] = self._progress.add_task(f"{label} ({files} files)", total=size)

    def file_started(self, job: JobId, name: str, size: int) -> None:
        """Add the file's bar, once however often it is tried."""
        if (job, name) not in self._files:
            self._files[job, name] = self._progress.add_task(f"  {name}", total=size)

    def file_advanced(self, job: JobId, name: str, size: int) -> None:
        """Move both bars."""
        for task in (self._jobs.get(job), self._files.get((job, name))):
            if task is not None:
                self._progress.advance(task, size)

    def file_done(self, job: JobId, name: str) -> None:
        """Take the file's bar away."""
        task = self._files.pop((job, name), None)
        if task is not None:
            self._progress.remove_task(task)

    def job_done(self, job: JobId) -> None:
        """Take the job's bars away."""
        for key in [key for key in self._files if key[0] == job]:
            self._progress.remove_task(self._files.pop(key))
        task = self._jobs.pop(job, None)
        if task is not None:
            self._progress.remove_task(task)


class Lines:
    """Counts, for the line every 30 s."""

    def __init__(self) -> None:
        self.jobs: dict[JobId, tuple[AccountName, int, int]] = {}
        self.done: dict[JobId, int] = {}
        self.received: dict[JobId, int] = {}

    def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:  # noqa: ARG002 - the port's signature
        """Begin to count."""
        self.jobs[job] = (account, files, size)
        self.done[job] = self.received[job] = 0

    def file_started(self, job: JobId, name: str, size: int) -> None:
        """Nothing to count yet."""

    def file_advanced(self, job: JobId, name: str, size: int) -> None:  # noqa: ARG002 - the port's signature
        """Count bytes."""
        if job in self.received:
            self.received[job] += size

    def file_done(self, job: JobId, name: str) -> None:  # noqa: ARG002 - the port's signature
        """Count a file."""
        if job in self.done:
            self.done[job] += 1

    def job_done(self, job: JobId) -> None:
        """Stop counting."""
        for counts in (self.jobs, self.done, self.received):
            counts.pop(job, None)

    def report(self) -> None:
        """Write a line for each job under way."""
        for job, (account, files, size) in self.jobs.items():
            log.info(
                "progress",
                account=account,
                job=job,
                files=f"{self.done[job]}/{files}",
                bytes=f"{self.received[job]}/{size}",
            )


async def _report(lines: Lines, clock: Clock) -> None:
    while True:
        await clock.sleep(INTERVAL_S)
        lines.report()
