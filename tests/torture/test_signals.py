"""Signals in any order and at any moment, with and without somebody to read what is said (faults.md D7, D10)."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path

import pytest

import dcsync
from dcsync.sandbox import Fault, Options, Sandbox, Synthetic, World
from tests.rigs.kills import TOKEN, Witness, due_bytes, make_world, sent_bytes, write_config
from tests.rigs.mirror import tables
from tests.rigs.processes import Cold, Run, forking, said
from tests.torture.conftest import Figure, pick

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1)
#: What else than a file the outputs may be: nothing at all, or a pipe whose reader goes away some time.
OUTPUTS = ("files", "files", "no stdout", "no stderr", "neither", "pipes")
#: Exit statuses: done, or interrupted, for which a shell takes a death by SIGINT as well. Nothing else fails here.
STATUSES = {0, 130, -signal.SIGINT}
#: An interrupt while the interpreter starts, before the first line of ours, is its own to tell of.
OWN_TRACEBACK = re.compile(
    rf'Traceback(?s:.*)File "{re.escape(str(Path(dcsync.__file__).parent))}/(?!__main__|__init__|cli/__init__)'
)
_COLD_EACH = 10


def uncaught(run: Run) -> set[int]:
    """Return the signals that would end the process now, since it has not (yet, any more) said what to do with them."""
    try:
        status = Path(f"/proc/{run.pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return set()
    masks = {line.partition(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith("Sig")}
    handled = int(masks["SigCgt"], 16) | int(masks["SigIgn"], 16)
    return {number for number in SIGNALS if not handled >> (number - 1) & 1}


@dataclass(slots=True)
class Pipes:
    """Pipes for both outputs, and whoever reads them until he has enough."""

    folder: Path
    readers: list[int] = field(default_factory=list)
    heard: bytes = b""

    def listen(self) -> None:
        """Take in what has been said so far."""
        for reader in self.readers:
            with suppress(BlockingIOError):
                while piece := os.read(reader, 1 << 16):
                    self.heard += piece

    def leave(self) -> None:
        """Go away."""
        self.listen()
        while self.readers:
            os.close(self.readers.pop())


@contextmanager
def pipes(folder: Path) -> Iterator[Pipes]:
    """Make the pipes in a folder of their own."""
    folder.mkdir()
    for name in ("stdout", "stderr"):
        os.mkfifo(folder / name)
    made = Pipes(folder)
    made.readers = [os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK) for name in ("stdout", "stderr")]
    try:
        yield made
    finally:
        made.leave()


@dataclass(slots=True, kw_only=True)
class Fuzz:
    """One sequence: what is run, how, and what it gets to hear."""

    command: str
    outputs: str
    #: Each signal, and how long after the one before it comes.
    signals: tuple[tuple[signal.Signals, float], ...]
    cold: bool
    #: After how many of the signals the readers of the pipes go away.
    leaves_after: int

    @property
    def closed(self) -> tuple[int, ...]:
        return {"no stdout": (1,), "no stderr": (2,), "neither": (1, 2)}.get(self.outputs, ())


def make_fuzz(number: int, chance: random.Random) -> Fuzz:
    count = chance.randint(1, 5)
    pauses = [chance.choice([0.0, chance.uniform(0.0, 0.3)]) for _ in range(count)]
    # Mostly when it is at work, sometimes before its first line.
    cold = number % _COLD_EACH == 0
    pauses[0] = chance.choice([0.0, *(chance.uniform(0.2, 1.8 if cold else 0.8) for _ in range(4))])
    return Fuzz(
        command=chance.choice(["sync", "run"]),
        outputs=chance.choice(OUTPUTS),
        signals=tuple((chance.choice(SIGNALS), pause) for pause in pauses),
        cold=cold,
        leaves_after=chance.randint(0, count),
    )


async def play(fuzz: Fuzz, run: Run, made: Pipes | None) -> tuple[int, set[int]]:
    """Send the signals, end what is left, and return the exit status and the other ones that are right."""
    fatal = set[int]()
    for number, (one, pause) in enumerate(fuzz.signals):
        await asyncio.sleep(pause)  # noqa: TID251 - when it comes is what is played with
        if made is not None and number == fuzz.leaves_after:
            made.leave()
        fatal |= {-one} & {-number for number in uncaught(run)}
        run.send(one)
    ending = asyncio.ensure_future(run.wait())  # noqa: TID251 - awaited right below, whatever comes
    try:
        async with asyncio.timeout(60):  # the daemon's own limits are 10 s
            while not ending.done():
                if made is not None:
                    made.listen()
                await asyncio.wait({ending}, timeout=0.3)
                if not ending.done() and fuzz.command == "run":
                    fatal |= {-signal.SIGTERM} & {-number for number in uncaught(run)}
                    run.send(signal.SIGTERM)
    finally:
        run.send(signal.SIGKILL)
        status = await ending
    return status, fatal


def interpreters_own(fuzz: Fuzz) -> set[int]:
    """Return the status of an interpreter that was interrupted while it started, before the first line of ours.

    A forked run begins a few lines of the rig before `main`: what comes at once may come before it.
    """
    at_once = takewhile(lambda one: one[1] == 0.0, fuzz.signals)
    heard = fuzz.signals if fuzz.cold else at_once
    return {1} if any(one == signal.SIGINT for one, _ in heard) else set()


@pytest.mark.timeout(1200)
async def test_signals_in_any_order_leave_no_traceback_and_nothing_torn(
    tmp_path: Path, chance: random.Random, figure: Figure
) -> None:
    world, ends = make_world(with_archive=False, days=3), Counter[str]()
    (tmp_path / "mirror").mkdir()
    witness = Witness(tmp_path / "mirror", world)
    async with (
        Sandbox(world, options=Options(quota_per_minute=None, latency_s=0.01)) as sandbox,
        forking(tmp_path) as forked,
    ):
        sandbox.faults.add(Fault(server="storage", kind="delay", seconds=0.02, times=None))
        config = write_config(tmp_path, sandbox)
        environ = {TOKEN: sandbox.tokens.issue_access_token("tester", 86400)}
        for number in range(pick(200, 20)):
            fuzz = make_fuzz(number, chance)
            folder = tmp_path / f"outputs-{number}"
            with pipes(folder) if fuzz.outputs == "pipes" else made_folder(folder) as made:
                starter = Cold(folder) if fuzz.cold else replace(forked, folder=folder)
                run = await starter("--config", str(config), fuzz.command, environ=environ, closed=fuzz.closed)
                status, fatal = await play(fuzz, run, made)
                heard = "" if made is None else made.heard.decode(errors="replace")
            told = heard + "".join(path.read_text() for path in folder.iterdir() if path.is_file())
            assert status in STATUSES | fatal | interpreters_own(fuzz), (fuzz, told)
            assert not OWN_TRACEBACK.search(told), (fuzz, told)
            ends[signal.Signals(-status).name if status < 0 else str(status)] += 1
            if witness.look() == len(world.jobs):
                files = tables(30, seed=100 + number)
                request = next(iter(world.requests))
                world.add_job(request, completed_at=datetime.now(UTC), files=files, with_archive=False)
        last = await forked("--config", str(config), "sync", environ=environ)
        assert await last.wait() == 0
        witness.assert_all_mirrored()
    words = ", ".join(f"{end} ({count})" for end, count in sorted(ends.items()))
    figure(
        "signals in any order, some with closed outputs",
        f"{ends.total()} runs ended with {words}; no traceback, nothing partial",
    )


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder in which the outputs are files."""
    folder.mkdir()
    yield None


#: Of one file, and the speed at which it comes: SIGTERM meets it at work.
_FILE_SIZE, _BYTES_PER_SECOND = 8 << 20, 12 << 20
#: What has come and was not written yet when a download is ended: a piece in memory, and the store's last burst.
_IN_FLIGHT = (1 << 20) + _BYTES_PER_SECOND // 10


async def ended(run: Run, sandbox: Sandbox) -> None:
    """End a run, and wait until its calls are logged, when their answers have ended: none may count as the next's."""
    run.send(signal.SIGKILL)
    await run.wait()
    while sandbox.active:  # noqa: ASYNC110
        await asyncio.sleep(0.01)  # noqa: TID251 - the stand-in's work


def part(staging: Path) -> tuple[str, int]:
    """Return the file that has begun, and how far it has come."""
    found = list(staging.rglob("*.part"))
    assert len(found) <= 1
    return (found[0].parent.name, found[0].stat().st_size) if found else ("", 0)


async def begun(sandbox: Sandbox, calls: int, staging: Path, *, has_come: bool) -> None:
    """Wait until a file is asked for, and if wanted until some of it is on the disk."""
    while not any("/data/" in call.path for call in sandbox.calls[calls:]) or (has_come and not part(staging)[1]):  # noqa: ASYNC110
        await asyncio.sleep(0.01)  # noqa: TID251 - another process's work


@pytest.mark.timeout(600)
async def test_sigterm_at_any_point_of_a_download_keeps_what_came(
    tmp_path: Path, chance: random.Random, figure: Figure
) -> None:
    """Fault D7. The daemon would let the download come to its end for some seconds; a second SIGTERM hurries it."""
    world = World(seed=3)
    request, rounds, kept = world.add_request("Big"), pick(100, 6), 0
    (tmp_path / "mirror").mkdir()
    witness, staging = Witness(tmp_path / "mirror", world), tmp_path / "mirror/.dcsync/staging"

    def add_job(number: int) -> None:
        files = {"forms.csv": Synthetic(_FILE_SIZE + number, seed=number)}
        world.add_job(request, completed_at=datetime.now(UTC), files=files, with_archive=False)

    add_job(0)
    async with (
        Sandbox(world, options=Options(quota_per_minute=None)) as sandbox,
        forking(tmp_path) as start,
    ):
        sandbox.faults.add(Fault(server="storage", kind="slow", amount=_BYTES_PER_SECOND, times=None))
        # With several connections, most downloads would be over before the signal.
        config = write_config(tmp_path, sandbox, concurrency=1)
        environ = {TOKEN: sandbox.tokens.issue_access_token("tester", 86400)}
        for number in range(1, rounds + 1):
            # The first one is sure to keep something: `run` may well come to its end.
            command = "sync" if number == 1 else chance.choice(["sync", "run"])
            before, calls = part(staging), len(sandbox.calls)
            run = await start("--config", str(config), command, environ=environ)
            try:
                async with asyncio.timeout(60):
                    await begun(sandbox, calls, staging, has_come=number == 1)
                    at = chance.uniform(0.0, 0.5) if number > 1 else 0.0
                    await asyncio.sleep(at)  # noqa: TID251 - the point at random
                    run.send(signal.SIGTERM)
                    run.send(signal.SIGTERM)
                    status = await run.wait()
            finally:
                await ended(run, sandbox)
            published = witness.look() == len(world.jobs)
            assert status in ({0} if command == "run" else {0, 130, -signal.SIGTERM} if published else {130})
            asked = next((call for call in sandbox.calls[calls:] if call.server == "storage"), None)
            if before[1] and asked is not None:
                # It went on at the byte that was there.
                assert asked.headers["range"] == f"bytes={before[1]}-"
            if not published:
                # Nothing that had come is gone.
                assert part(staging) >= before
                kept += part(staging)[1] > 0
            else:
                assert not list(staging.iterdir())
                add_job(number)
        last = await start("--config", str(config), "sync", environ=environ)
        assert await last.wait() == 0, said(tmp_path)
        witness.assert_all_mirrored()
        assert "Traceback" not in said(tmp_path)
        assert kept > 0
        assert sent_bytes(sandbox) <= due_bytes(world) + rounds * _IN_FLIGHT
        share = sent_bytes(sandbox) / due_bytes(world)
    figure(
        "SIGTERM in a download",
        f"{rounds} times, {kept} of them a partial download was kept and resumed; {share:.2f} of the bytes sent",
    )
