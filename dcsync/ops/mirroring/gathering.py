"""The files of one job while they are downloaded, and the decisions about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from dcsync.core import plan as planning
from dcsync.core.cost import Choice, Method
from dcsync.core.model import How, Job, ListedFile, Snapshot, StoredFile
from dcsync.core.plan import Known, Plan, Selection, Skip
from dcsync.core.sidecar import Decisions
from dcsync.core.snapshot import FILES, ZIP, Transfer
from dcsync.core.ziplayout import Directory
from dcsync.errors import StorageError
from dcsync.mirror.staging import Staging


@dataclass(frozen=True, slots=True, kw_only=True)
class ZipReading:
    """The content of an extract's ZIP, or why it is unknown. Empty without a ZIP."""

    directory: Directory | None = None
    #: Why the ZIP is not a valid one.
    fault: str | None = None
    #: Why the ZIP can no longer be downloaded.
    gone: str | None = None
    #: The error that ended the download. A later attempt may succeed.
    broken: StorageError | None = None

    def known(self, known: Known) -> Known:
        """Add the reading to what is known."""
        return replace(known, directory=self.directory, zip_fault=self.fault, zip_gone=self.gone)


@dataclass(slots=True, kw_only=True)
class Gathering:
    """The files of a job so far. A plan that is made again does not download a staged file twice."""

    job: Job
    listing: tuple[ListedFile, ...]
    previous: Snapshot | None
    staging: Staging
    #: Complete files in the staging, by name on disk, and why each was downloaded or linked.
    staged: dict[str, StoredFile] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    unlinkable: set[str] = field(default_factory=set)
    damaged: dict[str, str] = field(default_factory=dict)
    selection: Selection
    plan: Plan = field(default_factory=lambda: Plan(actions=()))
    #: The method that extracts files from the ZIP. None while no ZIP is usable.
    method: Method | None = None
    #: The choice of the method. None if there was none.
    choice: Choice | None = None
    reason: str = "the extract has no ZIP that could be used"
    fetched_bytes: int = 0
    reading: ZipReading = field(default_factory=ZipReading)

    def planned(self, known: Known) -> Plan:
        """Return a plan from everything that is known now."""
        known = replace(
            self.reading.known(known),
            previous=self.previous,
            staged=self.staged,
            unlinkable=frozenset(self.unlinkable),
            damaged=dict(self.damaged),
        )
        return planning.plan(self.listing, known, selection=self.selection)

    def stage(self, stored: Mapping[str, StoredFile], reasons: Mapping[str, str] | None = None) -> None:
        """Add files that are complete in the staging."""
        self.staged.update(stored)
        for name in stored:
            self.reasons[name] = "staged by an earlier run" if reasons is None else reasons[name]

    def settle_on(self, choice: Choice) -> None:
        """Set the method that dcsync chose, and its reason."""
        self.method, self.choice, self.reason = choice.price.method, choice, choice.describe()

    def settle_without_choice(self, method: Method | None, reason: str) -> None:
        """Set a method that was the only one, and its reason."""
        self.method, self.choice, self.reason = method, None, reason

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """The files of the snapshot, by name: every file of the last plan, all staged by now."""
        wanted = (action for action in self.plan.actions if not isinstance(action, Skip))
        return tuple(sorted((self.staged[action.name] for action in wanted), key=lambda stored: stored.name))

    @property
    def listed_at(self) -> dict[str, datetime]:
        """When Autodesk created each listed file."""
        return {file.name: file.created_at for file in self.listing if file.created_at is not None}

    def transfer(self, *, calls: int, seconds: float) -> Transfer:
        """Return the bytes and the method of the download. The caller counts calls and time."""
        return Transfer(
            strategy=FILES if self.method is None else ZIP,
            calls=calls,
            fetched_bytes=self.fetched_bytes,
            linked_bytes=sum(stored.size for stored in self.files if stored.how is How.LINKED),
            seconds=seconds,
        )

    @property
    def decisions(self) -> Decisions:
        """The method, and the reason for each file."""
        return Decisions(
            method=self.method or Method.FILES,
            reason=self.reason,
            choice=self.choice,
            files=self.reasons,
            skipped=tuple((skip.file.name, skip.reason) for skip in self.plan.skipped),
        )
