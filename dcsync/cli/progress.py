"""Progress of long operations: bars on a terminal, otherwise a log line every 30 s.

A run reports to the port `Observer`. `verify` and `rebuild` report to the port `ReadingObserver`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from math import ceil
from typing import TYPE_CHECKING, Self, TypeVar

import structlog

from dcsync.clock import Clock
from dcsync.core.formatting import size_text
from dcsync.core.model import AccountName, JobId
from dcsync.core.names import printable
from dcsync.core.waits import WaitReason
from dcsync.ops.context import Observer
from dcsync.ops.integrity.content_reader import ReadingObserver
from dcsync.ops.progress import RunProgress
from dcsync.tasks import running

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Column
    from rich.text import Text

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Often enough to show progress, rarely enough to keep the log short.
INTERVAL_S = 30.0
_BAR_WIDTH = 12
_FRAMES_PER_S = 10


def watching(clock: Clock) -> AbstractAsyncContextManager[Observer]:
    """Yield an observer of a run: bars if stderr is a terminal, otherwise log lines."""
    lines = Lines(clock)
    return _shown(lambda console: Bars(console, clock), lines, lines.report, clock)


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


#: The events of a run whose arguments are passed on as they are, with the types of these.
_PLAIN_EVENTS = {
    "jobs_left": (str, int),
    "job_advanced": (str, int),
    "file_started": (str, str, int),
    "file_resumed": (str, str, int),
    "file_advanced": (str, str, int),
    "file_unchanged": (str, str),
    "file_done": (str, str),
    "job_done": (str,),
}


def apply_run(observer: Observer, event: str, values: Sequence[str | int]) -> None:
    """Pass on an event of a run in the daemon. An event that is not known is ignored."""
    match (event, *values):
        case ("job_started", str(account), str(job), str(label), int(files), int(size)):
            observer.job_started(AccountName(account), JobId(job), label, files=files, size=size)
        case ("waiting", str(reason), int(seconds)) if reason in {known.value for known in WaitReason}:
            observer.waiting(WaitReason(reason), seconds)
        case _ if tuple(map(type, values)) == _PLAIN_EVENTS.get(event):
            getattr(observer, event)(*values)
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
    """The run, what it waits for, a bar for each job and a bar for each file that is being downloaded."""

    def __init__(self, console: Console, clock: Clock) -> None:
        from rich.live import Live

        self._progress = RunProgress(clock)
        self._console = console
        self._live = Live(get_renderable=self._text, console=console, refresh_per_second=_FRAMES_PER_S, transient=True)

    def __enter__(self) -> RunProgress:
        self._live.start()
        return self._progress

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _text(self) -> Text:
        from rich.text import Text

        from dcsync.cli.bars import ASCII, LINE, run_lines

        width, height = self._console.size
        signs = LINE if self._console.encoding.startswith("utf") else ASCII
        return Text("\n").join(run_lines(self._progress, width=width, height=max(2, height - 1), signs=signs))


class Lines(RunProgress):
    """Counts for the log line every 30 s."""

    def report(self) -> None:
        """Write a line for each job that is being downloaded, or one for what is waited for."""
        place, waits = (
            self.place(),
            {f"{reason.name.lower()}_wait_seconds": ceil(left) for reason, left in self.waits().items()},
        )
        facts = {} if place is None else {"snapshot": f"{place[0]}/{place[1]}"}
        for identifier, job in list(self.jobs.items()):
            log.info(
                "progress",
                account=job.account,
                job=identifier,
                **facts,
                files=f"{job.files_done}/{job.files}",
                bytes=f"{min(job.received, job.size)}/{job.size}",
                **waits,
            )
        if waits and not self.jobs:
            log.info("progress", **facts, **waits)


def _cut() -> Column:
    """Return a column that gets the rest of the width, and is cut to it."""
    from rich.table import Column

    return Column(ratio=1, no_wrap=True)


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
