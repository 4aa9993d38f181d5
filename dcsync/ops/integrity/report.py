"""The problems that verify finds, and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from dcsync.core.model import AccountName, JobId, Json, StoredFile
from dcsync.errors import DcsyncError, ExitStatus
from dcsync.manifest.damage import KnownDamage


class Kind(StrEnum):
    """The kind of a problem."""

    #: The content differs from what was published.
    CHANGED = "changed"
    MISSING = "missing"
    #: The file exists and was never published.
    EXTRA = "extra"
    TRUNCATED = "truncated"
    #: The file exists and cannot be read. That is not the same as missing.
    UNREADABLE = "unreadable"


class Outcome(StrEnum):
    """The outcome of a problem."""

    #: Nothing was done: a repair was not requested, or is not possible now. The detail says why.
    FOUND = "found"
    #: Replaced by an intact copy. The damaged file is kept in quarantine.
    REPAIRED = "repaired"
    #: The next run downloads the whole snapshot again.
    REFETCH = "refetch"
    #: No other copy exists, neither in the mirror nor at Autodesk.
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One problem. `path` and `kept`, the new place of a damaged file, are relative to the root."""

    kind: Kind
    account: AccountName
    job: JobId | None
    path: str
    detail: str
    outcome: Outcome = Outcome.FOUND
    kept: str | None = None
    is_folder: bool = False
    #: The key that decides which part of a nightly verify reads it. None: every part.
    key: str | None = None

    @property
    def is_extra_file(self) -> bool:
        """Whether it is only an extra file in a snapshot, whose own files are intact."""
        return self.kind is Kind.EXTRA and self.job is not None

    def json(self) -> dict[str, Json]:
        """Return the item for programs."""
        return {
            "kind": self.kind.value,
            "account": self.account,
            "job": self.job,
            "path": self.path,
            "detail": self.detail,
            "outcome": self.outcome.value,
            "kept": self.kept,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Repairable:
    """A file that may be replaced. `body` is set if it can be generated again, `inode` if the file exists."""

    damage: Damage
    folder: str
    name: str
    sha256: str
    stored: StoredFile | None
    body: bytes | None = field(repr=False)
    inode: tuple[int, int] | None


@dataclass(slots=True, kw_only=True)
class VerifyReport:
    """The snapshots and files that were read, and the problems found."""

    part: tuple[int, int] | None = None
    snapshots: int = 0
    files: int = 0
    read_bytes: int = 0
    #: Extra files of other programs, and those that `[verify] ignore` names. They are not problems.
    ignored_files: int = 0
    damage: list[Damage] = field(default_factory=list)
    #: The accounts among them that are not in the configuration. They cannot be repaired.
    not_configured: list[AccountName] = field(default_factory=list)
    #: Why the manifest could not keep the problems.
    not_recorded: DcsyncError | None = None

    @property
    def exit_status(self) -> ExitStatus:
        """Return 0 when no problem remains, 14 when data is lost, else 3."""
        outcomes = {item.outcome for item in self.damage}
        if Outcome.LOST in outcomes:
            return ExitStatus.UNSAFE
        return ExitStatus.INCOMPLETE if outcomes - {Outcome.REPAIRED} else ExitStatus.DONE

    def remaining(self, account: AccountName) -> list[KnownDamage]:
        """Return the problems of an account that are not repaired, as the manifest keeps them."""
        return [
            KnownDamage(path=item.path, key=item.key, job=item.job, is_extra=item.is_extra_file)
            for item in self.damage
            if item.account == account and item.outcome in {Outcome.FOUND, Outcome.LOST}
        ]

    def json(self) -> dict[str, Json]:
        """Return the report for programs."""
        return {
            "part": None if self.part is None else f"{self.part[0]}/{self.part[1]}",
            "snapshots": self.snapshots,
            "files_read": self.files,
            "bytes_read": self.read_bytes,
            "ignored_files": self.ignored_files,
            "not_configured": list(self.not_configured),
            "findings": [item.json() for item in self.damage],
        }
