"""What verifying finds, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from dcsync.core.model import AccountName, JobId, Json, StoredFile
from dcsync.errors import ExitStatus


class Kind(StrEnum):
    """What is amiss."""

    #: Its content is not what was published.
    CHANGED = "changed"
    MISSING = "missing"
    #: It is there and was never published.
    EXTRA = "extra"
    TRUNCATED = "truncated"
    #: It is there and could not be read: that is not the same as missing.
    UNREADABLE = "unreadable"


class Outcome(StrEnum):
    """What came of it."""

    #: Nothing was done: it was not asked for, or it is not dcsync's to do. The detail says so.
    FOUND = "found"
    #: Replaced by a whole copy; the damaged file is kept aside.
    REPAIRED = "repaired"
    #: The next sync fetches the whole snapshot again.
    REFETCH = "refetch"
    #: There is no other copy, here or on the server.
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One thing amiss. `path` is below the root; `kept` is where a damaged file was put, below the root too."""

    kind: Kind
    account: AccountName
    job: JobId | None
    path: str
    detail: str
    outcome: Outcome = Outcome.FOUND
    kept: str | None = None
    is_folder: bool = False
    #: What tells which part of a nightly verify reads it; None for each.
    key: str | None = None

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
    """A file that may be replaced. `body` is known for one that can be made anew, `inode` for one that is there."""

    damage: Damage
    folder: str
    name: str
    sha256: str
    stored: StoredFile | None
    body: bytes | None = field(repr=False)
    inode: tuple[int, int] | None


@dataclass(slots=True, kw_only=True)
class VerifyReport:
    """What was read, and what was found."""

    part: tuple[int, int] | None = None
    snapshots: int = 0
    files: int = 0
    read_bytes: int = 0
    damage: list[Damage] = field(default_factory=list)

    @property
    def exit_status(self) -> ExitStatus:
        """Return 0 when nothing is amiss any more, 14 when something is lost, else 3."""
        outcomes = {item.outcome for item in self.damage}
        if Outcome.LOST in outcomes:
            return ExitStatus.UNSAFE
        return ExitStatus.INCOMPLETE if outcomes - {Outcome.REPAIRED} else ExitStatus.DONE

    def json(self) -> dict[str, Json]:
        """Return the report for programs."""
        return {
            "part": None if self.part is None else f"{self.part[0]}/{self.part[1]}",
            "snapshots": self.snapshots,
            "files_read": self.files,
            "bytes_read": self.read_bytes,
            "findings": [item.json() for item in self.damage],
        }
