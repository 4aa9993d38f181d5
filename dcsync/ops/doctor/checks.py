"""What `doctor` finds: checks with a level each, in order, told as they come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from dcsync.core.model import Json
from dcsync.errors import DcsyncError, ExitStatus
from dcsync.mirror.disk import disk_error


class Level(StrEnum):
    """How a check went."""

    OK = "ok"
    #: It works, and somebody should look at it.
    WARN = "warn"
    FAIL = "fail"
    #: Not looked at: something that it needs failed.
    SKIP = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: what was found, and what to do about it."""

    name: str
    level: Level
    message: str
    advice: str = ""
    #: What a failure asks of the command (DESIGN §6).
    exit_status: ExitStatus = ExitStatus.INCOMPLETE

    def json(self) -> dict[str, Json]:
        """Return the stable keys of `doctor --json`."""
        return {"name": self.name, "level": self.level.value, "message": self.message, "advice": self.advice}


def ok(name: str, message: str) -> Check:
    """Return a check that went well."""
    return Check(name=name, level=Level.OK, message=message)


def warned(name: str, message: str, advice: str) -> Check:
    """Return a check that somebody should look at."""
    return Check(name=name, level=Level.WARN, message=message, advice=advice)


def failed(name: str, error: DcsyncError) -> Check:
    """Return a check that an error of ours ended."""
    return Check(name=name, level=Level.FAIL, message=error.message, advice=error.advice, exit_status=error.exit_status)


def skipped(name: str, reason: str) -> Check:
    """Return a check that was not made."""
    return Check(name=name, level=Level.SKIP, message=reason)


def worst(checks: Sequence[Check]) -> Level:
    """Return the worst level; what was not looked at is no level of its own."""
    levels = {check.level for check in checks}
    return next((level for level in (Level.FAIL, Level.WARN) if level in levels), Level.OK)


def exit_status(checks: Sequence[Check]) -> ExitStatus:
    """Return the status of the first failure; 0 when there is none."""
    return next((check.exit_status for check in checks if check.level is Level.FAIL), ExitStatus.DONE)


@dataclass(slots=True, kw_only=True)
class CheckList:
    """The checks so far. `tell` hears of each at once."""

    tell: Callable[[Check], None] = lambda _: None
    checks: list[Check] = field(default_factory=list)

    def add(self, *checks: Check) -> None:
        """Add checks."""
        for check in checks:
            self.checks.append(check)
            self.tell(check)

    async def take(self, name: str, work: Awaitable[Check]) -> bool:
        """Add what a check brings, or its error as a failure; return whether it did not fail."""
        try:
            check = await work
        except DcsyncError as error:
            check = failed(name, error)
        except OSError as error:
            check = failed(name, disk_error(error, f"checking {name}"))
        self.add(check)
        return check.level is not Level.FAIL

    def why_not(self, *names: str) -> str | None:
        """Return the reason to skip what needs these checks; None when all of them went well enough."""
        for level in (Level.FAIL, Level.SKIP):
            bad = [check.name for check in self.checks if check.name in names and check.level is level]
            if bad:
                return f"needs {', '.join(bad)}"
        return None
