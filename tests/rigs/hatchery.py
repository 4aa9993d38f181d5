"""dcsync as a process that can be stopped anywhere: forked off a process that has imported everything already.

A run then takes a tenth of a second, not a whole one. What a test wants of the process besides its command line is an
`Order`: which bug is seeded, where the power is cut, what is noted. dcsync itself knows nothing of it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.rigs.ended import end

_REPOSITORY: Final = Path(__file__).parents[2]
#: No run of these takes more than some seconds. This finds a hang, on the slowest machine too.
_PATIENCE_S: Final = 250.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked of a process."""

    argv: Sequence[str]
    environ: dict[str, str]
    #: Where stdout and stderr go, and the notes of what happened: outside of what is cut off.
    folder: Path
    #: A bug of `tests.torture.seeded`.
    bug: str | None = None
    #: Cut these file systems at the `cut_at`-th event of the kind `cut_on`, and end by SIGKILL.
    cuts: Sequence[Path] = ()
    cut_on: str = ""
    cut_at: int = 1
    #: The file whose length says where a block log stands.
    block_log: Path | None = None
    #: One disk thread: the N-th system call is the same one again then.
    one_thread: bool = False
    #: Let the N-th close of something below `close_below` fail with this errno.
    close_fails: tuple[int, int] | None = None
    close_below: Path = Path("/")
    #: RLIMIT_FSIZE.
    largest_file: int | None = None
    #: Stop before dcsync begins, for a tracer to attach.
    stops_first: bool = False

    def json(self) -> str:
        """Return it as a line."""
        return json.dumps(
            {
                "argv": list(self.argv),
                "environ": self.environ,
                "folder": str(self.folder),
                "bug": self.bug,
                "cuts": [str(place) for place in self.cuts],
                "cut_on": self.cut_on,
                "cut_at": self.cut_at,
                "block_log": None if self.block_log is None else str(self.block_log),
                "one_thread": self.one_thread,
                "close_fails": self.close_fails,
                "close_below": str(self.close_below),
                "largest_file": self.largest_file,
                "stops_first": self.stops_first,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that a process noted: `kind`, what it was about, and where the block log stood."""

    kind: str
    about: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a process ended. `status` is negative for a signal."""

    status: int
    output: str
    events: list[Event] = field(default_factory=list)

    def acked(self) -> list[str]:
        """Return the jobs whose snapshots were acknowledged."""
        return [event.about for event in self.events if event.kind == "ack"]


@dataclass(slots=True, kw_only=True)
class Hatchling:
    """A process under way."""

    pid: int
    order: Order
    hatchery: Hatchery

    def kill(self) -> None:
        """End it, as a power cut would: nothing is closed."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Let it stand still."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def wait(self) -> Ended:
        """Wait for its end."""
        status = self.hatchery.ask({"wait": self.pid})["status"]
        return Ended(status=status, output=self.output(), events=self.events())

    def output(self) -> str:
        """Return what it wrote so far."""
        return (self.order.folder / "output").read_text(errors="replace")

    def events(self) -> list[Event]:
        """Return what happened so far."""
        lines = (self.order.folder / "events").read_text().splitlines()
        return [Event(**json.loads(line)) for line in lines]


@dataclass(slots=True, kw_only=True)
class Hatchery:
    """The process that has imported everything."""

    process: subprocess.Popen[str]
    #: Whether a question was not answered yet.
    is_asked: bool = False

    def start(self, order: Order) -> Hatchling:
        """Start a process."""
        order.folder.mkdir(parents=True, exist_ok=True)
        for name in ("output", "events"):
            (order.folder / name).write_text("")
        answer = self.ask({"start": order.json()})
        return Hatchling(pid=answer["pid"], order=order, hatchery=self)

    def run(self, order: Order) -> Ended:
        """Start a process and wait for its end."""
        return self.start(order).wait()

    def ask(self, question: dict[str, object]) -> dict[str, int]:
        """Ask, and wait for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.is_asked = True
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], _PATIENCE_S)
        assert ready, f"no answer to {question} in {_PATIENCE_S:.0f} s: the process hangs"
        answer: dict[str, int] = json.loads(self.process.stdout.readline())
        self.is_asked = False
        return answer


@contextmanager
def hatching() -> Iterator[Hatchery]:
    """Lend a hatchery; its processes end with it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.torture.hatch"],
        cwd=_REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield Hatchery(process=process)
    finally:
        # Its children are of its group, which nobody else is in.
        end(process, group=True)
