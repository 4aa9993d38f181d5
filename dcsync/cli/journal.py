"""Whether an output goes to the journal of systemd, and the priorities of lines there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import IntEnum


class Priority(IntEnum):
    """The priority of a line in the journal (sd-daemon(3))."""

    ERROR = 3
    WARNING = 4


def is_journal(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Return whether an output goes to the journal: `$JOURNAL_STREAM` names its device and inode (systemd.exec(5)).

    A hook or a redirected command inherits the variable, but not the output.
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def with_priority(text: str, priority: Priority) -> str:
    """Return a text for stderr whose lines have a priority, if they go to the journal. It would be that of information.

    The journal takes the prefix off again (SyslogLevelPrefix= of systemd.exec(5)).
    """
    if not is_journal(2, os.environ):
        return text
    return "".join(f"<{priority}>{line}" for line in text.splitlines(keepends=True))
