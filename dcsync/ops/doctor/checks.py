"""The results of `doctor`: checks in order, each with a level."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from dcsync.core.model import Json
from dcsync.errors import DcsyncError, ExitStatus
from dcsync.mirror.disk import disk_error


class Level(StrEnum):
    """The result of a check."""

    OK = "ok"
    #: It works, but needs attention.
    WARN = "warn"
    FAIL = "fail"
    #: Not checked, because another check that it needs failed.
    SKIP = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: the result, and the hint."""

    name: str
    level: Level
    message: str
    advice: str = ""
    #: The exit status of the command if this is its first failure.
    exit_status: ExitStatus = ExitStatus.INCOMPLETE

    def json(self) -> dict[str, Json]:
        """Return the stable keys of `doctor --json`."""
        return {"name": self.name, "level": self.level.value, "message": self.message, "advice": self.advice}


def ok(name: str, message: str) -> Check:
    """Return a check that passed."""
    return Check(name=name, level=Level.OK, message=message)


def warned(name: str, message: str, advice: str) -> Check:
    """Return a check that needs attention."""
    return Check(name=name, level=Level.WARN, message=message, advice=advice)


def failed(name: str, error: DcsyncError) -> Check:
    """Return a check that failed with this error."""
    return Check(name=name, level=Level.FAIL, message=error.message, advice=error.advice, exit_status=error.exit_status)


def skipped(name: str, reason: str) -> Check:
    """Return a check that was not made."""
    return Check(name=name, level=Level.SKIP, message=reason)


def worst(checks: Sequence[Check]) -> Level:
    """Return the worst level. Skipped checks do not count."""
    levels = {check.level for check in checks}
    return next((level for level in (Level.FAIL, Level.WARN) if level in levels), Level.OK)


def exit_status(checks: Sequence[Check]) -> ExitStatus:
    """Return the exit status of the first failure, or 0."""
    return next((check.exit_status for check in checks if check.level is Level.FAIL), ExitStatus.DONE)


@dataclass(slots=True, kw_only=True)
class CheckList:
    """The checks so far. `report` is called with each at once."""

    report: Callable[[Check], None] = lambda _: None
    checks: list[Check] = field(default_factory=list)

    def add(self, *checks: Check) -> None:
        """Add checks."""
        for check in checks:
            self.checks.append(check)
            self.report(check)

    async def take(self, name: str, work: Awaitable[Check]) -> bool:
        """Add the result of a check, or its error as a failure. Returns whether the check did not fail."""
        try:
            check = await work
        except DcsyncError as error:
            check = failed(name, error)
        except OSError as error:
            check = failed(name, disk_error(error, f"checking {name}"))
        self.add(check)
        return check.level is not Level.FAIL

    def why_not(self, *names: str) -> str | None:
        """Return the reason to skip a check that needs these checks, or None if none of them failed."""
        for level in (Level.FAIL, Level.SKIP):
            bad = [check.name for check in self.checks if check.name in names and check.level is level]
            if bad:
                return f"needs {', '.join(bad)}"
        return None
