"""The processes that hooks leave behind: found, named, and reaped when they end.

A process whose parent ended gets a new parent: this process, if it is PID 1 of a container or `adopt` was called. It
stays a zombie until its parent has asked for its exit status.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

#: prctl(2)
_PR_SET_CHILD_SUBREAPER = 36


def adopt() -> None:
    """Make this process the parent of all orphans below it."""
    # Imported here because the import takes some milliseconds, and only the daemon needs it.
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A child of this process."""

    pid: int
    name: str
    group: int
    is_zombie: bool


@dataclass(slots=True)
class Orphans:
    """The orphans that this process has adopted, and the hooks that run now."""

    #: Orphans that were running when their hook had ended.
    adopted: set[int] = field(default_factory=set)
    #: How many hooks run now. Their exit statuses belong to asyncio.
    hooks: int = 0

    def left_by(self, hook: int, before: set[int]) -> list[Child]:
        """Return the processes that an ended hook left running outside its process group. Reaps those that ended."""
        left = []
        for child in children():
            if child.pid in before or child.pid == hook:
                continue
            if child.is_zombie:
                _reap(child.pid)
            elif child.group != hook:
                self.adopted.add(child.pid)
                left.append(child)
            else:
                self.adopted.add(child.pid)  # it was killed, and ends soon
        return left

    def reap(self) -> None:
        """Reap the orphans that have ended. PID 1 has the orphans of the whole container."""
        if self.hooks:
            return
        if os.getpid() == 1:
            self.adopted |= {child.pid for child in children() if child.is_zombie}
        self.adopted -= {pid for pid in self.adopted if _reap(pid)}


#: Of this process.
ORPHANS = Orphans()


def children() -> Iterator[Child]:
    """Yield the children of this process (proc(5), /proc/pid/stat)."""
    own = os.getpid()
    # Path.glob would raise an error for a process that has just ended.
    for place in Path("/proc").iterdir():
        if not place.name.isdecimal():
            continue
        with suppress(OSError, ValueError, IndexError):
            # The name is in parentheses, and may contain some.
            head, _, rest = (place / "stat").read_text(errors="replace").rpartition(")")
            pid, _, name = head.partition(" (")
            state, parent, group, *_ = rest.split()
            if int(parent) == own:
                yield Child(pid=int(pid), name=name, group=int(group), is_zombie=state == "Z")


def _reap(pid: int) -> bool:
    """Say whether a child has ended, and free its entry in the process table."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
