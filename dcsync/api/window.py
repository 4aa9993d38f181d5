"""The calls of the last minute, shared by all processes on one state folder: a small file under a lock.

A command that runs next to the daemon, or two commands in a row, use the same rate limit. The file is not made durable:
after a power cut more than a minute has passed, and after a kill the kernel still has the data.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

from dcsync.core.quota import wait_before_next, within_window
from dcsync.errors import ManifestError
from dcsync.opening import open_regular
from dcsync.tasks import DiskThreads

_NUMBER = struct.Struct("<d")


class CallWindow(Protocol):
    """Stores the times of past calls."""

    async def reserve(self, *, limit: int, now: float) -> float:
        """Record a call at `now` and return 0.0, or return the seconds to wait and record nothing."""

    async def pause(self, *, until: float, now: float) -> None:
        """Block new calls until `until`, a time on the same clock as `now`."""

    async def used(self, *, now: float) -> int:
        """Return the number of calls in the minute before `now`."""


class FileWindow:
    """A window for all processes on this machine that use the same file.

    Times count from boot, so times of an earlier boot are in the future or long past.
    """

    def __init__(self, path: Path, disk: DiskThreads) -> None:
        self._path = path
        self._disk = disk

    async def reserve(self, *, limit: int, now: float) -> float:
        """Record a call at `now` and return 0.0, or return the seconds to wait."""
        return await self._disk.run(self._reserve, limit, now)

    async def pause(self, *, until: float, now: float) -> None:
        """Block new calls until `until`."""
        await self._disk.run(self._pause, until, now)

    async def used(self, *, now: float) -> int:
        """Return the number of calls in the minute before `now`."""
        return await self._disk.run(self._used, now)

    def _reserve(self, limit: int, now: float) -> float:
        with _Locked(self._path) as file:
            paused_until, calls = file.read(now)
            wait = wait_before_next(calls, limit=limit, now=now, paused_until=paused_until)
            if wait <= 0:
                file.write(paused_until, [*within_window(calls, now), now])
            return wait

    def _pause(self, until: float, now: float) -> None:
        with _Locked(self._path) as file:
            paused_until, calls = file.read(now)
            file.write(max(paused_until, until), calls)

    def _used(self, now: float) -> int:
        try:
            with _Locked(self._path, read_only=True) as file:
                return len(within_window(file.read(now)[1], now))
        except FileNotFoundError:
            return 0


class _Locked:
    """The open, locked file: the end of the pause, then the times of the calls, as little-endian doubles."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT

    def __enter__(self) -> Self:
        try:
            self._fd = open_regular(self._path, self._flags)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._unusable(error, "opened") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        except OSError as error:
            with suppress(OSError):
                os.close(self._fd)
            raise self._unusable(error, "locked") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            os.close(self._fd)
        except OSError as failure:
            error = error or failure
        if isinstance(error, OSError):
            # The disk is full or broken, so the call cannot be counted and must not be made.
            raise self._unusable(error, "used") from None

    def _unusable(self, error: OSError, what: str) -> ManifestError:
        return ManifestError(f"the rate limit file {self._path} cannot be {what}: {error.strerror}")

    def read(self, now: float) -> tuple[float, list[float]]:
        # A pause from before a reboot can end at any time in the future. No real pause is longer than an hour.
        data = os.pread(self._fd, 1 << 16, 0)
        numbers = [value for (value,) in _NUMBER.iter_unpack(data[: len(data) // _NUMBER.size * _NUMBER.size])]
        paused_until, calls = (numbers[0], numbers[1:]) if numbers else (0.0, [])
        return (paused_until if paused_until - now <= 2 * 3600 else 0.0), calls

    def write(self, paused_until: float, calls: list[float]) -> None:
        data = b"".join(_NUMBER.pack(value) for value in [paused_until, *calls])
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))
