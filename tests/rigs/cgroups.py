"""A limit on the memory of a process, by a control group of its own: of v1 or v2, whichever has the controller."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_MOUNTS = Path("/sys/fs/cgroup")
_NAME = "dcsync-torture-"


@dataclass(frozen=True, slots=True)
class Group:
    """A control group. A process that writes its number into `members` is in it."""

    folder: Path
    is_v2: bool

    @property
    def members(self) -> Path:
        """Where a process enters."""
        return self.folder / "cgroup.procs"

    def limit(self, size: int | None) -> None:
        """Let its processes have `size` bytes together, page cache included; None: as much as they want."""
        if self.is_v2:
            (self.folder / "memory.max").write_text("max" if size is None else str(size))
            # Nothing to be put aside: what does not fit is killed.
            with suppress(FileNotFoundError):
                (self.folder / "memory.swap.max").write_text("0")
            return
        # Memory and swap together may not be less than memory alone, whichever way the limit goes.
        both = self.folder / "memory.memsw.limit_in_bytes"
        if both.exists():
            both.write_text("-1")
        (self.folder / "memory.limit_in_bytes").write_text("-1" if size is None else str(size))
        if both.exists() and size is not None:
            both.write_text(str(size))

    def peak(self) -> int:
        """Return the most that it ever had."""
        return int((self.folder / ("memory.peak" if self.is_v2 else "memory.max_usage_in_bytes")).read_text())

    def kills(self) -> int:
        """Return how many processes were killed for want of memory."""
        counts = (self.folder / ("memory.events" if self.is_v2 else "memory.oom_control")).read_text()
        return int(dict(line.split() for line in counts.splitlines())["oom_kill"])

    def end(self) -> None:
        """Kill what is in it, and remove it."""
        for pid in self.members.read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        # What was killed is gone from it a moment later.
        for _ in range(1000):
            try:
                self.folder.rmdir()
            except OSError:
                os.sched_yield()
            else:
                return
        self.folder.rmdir()


@contextmanager
def memory_group() -> Iterator[Group]:
    """Make a group; it is gone with the block, and so are those that an earlier run could not remove.

    It is made below the group that this process is in, so that whatever limits this one limits it as well; in v2, where
    a group with processes has no children with controllers, beside that one. Fails loudly where there is none.
    """
    parent, is_v2 = _parent()
    for left in parent.glob(f"{_NAME}*"):
        if not Path(f"/proc/{left.name.removeprefix(_NAME)}").exists():
            Group(left, is_v2).end()
    folder = parent / f"{_NAME}{os.getpid()}"
    folder.mkdir()
    group = Group(folder, is_v2)
    try:
        assert group.members.exists()
        yield group
    finally:
        group.end()


def _parent() -> tuple[Path, bool]:
    """Return the folder below which a group with a limit on memory can be made, and whether it is one of v2."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path.lstrip("/")))
    if "memory" in own and (_MOUNTS / "memory").is_dir():
        return _MOUNTS / "memory" / own["memory"], False
    for above in (_MOUNTS / own.get("", "")).parents:
        control = above / "cgroup.subtree_control"
        if control.exists() and "memory" in control.read_text().split():
            return above, True
    message = "no control group of this machine can limit memory (neither v1 nor v2 is mounted with that controller)"
    raise AssertionError(message)
