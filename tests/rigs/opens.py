"""What a piece of work opens: manifests and pools of threads, counted by what Python itself tells."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

#: What records now. An audit hook cannot be removed, so it stays, and hears nothing between two recordings.
_recordings: list[Opens] = []
_hooked: list[bool] = []


@dataclass(slots=True, kw_only=True)
class Opens:
    """How often each was opened."""

    #: To write: each opening first makes the file if it is not there, which fails or not.
    manifests: int = 0
    #: Connections that only read.
    reading: int = 0
    #: Pools of disk threads, each by its first thread.
    pools: int = 0

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        match event, arguments:
            case "open", (os.PathLike() | str() as path, _, int(flags)) if str(path).endswith("/manifest.sqlite"):
                self.manifests += bool(flags & os.O_EXCL)
            case "sqlite3.connect", (str(database),):
                self.reading += "/manifest.sqlite?mode=ro" in database
            case _:
                pass


@contextmanager
def counting_opens() -> Iterator[Opens]:
    """Count what this process opens during the block."""
    if not _hooked:
        sys.addaudithook(_hear)
        _hooked.append(True)
    opens = Opens()
    _recordings.append(opens)

    def thread_started(*_: object) -> None:
        sys.setprofile(None)
        opens.pools += threading.current_thread().name == "dcsync-disk_0"

    threading.setprofile(thread_started)
    try:
        yield opens
    finally:
        threading.setprofile(None)
        _recordings.remove(opens)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    for recording in _recordings:
        recording.hear(event, arguments)
