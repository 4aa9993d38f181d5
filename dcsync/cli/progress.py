"""Progress of long operations: bars on a terminal, otherwise a log line every 30 s.

A run reports to the port `Observer`. `verify` and `rebuild` report to the port `ReadingObserver`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import ceil
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog

from dcsync.cli.without_rich import let_rich_in
from dcsync.clock import Clock
from dcsync.core.model import AccountName, JobId
from dcsync.core.waits import WaitReason
from dcsync.ops.context import Observer
from dcsync.ops.integrity.content_reader import ReadingObserver
from dcsync.ops.progress import ReadingProgress, RunProgress
from dcsync.tasks import running

if TYPE_CHECKING:
    from rich.text import Text

    from dcsync.cli.bars import Signs, Size

log = structlog.get_logger(__name__)

#: Often enough to show progress, rarely enough to keep the log short.
INTERVAL_S = 30.0
_FRAMES_PER_S = 10


class _Reports(Protocol):
    def report(self) -> None:
        """Write log lines about the progress."""


T = TypeVar("T", bound=_Reports)


def watching(clock: Clock) -> AbstractAsyncContextManager[Observer]:
    """Yield an observer of a run: bars if stderr is a terminal, otherwise log lines."""
    lines = Lines(clock)

    def draw(size: Size, signs: Signs) -> Sequence[Text]:
        from dcsync.cli.bars import run_lines

        return run_lines(lines, size=size, signs=signs)

    return _shown(lines, draw, clock)


def reading(clock: Clock) -> AbstractAsyncContextManager[ReadingObserver]:
    """Yield an observer of `verify` or `rebuild`: a bar if stderr is a terminal, otherwise log lines."""
    lines = ReadingLines(clock)

    def draw(size: Size, signs: Signs) -> Sequence[Text]:
        from dcsync.cli.bars import reading_lines

        return reading_lines(lines, size=size, signs=signs)

    return _shown(lines, draw, clock)


@asynccontextmanager
async def _shown(shown: T, draw: Callable[[Size, Signs], Sequence[Text]], clock: Clock) -> AsyncIterator[T]:
    if not sys.stderr.isatty():
        async with _reporting(shown.report, clock):
            yield shown
        return
    let_rich_in()
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from dcsync.cli.bars import ASCII, LINE, Size

    console = Console(stderr=True)
    signs = LINE if console.encoding.startswith("utf") else ASCII

    def text() -> Text:
        return Text("\n").join(draw(Size(width=console.width, height=max(2, console.height - 1)), signs))

    with Live(get_renderable=text, console=console, refresh_per_second=_FRAMES_PER_S, transient=True):
        yield shown


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


class ReadingLines(ReadingProgress):
    """Counts for the log line every 30 s."""

    def report(self) -> None:
        """Write a line, from the first snapshot on."""
        if self.number:
            log.info("progress", snapshot=f"{self.number}/{self.of}", folder=self.folder, read_bytes=self.size)


@asynccontextmanager
async def _reporting(report: Callable[[], None], clock: Clock) -> AsyncIterator[None]:
    """Report every 30 s while the block runs."""

    async def repeat() -> None:
        while True:
            await clock.sleep(INTERVAL_S)
            report()

    async with running(repeat()):
        yield
