"""What the verbs work with: settings as plain values, and the open adapters."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol

from dcsync.auth.token_store import ChainStore
from dcsync.clock import Clock
from dcsync.core.layout import Layout, parse_layout
from dcsync.core.model import AccountId, AccountName, JobId
from dcsync.core.plan import Selection
from dcsync.core.ports import KnownRequest
from dcsync.core.transfer import Throttle
from dcsync.manifest import SqlManifest
from dcsync.mirror.latest import LatestKind
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.peers import Peers, SingleHost
from dcsync.tasks import DiskThreads

if TYPE_CHECKING:
    # For those who only read: the network takes long to import.
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
    selection: Selection = field(default_factory=Selection)
    #: Jobs completed before this are left alone.
    start: datetime | None = None
    #: Whether an account before this one has the same id: two may mirror the same job, each with files of its own.
    is_another: bool = False

    def staging_of(self, job: JobId) -> JobId:
        """Return what the staging of a job is known by."""
        return JobId(f"{job}@{self.name}") if self.is_another else job

    def wants_request(self, request: KnownRequest) -> bool:
        """Say whether a request is mirrored: by id, or by a glob over its description; all when none are named."""
        return not self.requests or any(
            request.id == wanted or fnmatchcase(request.description, wanted) for wanted in self.requests
        )


class Strategy(StrEnum):
    """How extracts are fetched."""

    #: Whatever is the cheapest in time.
    AUTO = "auto"
    #: Each file by a signed URL of its own.
    FILES = "files"
    #: From the extract's ZIP, wherever it can be used.
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


class Observer(Protocol):
    """Is told how a run goes on: for progress bars and the lines between."""

    def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:
        """A job's files are about to come: `files` and `size` bytes in all."""

    def file_started(self, job: JobId, name: str, size: int) -> None:
        """A file is asked for."""

    def file_advanced(self, job: JobId, name: str, size: int) -> None:
        """`size` more bytes of a file are here; negative when a file starts over."""

    def file_done(self, job: JobId, name: str) -> None:
        """A file is staged, whatever way it came."""

    def job_done(self, job: JobId) -> None:
        """A job is published or given up for now."""


class NullObserver:
    """An observer that tells nobody."""

    def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:
        """Say nothing."""

    def file_started(self, job: JobId, name: str, size: int) -> None:
        """Say nothing."""

    def file_advanced(self, job: JobId, name: str, size: int) -> None:
        """Say nothing."""

    def file_done(self, job: JobId, name: str) -> None:
        """Say nothing."""

    def job_done(self, job: JobId) -> None:
        """Say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadContext:
    """What looking at a mirror needs: no lock, no network, nothing is written."""

    manifest: SqlManifest
    root: MirrorRoot
    disk: DiskThreads
    #: In which a snapshot's day is told.
    zone: tzinfo = UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorContext:
    """The open mirror: what needs neither the network nor a secret."""

    manifest: SqlManifest
    root: MirrorRoot
    clock: Clock
    disk: DiskThreads
    settings: MirrorSettings
    peers: Peers = field(default_factory=SingleHost)
    #: Whether the root had no marker until this opening: no snapshot can be in it.
    is_new: bool = False
    #: The number of the attempt at this context's job, as `Peers.hold` gave it.
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncContext(MirrorContext):
    """The open adapters and settings of a run. `slots` are the downloads in flight over all accounts."""

    api: DataConnector
    limiter: Limiter
    #: Read for alerts only; `api.tokens` is who spends. Used from `token_threads`: it blocks.
    token_store: ChainStore
    token_threads: DiskThreads
    storage: Storage
    slots: asyncio.Semaphore
    throttle: Throttle
    observer: Observer = field(default_factory=NullObserver)
    draw: Callable[[], float] = random.random
