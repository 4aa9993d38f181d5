"""The result of a run for each account: what was asked for, what was published, what failed, and the exit status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from dcsync.core.alerts import AlertCode
from dcsync.core.lifecycle import EXTRACT_LIFE, JobState
from dcsync.core.model import JobId
from dcsync.core.ports import KnownRequest
from dcsync.errors import SEVERITY, Bug, DcsyncError, ExitStatus
from dcsync.manifest.broken import BrokenPart
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.job import Planned, Published


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The requests and jobs that a run is limited to. Empty means no limit."""

    requests: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A job that a run could not publish."""

    job: JobId
    state: JobState
    code: str
    message: str
    hint: str
    next_try_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A job that was named by its ID and needs nothing."""

    job: JobId
    state: JobState
    reason: str


@dataclass(slots=True, kw_only=True)
class AccountOutcome:
    """The result of a run for one account."""

    account: AccountSettings
    new_jobs: int = 0
    published: list[Published] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    planned: list[Planned] = field(default_factory=list)
    waiting: int = 0
    #: Jobs with a status that dcsync does not know. They are among the waiting jobs.
    unclear: int = 0
    due_later: int = 0
    #: Jobs that wait for space on the disk. They are among those of `due_later`, but for the one that failed for it.
    blocked: int = 0
    #: Quarantined jobs that Autodesk still has.
    given_up: int = 0
    expiring: list[JobId] = field(default_factory=list)
    #: The named jobs that are known, and those of them that need nothing.
    found_jobs: list[JobId] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    #: The known data requests that the configuration mirrors.
    requests: list[KnownRequest] = field(default_factory=list)
    #: A text for each entry of the job list that dcsync cannot use. Its extract is not mirrored.
    unusable: list[str] = field(default_factory=list)
    #: What keeps extracts out of the mirror: projects and data requests that could not be read, lists without an end,
    #: snapshots that cannot be opened.
    broken: list[BrokenPart] = field(default_factory=list)
    #: The names of `[[account]] requests` that match no visible data request.
    unmatched: list[str] = field(default_factory=list)
    #: By code, what to do about the alerts of the account after the run.
    hints: dict[str, str] = field(default_factory=dict)
    calls: int = 0
    error: DcsyncError | None = None

    @property
    def exit_status(self) -> ExitStatus:
        """Return the exit status for this account."""
        if self.error is not None:
            return self.error.exit_status
        if any(failed.code == Bug.code for failed in self.failed):
            return ExitStatus.BUG
        if self.unmatched:
            return ExitStatus.USAGE
        if not self.is_complete or any(skipped.state in GONE for skipped in self.skipped):
            return ExitStatus.INCOMPLETE
        return ExitStatus.DONE

    def tells(self, code: str, job: str | None) -> bool:
        """Say whether the result of the run tells an alert, by its code or by its job."""
        codes: set[str] = {part.code for part in self.broken}
        codes |= {warning.code for published in self.published for warning in published.warnings}
        codes |= {AlertCode.L_ENTRY} if self.unusable else set()
        codes |= {AlertCode.L_STATUS} if self.unclear else set()
        codes |= {AlertCode.C_NOMATCH} if self.unmatched else set()
        is_error = self.error is not None and self.error.code == code
        return is_error or code in codes or job in {*(failed.job for failed in self.failed), *self.expiring}

    @property
    def is_complete(self) -> bool:
        """Whether the run left nothing that has to be mirrored."""
        unread = self.unusable or self.broken
        return not (self.error or self.failed or self.due_later or self.unclear or unread)


#: A job that was named and is in one of these states cannot be downloaded.
GONE = frozenset({JobState.EXPIRED, JobState.TOO_OLD})

#: Why a job that was named by its ID is left alone.
NOTHING_TO_DO = {
    JobState.WAITING: "Autodesk has not completed it yet",
    JobState.PUBLISHED: "it is already published",
    JobState.REDUCED: "it is published, and the retention policy removed its full tables later",
    JobState.PRUNED: "it was published, and the retention policy removed it later",
    JobState.EMPTY: "it failed or was cancelled at Autodesk, so it has no extract",
    **dict.fromkeys(GONE, f"it can no longer be downloaded: Autodesk deletes extracts after {EXTRACT_LIFE.days} days"),
}


#: The same, for a snapshot without tables.
HOLLOW = "it is published without any table, and Autodesk has deleted the extract"


def exit_status(outcomes: Sequence[AccountOutcome]) -> ExitStatus:
    """Return the exit status of a run over these accounts."""
    statuses = {outcome.exit_status for outcome in outcomes}
    return next((status for status in SEVERITY if status in statuses), ExitStatus.DONE)
