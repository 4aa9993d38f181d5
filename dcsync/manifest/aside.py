"""A manifest put out of the way under a dated name, and never deleted (FAULTS M3)."""

from __future__ import annotations

import os
from pathlib import Path

from dcsync.errors import ManifestError


def set_aside(path: Path, label: str) -> Path | None:
    """Rename a manifest and its log; return its new path, or None when there was none. It must not be open. Blocks."""
    target = path.with_name(f"{path.name}.{label}")
    number = 1
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{path.name}.{label}.{number}")
    found = None
    try:
        # The log first: beside a new database SQLite would play it back into that one.
        for suffix in ("-wal", "-shm", ""):
            try:
                path.with_name(path.name + suffix).rename(target.with_name(target.name + suffix))
            except FileNotFoundError:
                continue
            found = target
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        message = f"the manifest {path} cannot be set aside: {error.strerror} (as uid {os.geteuid()})"
        raise ManifestError(message) from None
    return found
