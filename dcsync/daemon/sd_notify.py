"""What systemd is told of the service: sd_notify(3), one datagram a message."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

from dcsync.core.names import printable

#: systemd drops a message of more than 4096 bytes (PIPE_BUF) as a whole; a character takes at most four.
_LONGEST_STATUS = 500
#: systemd reads its queue at once, but not while it reloads itself. The event loop is held no longer than this.
_SEND_TIMEOUT_S = 1.0


class Notifier:
    """Tells systemd how the service stands. Without systemd it does nothing; it never raises.

    Hooks must not speak for the service: the caller keeps `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` out of
    the environment that it gives them.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the NUL byte of a name that is in no file system. Nothing else is ours (systemd knows vsock:).
        self._address = name.replace("@", "\0", 1) if name.startswith("@") else name if name.startswith("/") else None
        self._watchdog_s = _watchdog_s(environ)

    @property
    def watchdog_interval_s(self) -> float | None:
        """How often to call `watchdog()` while all goes on, in seconds: half of what systemd grants. None: never."""
        return self._watchdog_s / 2 if self._watchdog_s is not None else None

    def ready(self, status: str) -> None:
        """Say that the service does its work: after its start, and after each `reloading()`, done or failed."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """Say in words what the service is doing: one line of `systemctl status`."""
        self._send(_status(text))

    def reloading(self) -> None:
        """Say that the configuration is being read again; `ready()` must follow."""
        # For Type=notify-reload (systemd 253 and newer) the message counts only with its time.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        """Say that the service is ending by itself or as it was told to."""
        self._send("STOPPING=1", _status(status))

    def opening(self, status: str) -> None:
        """Say that the start goes on: for two minutes more it is not taken for one that hangs."""
        self._send("EXTEND_TIMEOUT_USEC=120000000", "WATCHDOG=1", _status(status))

    def watchdog(self) -> None:
        """Say that there is progress. Without this for `WatchdogSec=` systemd kills the service and starts it again."""
        self._send("WATCHDOG=1")

    def _send(self, *assignments: str) -> None:
        if self._address is None:
            return
        # A lost message is no reason to stop mirroring; a lost WATCHDOG=1 is followed by another before it is missed.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(_SEND_TIMEOUT_S)
            channel.connect(self._address)
            channel.send("\n".join(assignments).encode())


def _status(text: str) -> str:
    return f"STATUS={printable(text, _LONGEST_STATUS)}"


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    # sd_watchdog_enabled(3): meant for this process only when WATCHDOG_PID is not another's.
    usec = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(usec) / 1e6 if usec.isascii() and usec.isdigit() and int(usec) > 0 else None
