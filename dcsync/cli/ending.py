"""The end of a process whose call to a disk does not return. No signal interrupts such a call.

Python waits for its threads, so the process would not end before the disk answers. Ending it without them is the same
as `kill -9`. The publish protocol survives that, but a refresh token that is being used would be lost (design.md).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NoReturn

from dcsync.tasks import is_vital_work_running, oldest_disk_call_s

#: A stop may take 10 s. A process that still works then has younger calls.
_AFTER_S = 11.0
#: A new refresh token may take longer. systemd kills the service after 45 s (TimeoutStopSec).
_AFTER_VITAL_S = 40.0
_STUCK_S = 8.0
_TICK_S = 0.5
#: A log on the same disk would never be written.
_NOTE_S = 1.0


def end_despite_disk(status: int, note: Callable[[float], object]) -> None:
    """Watch the end of the process in a thread. If a call to a disk prevents it, call `note` and exit with `status`.

    Call it when the process was asked to end. `note` gets the age of the oldest call in seconds.
    """
    _start(partial(_watch, status, note))


def _watch(status: int, note: Callable[[float], object]) -> None:
    asked_at = time.monotonic()
    while True:
        time.sleep(_TICK_S)  # noqa: TID251 - a thread: the loop may be blocked
        oldest_s = oldest_disk_call_s()
        after_s = _AFTER_VITAL_S if is_vital_work_running() else _AFTER_S
        if time.monotonic() - asked_at >= after_s and oldest_s is not None and oldest_s >= _STUCK_S:
            _exit(status, partial(note, oldest_s))


@contextmanager
def time_limit(seconds: float, status: int, note: Callable[[], object]) -> Iterator[None]:
    """Call `note` and exit with `status` if the block takes longer, for a command that must not wait for a disk."""
    done = threading.Event()

    def watch() -> None:
        if not done.wait(seconds):
            _exit(status, note)

    _start(watch)
    try:
        yield
    finally:
        done.set()


def _start(watch: Callable[[], None]) -> None:
    # Without a thread, the process ends as soon as the disk answers.
    with suppress(RuntimeError):
        threading.Thread(target=watch, name="dcsync-ending", daemon=True).start()


def _exit(status: int, note: Callable[[], object]) -> NoReturn:
    noting = threading.Thread(target=note, daemon=True)
    noting.start()
    noting.join(_NOTE_S)
    os._exit(status)
