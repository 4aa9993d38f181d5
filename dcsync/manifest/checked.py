"""Remember that a manifest file is sound, so that not every start compares every row with its digest.

A process that writes removes the mark when it opens the file, and leaves one when it has closed the file. The mark has
the time of the last thorough check, and says how the file was left. It is worth nothing after a day, after a crash or a
boot, or when something else changed the file.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from dcsync.clock import boot_id
from dcsync.opening import open_regular, read_regular

SUFFIX = "-checked"
_LASTS_S = 86400


def take(path: Path) -> float | None:
    """Remove the mark, and return the time of the last thorough check, or None if a check is due. Blocks."""
    mark = path.with_name(path.name + SUFFIX)
    try:
        entry = json.loads(read_regular(mark))
        mark.unlink()
        if entry["left"] != _facts(path):
            return None
        checked_at = float(entry["checked_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return checked_at if 0 <= time.time() - checked_at < _LASTS_S else None


def leave(path: Path, checked_at: float) -> None:
    """Leave the mark for the next start, unless another process still has the file open. Blocks."""
    mark = path.with_name(path.name + SUFFIX)
    # Without the mark, the next start checks every row.
    with suppress(OSError):
        facts = _facts(path)
        if facts is not None:
            with os.fdopen(open_regular(mark, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w", encoding="ascii") as file:
                json.dump({"checked_at": checked_at, "left": facts}, file)


def _facts(path: Path) -> list[str | int] | None:
    """Return what changes with the file. None if its log has content: a process uses it, or has crashed."""
    boot, found = boot_id(), path.stat()
    with suppress(FileNotFoundError):
        # A process that only reads leaves an empty log.
        if path.with_name(f"{path.name}-wal").stat().st_size:
            return None
    if not boot:
        return None
    return [boot, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
