"""Whether a planned snapshot holds the tables of its extract, and which files of the extract it lacks. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from dcsync.core.anomaly import TableWarning
from dcsync.core.model import ARCHIVE_NAME
from dcsync.core.names import printable
from dcsync.core.plan import Plan, Skip
from dcsync.core.table import has_rows
from dcsync.core.ziplayout import Directory

#: Files of the ZIP were not extracted, and the snapshot contains the ZIP itself.
ZIP_KEPT = "L-ZIP"
#: Files that only the ZIP has are missing in the snapshot.
FILES_MISSING = "L-PARTIAL"
ZIP_CODES = frozenset({ZIP_KEPT, FILES_MISSING})


def holds_rows(names: Iterable[str]) -> bool:
    """Whether files with these names at Autodesk hold a table, or the ZIP, which contains the tables."""
    return any(has_rows(name) or name == ARCHIVE_NAME for name in names)


class NoTables(StrEnum):
    """Why a snapshot would hold no table."""

    #: The extract has tables, and the configuration selects none of them.
    SELECTION = "selection"
    #: The extract has none.
    EXTRACT = "extract"


def without_tables(plan: Plan, directory: Directory | None) -> NoTables | None:
    """Return why the snapshot of a plan would hold no table, or None if it holds one.

    A kept ZIP counts as a table if it contains one, or if its content is unknown: the data is in the snapshot.
    """
    tables = [action for action in plan.actions if has_rows(action.file.name)]
    if any(not isinstance(action, Skip) for action in tables):
        return None
    if plan.keeps_archive and (tables or directory is None):
        return None
    return NoTables.SELECTION if tables else NoTables.EXTRACT


def zip_warnings(plan: Plan, fault: str | None) -> tuple[TableWarning, ...]:
    """Return the warning about files that could not be extracted from the ZIP, or nothing.

    `fault` says why the ZIP could not be read at all.
    """
    lost = plan.lost
    if not lost:
        if fault is None or not plan.keeps_archive:
            return ()
        message = f"cannot be read ({fault}). The snapshot contains it, and the files of the data listing"
        return (TableWarning(code=ZIP_KEPT, table=ARCHIVE_NAME, message=message),)
    first, more = lost[0], len(lost) - 1
    others = "" if not more else f" and {more} more files" if more > 1 else " and 1 more file"
    message = f"({first.reason}){others} could not be extracted from the ZIP. "
    message += "The snapshot contains the ZIP itself" if plan.keeps_archive else "The snapshot lacks them"
    code = ZIP_KEPT if plan.keeps_archive else FILES_MISSING
    return (TableWarning(code=code, table=printable(first.file.name), message=message),)
