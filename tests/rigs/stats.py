"""What a file is, but for when it was last read."""

from __future__ import annotations

import os


def unread(facts: os.stat_result) -> tuple[int, ...]:
    """Return what reading a file, a folder or a symlink leaves as it is: the first read of a second notes its time."""
    return (
        *(facts.st_dev, facts.st_ino, facts.st_mode, facts.st_nlink, facts.st_uid, facts.st_gid),
        *(facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns),
    )
