"""The decisions of one download: the headers of the call, the meaning of the answer, when to stop or retry. Pure.

Object storage ignores `If-Range` (nine of nine S3 servers measured). A resumed download therefore sends `Range` and
`If-Match`, and dcsync accepts the answer only after it has checked Content-Range and ETag.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dcsync.core.quota import backoff
from dcsync.errors import (
    ContentChanged,
    DcsyncError,
    RangeIgnored,
    SizeMismatch,
    StorageError,
    StorageFault,
    StorageRefused,
)

#: Files are written in pieces of this size. Pieces of 64 KiB take 2.4 times as long as curl, pieces of 1 MiB as long.
PIECE_SIZE = 1 << 20
#: Below 1 KiB/s over a minute a transfer is a slow loris and not a slow network (docs/project/faults.md A18).
MIN_RATE = 1024
RATE_WINDOW_S = 60.0

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_MD5_ETAG = re.compile(r'"([0-9a-fA-F]{32})"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Have:
    """The partial download on disk: its length, and the strong ETag that it came with."""

    size: int
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """Write the body at `offset`. The offset 0 discards the partial download."""

    offset: int
    etag: str | None


@dataclass(frozen=True, slots=True)
class Unchanged:
    """304: the file is the same as in the previous snapshot."""


@dataclass(frozen=True, slots=True)
class Complete:
    """416 to a resume at the listed size: the partial download is already complete."""


Decision = Write | Unchanged | Complete


def headers_for(have: Have | None, unless_etag: str | None) -> dict[str, str]:
    """Return the headers of a download. No other header may reach the storage."""
    # The listing gives the size of the stored bytes, and an encoded body would have a different size.
    headers = {"Accept-Encoding": "identity"}
    if have is not None and have.size > 0:
        headers["Range"] = f"bytes={have.size}-"
        headers["If-Match"] = have.etag
    elif unless_etag is not None:
        headers["If-None-Match"] = unless_etag
    return headers


def decide(
    status: int,
    headers: Mapping[str, str],
    *,
    size: int,
    have: Have | None,
    unless_etag: str | None,
    words: str = "",
) -> Decision:
    """Return what an answer to a GET with `headers_for(have, unless_etag)` means for a file of `size` listed bytes.

    `headers` has lower-case keys, and `words` is the reason that the storage gives for a refusal. Raises
    `ContentChanged` when the partial download must be discarded, `SizeMismatch` when Content-Length differs from
    `size`, `StorageRefused` when a new URL is needed, and `StorageFault` otherwise.
    """
    resumed = have is not None and have.size > 0
    match status:
        case 200:
            _check_length(headers, size)
            return Write(offset=0, etag=headers.get("etag"))
        case 206 if have is not None and resumed:
            return _decide_partial(headers, size, have)
        case 304 if unless_etag is not None and not resumed:
            return Unchanged()
        case 412 if resumed:
            msg = "the file changed at Autodesk during the download"
            raise ContentChanged(msg)
        case 416 if have is not None and resumed:
            if have.size == size:
                return Complete()
            msg = f"the storage has no bytes after byte {have.size} of {size}"
            raise ContentChanged(msg)
        case _:
            raise _refusal(status, words)


def decide_range(
    status: int,
    headers: Mapping[str, str],
    *,
    start: int,
    stop: int,
    size: int,
    etag: str | None,
    words: str = "",
) -> str | None:
    """Return the ETag of an answer to a GET of the bytes `start` to `stop` of a file of `size` bytes.

    Raises `ContentChanged` if the file is not the one with `etag`, `RangeIgnored` if the storage does not support
    ranges, and the errors of `decide` otherwise.
    """
    match status:
        case 206:
            span = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
            announced, encoding = headers.get("content-length"), headers.get("content-encoding", "identity")
            if (
                span is None
                or (int(span[1]), int(span[2])) != (start, stop - 1)
                or announced not in {None, str(stop - start)}
                or encoding != "identity"
            ):
                msg = "the storage sent a different part of the file than requested"
                raise RangeIgnored(msg)
            found = headers.get("etag")
            if span[3] not in {"*", str(size)} or (etag is not None and found not in {None, etag}):
                msg = "the file is not the listed one, or changed at Autodesk while it was read"
                raise ContentChanged(msg)
            return found
        case 200:
            msg = "the storage sends the whole file when a part of it is requested"
            raise RangeIgnored(msg)
        case 412 | 416:
            msg = "the file changed at Autodesk while it was read"
            raise ContentChanged(msg)
        case _:
            raise _refusal(status, words)


def range_headers(start: int, stop: int, etag: str | None) -> dict[str, str]:
    """Return the headers of a GET of the bytes `start` to `stop` of a file, on condition of `etag` if it is strong."""
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}"}
    if resumable_etag(etag) is not None and etag is not None:
        headers["If-Match"] = etag
    return headers


def _refusal(status: int, words: str) -> StorageError:
    """Return the error for a status that answers no kind of GET. The words only explain it: radosgw sends none."""
    because = f": {words}" if words else ""
    if status in {400, 401, 403}:
        # A refusal calls for a new URL, not for a new sign-in.
        return StorageRefused(f"the storage refused the signed URL (status {status}){because}")
    return StorageFault(f"the storage answered with status {status}{because}")


def _check_length(headers: Mapping[str, str], expected: int) -> None:
    announced = headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) != expected:
        msg = f"the storage announces {announced[:20]} bytes, the data listing {expected}"
        raise SizeMismatch(msg)


def _decide_partial(headers: Mapping[str, str], size: int, have: Have) -> Write:
    span = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    etag = headers.get("etag")
    right = (
        span is not None
        and int(span[1]) == have.size
        and int(span[2]) == size - 1
        and span[3] in {"*", str(size)}
        and etag in {None, have.etag}
    )
    if not right:
        msg = "the storage sent a different part of the file than requested, or a part of a different file"
        raise ContentChanged(msg)
    return Write(offset=have.size, etag=have.etag)


def resumable_etag(etag: str | None) -> str | None:
    """Return the ETag if a download may be resumed with it, that is if it is strong (RFC 9110 §13.1.1)."""
    return etag if etag is not None and len(etag) > 2 and etag.startswith('"') and etag.endswith('"') else None


def md5_of_etag(etag: str | None) -> str | None:
    """Return the MD5 that an ETag may be: 32 hex digits in quotes, without a multipart `-N`.

    The caller has to find out from the content whether the ETag is an MD5.
    """
    match = _MD5_ETAG.fullmatch(etag or "")
    return None if match is None else match[1].lower()


class RateGuard:
    """Detects a transfer below the minimum rate. A read time-out misses a byte every 0.3 s."""

    def __init__(self, now: float, *, min_rate: int = MIN_RATE, window_s: float = RATE_WINDOW_S) -> None:
        self._since = now
        self._bytes = 0
        self._min_rate = min_rate
        self._window_s = window_s

    def is_too_slow(self, now: float, received: int) -> bool:
        """Count `received` bytes at `now`. Return whether a window ends now and was too slow."""
        self._bytes += received
        elapsed = now - self._since
        if elapsed < self._window_s:
            return False
        slow = self._bytes < self._min_rate * elapsed
        self._since, self._bytes = now, 0
        return slow


class Throttle:
    """Spreads bytes over time so that all downloads together stay within `rate` bytes per second."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._free_at = 0.0

    def wait_s(self, now: float, received: int) -> float:
        """Return how long to wait after `received` bytes, in seconds."""
        if self._rate is None:
            return 0.0
        self._free_at = max(self._free_at, now) + received / self._rate
        return self._free_at - now


class Patience:
    """Decides after each failed attempt at one file whether and when to retry.

    An expired URL is normal. dcsync gets a new one three times at once, then with back-off, and never counts it as a
    failed attempt (faults.md A24). A broken connection that brought bytes does not count either. A file with wrong
    content is tried three times (docs/project/faults.md A20).
    """

    MAX_FAILURES = 5
    MAX_REFUSALS = 8
    MAX_MISMATCHES = 3
    IMMEDIATE_REFUSALS = 3

    def __init__(self) -> None:
        self._failures = 0
        self._refusals = 0
        self._mismatches = 0

    def wait_after(self, error: DcsyncError, *, progressed: bool, draw: float) -> float | None:
        """Return the seconds to wait before the next attempt, or None to give up with `error`."""
        if not isinstance(error, StorageError) or not error.transient:
            return None
        if isinstance(error, StorageRefused):
            self._refusals += 1
            if self._refusals > self.MAX_REFUSALS:
                return None
            over = self._refusals - self.IMMEDIATE_REFUSALS
            return 0.0 if over <= 0 else backoff(over, base_s=2.0, cap_s=60.0, draw=draw)
        if error.poison or isinstance(error, ContentChanged):
            self._mismatches += 1
            if self._mismatches >= self.MAX_MISMATCHES:
                return None
            return (
                0.0
                if isinstance(error, ContentChanged)
                else backoff(self._mismatches, base_s=1.0, cap_s=10.0, draw=draw)
            )
        if progressed:
            self._failures = 0
        self._failures += 1
        if self._failures >= self.MAX_FAILURES:
            return None
        return backoff(self._failures, base_s=1.0, cap_s=30.0, draw=draw)
