"""Progress of long operations: bars on a terminal, otherwise a log line every 30 s.

A run reports to the port `Observer`. `verify` and `rebuild` report to the port `ReadingObserver`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Self, TypeVar

import structlog

from dcsync.clock import Clock
from dcsync.core.formatting import size_text
from dcsync.core.model import AccountName, JobId
from dcsync.core.names import printable
from dcsync.ops.context import Observer
from dcsync.ops.integrity.content_reader import ReadingObserver
from dcsync.tasks import running

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.table import Column

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Often enough to show progress, rarely enough to keep the log short.
INTERVAL_S = 30.0
_BAR_WIDTH = 12


def watching(clock: Clock) -> AbstractAsyncContextManager[Observer]:
    """Yield an observer of a run: bars if stderr is a terminal, otherwise log lines."""
    lines = Lines()
    return _shown(Bars, lines, lines.report, clock)


def reading(clock: Clock) -> AbstractAsyncContextManager[ReadingObserver]:
    """Yield an observer of `verify` or `rebuild`: a bar if stderr is a terminal, otherwise log lines."""
    lines = ReadingLines()
    return _shown(ReadingBar, lines, lines.report, clock)


@asynccontextmanager
async def _shown(
    bars: Callable[[Console], AbstractContextManager[T]], lines: T, report: Callable[[], None], clock: Clock
) -> AsyncIterator[T]:
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with bars(console) as shown:
            yield shown
        return
    async with _reporting(report, clock):
        yield lines


def apply_run(observer: Observer, event: str, values: Sequence[str | int]) -> None:
    """Pass on an event of a run in the daemon. An event that is not known is ignored."""
    match (event, *values):
        case ("job_started", str(account), str(job), str(label), int(files), int(size)):
            observer.job_started(AccountName(account), JobId(job), label, files=files, size=size)
        case ("file_started", str(job), str(name), int(size)):
            observer.file_started(JobId(job), name, size)
        case ("file_advanced", str(job), str(name), int(size)):
            observer.file_advanced(JobId(job), name, size)
        case ("file_done", str(job), str(name)):
            observer.file_done(JobId(job), name)
        case ("job_done", str(job)):
            observer.job_done(JobId(job))
        case _:
            pass


def apply_reading(observer: ReadingObserver, event: str, values: Sequence[str | int]) -> None:
    """Pass on an event of reading in the daemon. An event that is not known is ignored."""
    match (event, *values):
        case ("snapshot", str(folder), int(number), int(of)):
            observer.snapshot(folder, number, of)
        case ("read", int(size)):
            observer.read(size)
        case _:
            pass


class Bars:
    """A bar for each job, over all its bytes, and a bar for each file that is being downloaded."""

    def __init__(self, console: Console) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.table import Column

        # On a narrow terminal the name is cut. Without a fixed width, the bar would vanish instead.
        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=_cut()),
            BarColumn(bar_width=_BAR_WIDTH),
            DownloadColumn(binary_units=True, table_column=Column(no_wrap=True)),
            TransferSpeedColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            expand=True,
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
        """Add the file's bar. A retry keeps the first one."""
        if (job, name) not in self._files:
            self._files[job, name] = self._progress.add_task(f"  {name}", total=size)

    def file_advanced(self, job: JobId, name: str, size: int) -> None:
        """Move both bars."""
        for task in (self._jobs.get(job), self._files.get((job, name))):
            if task is not None:
                self._progress.advance(task, size)

    def file_done(self, job: JobId, name: str) -> None:
        """Remove the file's bar."""
        task = self._files.pop((job, name), None)
        if task is not None:
            self._progress.remove_task(task)

    def job_done(self, job: JobId) -> None:
        """Remove the bars of the job and its files."""
        for key in [key for key in self._files if key[0] == job]:
            self._progress.remove_task(self._files.pop(key))
        task = self._jobs.pop(job, None)
        if task is not None:
            self._progress.remove_task(task)


def _cut() -> Column:
    """Return a column that gets the rest of the width, and is cut to it."""
    from rich.table import Column

    return Column(ratio=1, no_wrap=True)


class Lines:
    """Counts for the log line every 30 s."""

    def __init__(self) -> None:
        self.jobs: dict[JobId, tuple[AccountName, int, int]] = {}
        self.done: dict[JobId, int] = {}
        self.received: dict[JobId, int] = {}

    def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:  # noqa: ARG002 - the port's signature
        """Start counting."""
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
        """Write a line for each job that is being downloaded."""
        for job, (account, files, size) in self.jobs.items():
            log.info(
                "progress",
                account=account,
                job=job,
                files=f"{self.done[job]}/{files}",
                bytes=f"{self.received[job]}/{size}",
            )


class ReadingBar:
    """One bar over the snapshots, with the bytes read. A file that several snapshots share is read once."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._size = 0
        self._progress: Progress = Progress(
            TextColumn("reading"),
            BarColumn(bar_width=_BAR_WIDTH),
            MofNCompleteColumn(),
            TextColumn("snapshots, {task.fields[read]} read: {task.description}", markup=False, table_column=_cut()),
            console=console,
            transient=True,
            expand=True,
        )
        self._task = self._progress.add_task("", total=None, read=size_text(0))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def snapshot(self, folder: str, number: int, of: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=number - 1, total=of, description=printable(folder, 60))

    def read(self, size: int) -> None:
        """Count bytes."""
        self._size += size
        self._progress.update(self._task, read=size_text(self._size))


class ReadingLines:
    """Counts for the log line every 30 s."""

    def __init__(self) -> None:
        self._folder = ""
        self._snapshots = (0, 0)
        self._size = 0

    def snapshot(self, folder: str, number: int, of: int) -> None:
        """Record the current snapshot."""
        self._folder, self._snapshots = folder, (number, of)

    def read(self, size: int) -> None:
        """Count bytes."""
        self._size += size

    def report(self) -> None:
        """Write a line, from the first snapshot on."""
        number, of = self._snapshots
        if number:
            log.info("progress", snapshot=f"{number}/{of}", folder=self._folder, read_bytes=self._size)


@asynccontextmanager
async def _reporting(report: Callable[[], None], clock: Clock) -> AsyncIterator[None]:
    """Report every 30 s while the block runs."""

    async def repeat() -> None:
        while True:
            await clock.sleep(INTERVAL_S)
            report()

    async with running(repeat()):
        yield
