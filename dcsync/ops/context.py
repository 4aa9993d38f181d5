"""The context of the operations: settings as plain values, and the open adapters."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol

from dcsync.auth.token_store import ChainStore
from dcsync.clock import Clock
from dcsync.core.layout import Layout, parse_layout
from dcsync.core.model import AccountId, AccountName, JobId, RequestId
from dcsync.core.plan import Selection
from dcsync.core.ports import KnownRequest
from dcsync.core.row_history import table_name
from dcsync.core.system_files import Ignored
from dcsync.core.table import has_rows
from dcsync.core.transfer import Throttle
from dcsync.core.waits import WaitReason
from dcsync.manifest import SqlManifest
from dcsync.mirror.latest import LatestKind
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.connections import Connections
from dcsync.ops.peers import Peers, SingleHost
from dcsync.tasks import DiskThreads

if TYPE_CHECKING:
    # Not imported by commands that only read, because the network modules take long to import.
    from dcsync.api.client import DataConnector
    from dcsync.api.limiter import Limiter
    from dcsync.api.storage import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSettings:
    """An `[[account]]` of the configuration."""

    name: AccountName
    id: AccountId
    projects: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    #: Data requests that are over on purpose. They raise no alert about their schedule.
    retired: tuple[str, ...] = ()
    selection: Selection = field(default_factory=Selection)
    #: Jobs completed before this are left alone.
    start: datetime | None = None
    #: Whether an earlier account has the same ID. Both may mirror the same job, each with its own files.
    is_another: bool = False

    def staging_of(self, job: JobId) -> JobId:
        """Return the name of a job's staging."""
        return JobId(f"{job}@{self.name}") if self.is_another else job

    def wants_request(self, request: KnownRequest) -> bool:
        """Say whether a data request is mirrored, by its ID or a glob of its description. Without names all are."""
        return self.selects(request.id, request.description)

    def selects(self, request: RequestId, description: str) -> bool:
        """Say the same about a data request that dcsync may not know yet."""
        return not self.requests or _is_named(request, description, self.requests)

    def is_retired(self, request: KnownRequest) -> bool:
        """Say whether a data request is over on purpose, by its ID or a glob of its description."""
        return _is_named(request.id, request.description, self.retired)

    def unmatched_requests(self, visible: Mapping[RequestId, str]) -> list[str]:
        """Return the names of `requests` that match none of these data requests, which are descriptions by ID."""
        return [
            name
            for name in self.requests
            if not any(request == name or fnmatchcase(text, name) for request, text in visible.items())
        ]


def _is_named(request: RequestId, description: str, names: Sequence[str]) -> bool:
    return any(request == name or fnmatchcase(description, name) for name in names)


class Strategy(StrEnum):
    """How extracts are fetched."""

    #: The method that takes the least time.
    AUTO = "auto"
    #: Each file by its own signed URL.
    FILES = "files"
    #: From the extract's ZIP, where it can be used.
    ZIP = "zip"


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorSettings:
    """`[mirror]` and `[transfer]` of the configuration."""

    layout: Layout = field(default_factory=lambda: parse_layout("dated"))
    zone: tzinfo = UTC
    latest: LatestKind = LatestKind.SYMLINK
    min_free: int = 0
    concurrency: int = 16
    strategy: Strategy = Strategy.AUTO
    trust_crc: bool = True
    #: The extra files that are not reported.
    ignored: Ignored = field(default_factory=Ignored)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySettings:
    """`[history]` of the configuration."""

    tables: tuple[str, ...] = ()
    memory: int = 1 << 30

    def wants(self, name: str) -> bool:
        """Say whether a table has a row history."""
        return has_rows(name) and any(
            fnmatchcase(name, glob) or fnmatchcase(table_name(name), glob) for glob in self.tables
        )


class Observer(Protocol):
    """Receives the progress of a run, for progress bars and status lines. Its bytes are those on the network."""

    def jobs_left(self, account: AccountName, jobs: int) -> None:
        """A run still has to mirror `jobs` jobs of an account, the current one included. 0 ends it."""

    def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:
        """A job has `files` files of `size` bytes in total to download. Called again when what is left changes."""

    def job_advanced(self, job: JobId, size: int) -> None:
        """`size` more bytes of a job arrived. Negative when they have to arrive again."""

    def file_started(self, job: JobId, name: str, size: int) -> None:
        """The download of a file begins. `size` are its bytes on the network."""

    def file_resumed(self, job: JobId, name: str, size: int) -> None:
        """The download of a file continues an earlier one, of which `size` bytes are there."""

    def file_advanced(self, job: JobId, name: str, size: int) -> None:
        """`size` more bytes of a file arrived. Negative when a file starts over."""

    def file_unchanged(self, job: JobId, name: str) -> None:
        """A file does not have to be downloaded."""

    def file_done(self, job: JobId, name: str) -> None:
        """A file is staged."""

    def job_done(self, job: JobId) -> None:
        """A job is published, or has failed in this run."""

    def waiting(self, reason: WaitReason, seconds: float) -> None:
        """The run waits, unless another part of it continues. The wait is over after that time."""


class NullObserver:
    """An observer that does nothing."""

    def jobs_left(self, account: AccountName, jobs: int) -> None:
        """Do nothing."""

    def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:
        """Do nothing."""

    def job_advanced(self, job: JobId, size: int) -> None:
        """Do nothing."""

    def file_started(self, job: JobId, name: str, size: int) -> None:
        """Do nothing."""

    def file_resumed(self, job: JobId, name: str, size: int) -> None:
        """Do nothing."""

    def file_advanced(self, job: JobId, name: str, size: int) -> None:
        """Do nothing."""

    def file_unchanged(self, job: JobId, name: str) -> None:
        """Do nothing."""

    def file_done(self, job: JobId, name: str) -> None:
        """Do nothing."""

    def job_done(self, job: JobId) -> None:
        """Do nothing."""

    def waiting(self, reason: WaitReason, seconds: float) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadContext:
    """The open mirror for operations that only read: without a lock, a network or a write."""

    manifest: SqlManifest
    root: MirrorRoot
    disk: DiskThreads
    #: The time zone of a snapshot's day.
    zone: tzinfo = UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorContext:
    """The open mirror for operations that need neither the network nor a secret."""

    manifest: SqlManifest
    root: MirrorRoot
    clock: Clock
    disk: DiskThreads
    settings: MirrorSettings
    peers: Peers = field(default_factory=SingleHost)
    #: Whether this opening wrote the first `.dcsync/instance`: the root cannot contain snapshots.
    is_new: bool = False
    #: The number of the attempt at this context's job, as `Peers.hold` gave it.
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncContext(MirrorContext):
    """The open adapters and settings of a run. `connections` are those to the storage, over all accounts."""

    api: DataConnector
    limiter: Limiter
    #: Only read, for alerts: `api.tokens` uses the tokens. It blocks, so call it in `token_threads`.
    token_store: ChainStore
    token_threads: DiskThreads
    storage: Storage
    connections: Connections
    throttle: Throttle
    observer: Observer = field(default_factory=NullObserver)
    #: How many jobs in a row Autodesk has not answered for, by account.
    unanswered: dict[AccountName, int] = field(default_factory=dict)
    draw: Callable[[], float] = random.random
