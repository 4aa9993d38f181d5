"""The ports: what the work needs of tokens, the manifest, and signing. Adapters meet them, fakes stand in for them.

The fourth port is `dcsync.clock.Clock`. The file system is no port: tests use real folders.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, DataRequest, Job, JobId, RequestId, SignedFile, Snapshot, StoredFile
from dcsync.core.summary import Summary


class TokenSource(Protocol):
    """Gives the access token for API calls."""

    async def access_token(self, *, rejected: str | None = None) -> str:
        """Return a token that should work now. `rejected` is one that just got a 401: it is not returned again.

        Raises `AuthError`s. Cancelling is safe: a refresh that has begun is finished first.
        """

    async def keep_alive(self) -> bool:
        """Renew what would end by its age if nobody used it; return whether that was due. Raises `AuthError`s."""


class Sign(Protocol):
    """`sign()`: one API call for one fresh signed URL."""

    async def __call__(self, job: Job, name: str) -> SignedFile:
        """Return a URL that is good for 60 s from now. Raises `ApiError`s and `AuthError`s."""


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
    """A data request as the manifest knows it; its slug is fixed at first sight."""

    id: RequestId
    description: str
    slug: str
    is_delta: bool
    #: Whether it could ever be read. Of one that could not it is unknown whether it is a delta.
    is_described: bool = True
    first_seen_at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFacts:
    """What has been learnt of an account. `None` where nothing has been learnt yet."""

    last_poll_at: datetime | None = None
    last_success_at: datetime | None = None
    #: Whether If-None-Match with the ETag of the day before ever gave a 304.
    conditional_works: bool | None = None
    #: Whether the store's ETag has been seen to be the MD5 of the content.
    etag_is_md5: bool | None = None
    #: Moving average over past downloads.
    bytes_per_second: float | None = None
    error_code: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What a publish adds to the manifest, in one transaction."""

    job: JobId
    snapshot: Snapshot
    published_at: datetime
    strategy: str
    calls: int
    fetched_bytes: int
    linked_bytes: int
    seconds: float
    #: What its history keeps of it.
    summary: Summary | None = None
    #: Of `_dcsync.json`; None where the snapshot has none that can be trusted.
    sidecar_sha256: str | None = None


class Manifest(Protocol):
    """The database of known jobs, files and runs. A method returns when what it changed is durable."""

    async def facts(self, account: AccountName) -> AccountFacts:
        """Return what is known of an account; empty facts for a new one."""

    async def learn(self, account: AccountName, facts: AccountFacts) -> None:
        """Replace what is known of an account."""

    async def jobs(
        self, account: AccountName, *, states: Collection[JobState] | None = None
    ) -> Mapping[JobId, KnownJob]:
        """Return all jobs of an account, or those in some states: of thousands, few are open."""

    async def job(self, account: AccountName, job: JobId) -> KnownJob | None:
        """Return one job; None for one that is not known."""

    async def requests(self, account: AccountName) -> Mapping[RequestId, KnownRequest]:
        """Return all data requests of an account."""

    async def record_poll(
        self,
        account: AccountName,
        *,
        jobs: Sequence[KnownJob],
        requests: Sequence[tuple[KnownRequest, DataRequest | None]],
        at: datetime,
    ) -> None:
        """Store what one complete look at the lists brought, all or nothing: a poll cut short leaves no gap."""

    async def move(  # noqa: PLR0913 - a row's columns
        self,
        account: AccountName,
        job: JobId,
        state: JobState,
        *,
        at: datetime,
        attempts: int | None = None,
        next_try_at: datetime | None = None,
        reason_code: str | None = None,
        reason: str | None = None,
        folder: str | None = None,
    ) -> None:
        """Put a job into a state; `IllegalTransition` when the table does not lead there. `folder` once set stays."""

    async def publish(self, account: AccountName, publication: Publication) -> None:
        """Record a published snapshot with its files. When this returns it is acknowledged, and only then."""

    async def snapshot_before(
        self, account: AccountName, request: RequestId, completed_at: datetime | None
    ) -> Snapshot | None:
        """Return the newest published snapshot of a request completed before that time (any, if it is None)."""

    async def copies(
        self, account: AccountName, request: RequestId, stored: StoredFile, *, limit: int
    ) -> Sequence[Snapshot]:
        """Return published snapshots of a request that have such a file, newest first, each with that file alone.

        Such a one has the same names, size and CRC32.
        """

    async def newest_snapshot(self, account: AccountName, request: RequestId) -> str | None:
        """Return the folder of the newest published snapshot of a request."""

    async def published_folders(self, account: AccountName) -> Mapping[JobId, str]:
        """Return the folder of each published job."""

    async def folder_taken_by(self, folder: str) -> JobId | None:
        """Return the job that has this folder."""
