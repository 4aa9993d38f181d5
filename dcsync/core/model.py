"""The values of the domain: hubs, data requests, jobs, listed and stored files, snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType, TypeAlias

from dcsync.core.table import TableFacts, TableKind

#: A decoded JSON value. `Mapping` and `Sequence`, because dcsync never changes one.
Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

#: The name of an account in the configuration. It is also the name of its folder.
AccountName = NewType("AccountName", str)
#: The hub ID without its leading `b.`.
AccountId = NewType("AccountId", str)
RequestId = NewType("RequestId", str)
JobId = NewType("JobId", str)

#: The extract's ZIP. It repeats every other file of the extract (Data Connector API, data listing).
ARCHIVE_NAME = "autodesk_data_extract.zip"
#: Autodesk deletes an extract this many days after its job completed (APS, Data Connector developer guide).
EXTRACT_LIFE_DAYS = 30


class JobPhase(StrEnum):
    """The state of a job at Autodesk, from `status` and `completionStatus` together."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    #: An undocumented value. dcsync cannot tell whether the job has an extract, and each poll checks it again.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """An account, as returned by `GET /project/v1/hubs`."""

    id: str
    name: str
    region: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRequest:
    """A data request: content and schedule of its extracts. `extra` keeps the fields that are not named here."""

    id: RequestId
    description: str
    is_active: bool | None = None
    account_id: str | None = None
    project_id: str | None = None
    project_ids: tuple[str, ...] = ()
    created_by: str | None = None
    created_by_email: str | None = None
    created_at: datetime | None = None
    updated_by: str | None = None
    updated_by_email: str | None = None
    updated_at: datetime | None = None
    schedule_interval: str | None = None
    recurring_interval: int | None = None
    effective_from: datetime | None = None
    effective_to: datetime | None = None
    last_queued_at: datetime | None = None
    service_groups: tuple[str, ...] = ()
    callback_url: str | None = None
    send_email: bool | None = None
    start_date: datetime | None = None
    end_date: datetime | None = None
    date_range: str | None = None
    project_status: str | None = None
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def projects(self) -> frozenset[str]:
        """The IDs of its projects. Empty for the whole account."""
        return _projects(self.project_id, self.project_ids)

    @property
    def has_dates(self) -> bool:
        """Whether it names a period. Only tables that support date ranges are limited to it."""
        return not (self.start_date is None and self.end_date is None and self.date_range is None)

    @property
    def is_delta(self) -> bool:
        """Whether its extracts contain only changed rows, so that none is a full copy.

        These are the service groups `cdc…` with a period. Without a period, they return all rows (api.md §8).
        """
        return self.has_dates and any(group.lower().startswith("cdc") for group in self.service_groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One execution of a data request. `extra` keeps the fields that are not named here."""

    id: JobId
    request_id: RequestId
    status: str
    completion_status: str | None
    account_id: str | None = None
    project_id: str | None = None
    project_ids: tuple[str, ...] = ()
    created_by: str | None = None
    created_by_email: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    progress: int | None = None
    send_email: bool | None = None
    last_downloaded_by: str | None = None
    last_downloaded_at: datetime | None = None
    start_date: datetime | None = None
    end_date: datetime | None = None
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def projects(self) -> frozenset[str]:
        """The IDs of its projects. Empty for the whole account."""
        return _projects(self.project_id, self.project_ids)

    @property
    def dated_at(self) -> datetime | None:
        """The time from which Autodesk's 30 days count: the completion, or the creation of a job that has none."""
        return self.completed_at or self.created_at

    @property
    def phase(self) -> JobPhase:
        """The state of the job. Only `complete` with `success` is mirrored without being named."""
        match self.status.lower(), (self.completion_status or "").lower():
            case ("queued" | "running", _) if self.completed_at is None:
                return JobPhase.PENDING
            case ("complete", "success"):
                return JobPhase.SUCCEEDED
            case ("complete", "failed"):
                return JobPhase.FAILED
            case ("complete", "cancelled" | "canceled"):
                return JobPhase.CANCELLED
            case _:
                return JobPhase.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """One entry of a data listing. The listing gives no hash."""

    name: str
    size: int
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedFile:
    """The answer to `GET jobs/:jobId/data/:name`. `url` is a secret for 60 s: it is left out of `repr`."""

    name: str
    size: int | None
    url: str = field(repr=False)


class How(StrEnum):
    """The origin of a file in its snapshot."""

    FETCHED = "fetched"
    LINKED = "linked"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of a snapshot, as the manifest and `_dcsync.json` record it.

    `name` is the path on disk, `original` is Autodesk's spelling. Hashes are lower-case hex. `etag` is the header of
    storage, quotes included. By `mtime_ns` and `inode`, dcsync recognizes that the file on disk is still the recorded
    one.
    """

    name: str
    original: str
    size: int
    sha256: str
    crc32: int
    md5: str | None = None
    etag: str | None = None
    how: How = How.FETCHED
    #: The compressed size in the ZIP, if the ZIP was read.
    packed: int | None = None
    mtime_ns: int | None = None
    inode: int | None = None
    #: Header and row count of a table. Snapshots of versions that did not count rows lack them.
    table: TableFacts | None = None
    #: None for a file that is not a table, and in snapshots of versions that did not record it (`dcsync.core.kinds`).
    kind: TableKind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A published snapshot: its folder, relative to the root, and its files."""

    job: JobId
    request: RequestId
    folder: str
    completed_at: datetime | None
    files: tuple[StoredFile, ...]


def _projects(one: str | None, several: tuple[str, ...]) -> frozenset[str]:
    return frozenset(several) | ({one} if one else frozenset())
