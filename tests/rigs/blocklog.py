"""What a file system writes, in order, and the disks that a power cut could leave of it (docs/project/torture.md).

nbdkit logs, nbdfuse makes a file of it, a loop device makes a disk of that: dm-log-writes without the kernel's help.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.rigs.blocklog_plugin import HEADER
from tests.rigs.disks import Disk, Kind, Workshop, is_mounted, run, unmount
from tests.rigs.ended import end

_PLUGIN = Path(__file__).with_name("blocklog_plugin.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One write, and where the log stood after it; a flush has no data."""

    position: int
    offset: int
    data: bytes | None


@dataclass(slots=True, kw_only=True)
class BlockLog:
    """A disk whose writes are logged. `blank` is what it held before."""

    disk: Disk
    blank: Path
    log: Path

    def position(self) -> int:
        """Return where the log stands."""
        return self.log.stat().st_size

    def writes(self) -> list[Write]:
        """Return all that was logged."""
        body, at, found = self.log.read_bytes(), 0, []
        while at < len(body):
            kind, offset, length = HEADER.unpack_from(body, at)
            at += HEADER.size
            data = body[at : at + length] if kind == b"W" else None
            at += length
            found.append(Write(position=at, offset=offset, data=data))
        return found


@contextmanager
def logged(workshop: Workshop, name: str, kind: Kind) -> Iterator[BlockLog]:
    """Lend a new file system whose writes are logged from its first mount on; it is unmounted with the block."""
    folder = workshop.folder / f"{name}-log"
    folder.mkdir()
    image, log, blank = folder / "image", folder / "log", folder / "blank"
    log.touch()
    disk = Disk(kind=kind, image=image, mount=workshop.folder / name, backing=folder / "fuse/nbd")
    disk.make()
    copy(image, blank)
    with _served(folder / "fuse", "python", str(_PLUGIN), f"image={image}", f"log={log}"):
        try:
            disk.attach()
            yield BlockLog(disk=disk, blank=blank, log=log)
        finally:
            disk.detach()


@contextmanager
def dying(workshop: Workshop, name: str, kind: Kind) -> Iterator[tuple[Disk, Path]]:
    """Lend a new file system on a disk that refuses every write while the file is there (docs/project/torture.md)."""
    folder = workshop.folder / f"{name}-dying"
    folder.mkdir()
    image, refusing = folder / "image", folder / "refusing"
    disk = Disk(kind=kind, image=image, mount=workshop.folder / name, backing=folder / "fuse/nbd")
    disk.make()
    refuses = ("error=EIO", "error-pwrite-rate=100%", f"error-pwrite-file={refusing}")
    with _served(folder / "fuse", "--filter=error", "file", str(image), *refuses):
        try:
            disk.attach()
            yield disk, refusing
        finally:
            refusing.unlink(missing_ok=True)
            disk.detach()


@contextmanager
def _served(place: Path, *nbdkit: str) -> Iterator[None]:
    """Make a file `nbd` in a folder of what nbdkit serves."""
    place.mkdir()
    process = subprocess.Popen(
        ["nbdfuse", str(place), "--command", "nbdkit", "-s", "--exit-with-parent", *nbdkit],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not is_mounted(place):
            assert process.poll() is None, f"nbdfuse ended: {process.stdout.read() if process.stdout else ''}"
            assert time.monotonic() < deadline, "nbdfuse did not come up"
            time.sleep(0.01)  # noqa: TID251 - another process's work
        yield
    finally:
        if is_mounted(place):
            unmount(place)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        end(process)


class Crashes:
    """The disks that power cuts could leave, each from what was logged up to a position. Positions must not go back.

    What was flushed before is on the disk. Of what was not, every `grain` bytes are there or not, whatever order they
    were written in: dropped, reordered, and torn.
    """

    def __init__(self, log: BlockLog, running: Path) -> None:
        self._writes = log.writes()
        self._running = running
        self._applied = 0
        # What is kept of the writes of each disk in turn, from the first that has any to lose.
        self._kept = itertools.cycle((0.0, 0.1, 0.5, 0.9))
        copy(log.blank, running)

    def flushes(self) -> int:
        """Return how many flushes were logged."""
        return sum(write.data is None for write in self._writes)

    def unflushed(self, began: int, stopped: int) -> list[int]:
        """Return where the log stood after each write between the two: a cut there has something to take."""
        return [write.position for write in self._writes if write.data and began < write.position <= stopped]

    def leave(self, target: Path, *, position: int, grain: int, chance: random.Random) -> int:
        """Make the image of a disk after a cut there; return how many bytes were lost of what was not flushed."""
        until = sum(write.position <= position for write in self._writes)
        flushed = max((number for number in range(until) if self._writes[number].data is None), default=0)
        with self._running.open("r+b") as file:
            for write in self._writes[self._applied : max(flushed, self._applied)]:
                if write.data is not None:
                    os.pwrite(file.fileno(), write.data, write.offset)
        self._applied = max(flushed, self._applied)
        copy(self._running, target)
        pending = [(write.offset, write.data) for write in self._writes[self._applied : until] if write.data]
        kept, lost = next(self._kept) if pending else 0.0, 0
        with target.open("r+b") as file:
            for offset, data in pending:
                for start in range(0, len(data), grain):
                    piece = data[start : start + grain]
                    if chance.random() < kept:
                        os.pwrite(file.fileno(), piece, offset + start)
                    else:
                        lost += len(piece)
        return lost


def copy(source: Path, target: Path) -> None:
    """Copy an image without filling its holes."""
    run("cp", "--sparse=always", source, target)
