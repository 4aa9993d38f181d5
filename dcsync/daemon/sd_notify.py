"""Messages to systemd about the service: sd_notify(3), one datagram per message."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

from dcsync.core.names import printable

#: In characters of at most four bytes: systemd drops a message of more than 4096 bytes (PIPE_BUF).
_LONGEST_STATUS = 500
#: systemd reads its queue immediately, except while it reloads itself. This is the longest block of the loop.
_SEND_TIMEOUT_S = 1.0


class Notifier:
    """Reports the state of the service to systemd. Does nothing without systemd, and never raises.

    Hooks must not send messages for the service. The caller removes `NOTIFY_SOCKET`, `WATCHDOG_USEC` and
    `WATCHDOG_PID` from their environment.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        # "@" means the NUL byte of an abstract socket name. Other address types, such as vsock:, are not supported.
        self._address = name.replace("@", "\0", 1) if name.startswith("@") else name if name.startswith("/") else None
        self._watchdog_s = _watchdog_s(environ)

    @property
    def watchdog_interval_s(self) -> float | None:
        """How often to call `watchdog()`, in seconds: half of the time that systemd allows. None means never."""
        return self._watchdog_s / 2 if self._watchdog_s is not None else None

    def ready(self, status: str) -> None:
        """Report that the service is ready: after its start, and after each `reloading()`, successful or not."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """Set the status line that `systemctl status` shows."""
        self._send(_status(text))

    def reloading(self) -> None:
        """Report that the configuration is being reloaded. `ready()` must follow."""
        # Type=notify-reload (systemd 253 and newer) requires the time in this message.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1", _status(status))

    def opening(self, status: str) -> None:
        """Report that the start is still in progress, which extends its time limit by two minutes."""
        self._send("EXTEND_TIMEOUT_USEC=120000000", "WATCHDOG=1", _status(status))

    def watchdog(self) -> None:
        """Report progress. If this is missing for `WatchdogSec=`, systemd kills and restarts the service."""
        self._send("WATCHDOG=1")

    def _send(self, *assignments: str) -> None:
        if self._address is None:
            return
        # A lost message must not stop the mirror. After a lost WATCHDOG=1, the next one still comes in time.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(_SEND_TIMEOUT_S)
            channel.connect(self._address)
            channel.send("\n".join(assignments).encode())


def _status(text: str) -> str:
    return f"STATUS={printable(text, _LONGEST_STATUS)}"


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    # sd_watchdog_enabled(3): the watchdog is for this process unless WATCHDOG_PID names a different one.
    usec = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(usec) / 1e6 if usec.isascii() and usec.isdigit() and int(usec) > 0 else None
