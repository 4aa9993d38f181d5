"""The ports that adapters and fakes implement, and the values that the manifest stores and returns.

`dcsync.clock.Clock` and `dcsync.api.window.CallWindow` are ports too. The manifest and the file system are not: tests
use real ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from dcsync.core.lifecycle import JobState
from dcsync.core.model import DataRequest, Job, RequestId, SignedFile
from dcsync.errors import AuthError


class TokenSource(Protocol):
    """Gives the access token for API calls."""

    async def access_token(self, *, rejected: str | None = None) -> str:
        """Return a token that should work now. `rejected` has just got a 401 and is not returned again.

        Raises `AuthError`s. Cancelling is safe, because a refresh that has begun is completed first.
        """

    def refused(self, message: str) -> AuthError:
        """Return the error for a token that the API rejects although it is new. `message` says why."""

    async def keep_alive(self) -> bool:
        """Renew a refresh token that would expire unused. Return whether that was due. Raises `AuthError`s."""


class Sign(Protocol):
    """`sign()`: one API call for one fresh signed URL."""

    async def __call__(self, job: Job, name: str) -> SignedFile:
        """Return a URL that is valid for 60 s from now. Raises `ApiError`s and `AuthError`s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownJob:
    """A job as the manifest knows it."""

    job: Job
    state: JobState
    attempts: int = 0
    next_try_at: datetime | None = None
    reason_code: str | None = None
    reason: str | None = None
    folder: str | None = None
    first_seen_at: datetime | None = None
    published_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRequest:
    """A data request as the manifest knows it. Its slug never changes."""

    id: RequestId
    description: str
    slug: str
    is_delta: bool
    #: Whether Autodesk has ever returned the data request. If not, `is_delta` is unknown.
    is_described: bool = True
    first_seen_at: datetime | None = field(default=None, compare=False)
    #: The data request as Autodesk last returned it. `is_delta` and the kinds of its tables follow from it.
    document: DataRequest | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFacts:
    """Observations about an account. None where dcsync has not observed anything yet."""

    last_poll_at: datetime | None = None
    last_success_at: datetime | None = None
    #: Whether If-None-Match with the ETag of the previous snapshot has ever given a 304.
    conditional_works: bool | None = None
    #: Whether the storage's ETag has turned out to be the MD5 of the content.
    etag_is_md5: bool | None = None
    #: A moving average of past downloads.
    bytes_per_second: float | None = None
    error_code: str | None = None
    error: str | None = None
