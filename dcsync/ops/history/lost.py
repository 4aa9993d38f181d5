"""Row histories whose files are lost or damaged, and rows that no snapshot has. Blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from dcsync.core.names import SIDECAR_NAME
from dcsync.core.reduction import only_in_history
from dcsync.core.row_history import Extract, Step, TableHistory, gone_steps, steps_after, table_name
from dcsync.core.wire import WireError, decode_json
from dcsync.errors import DcsyncError
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.history.files import Lost

log = structlog.get_logger(__name__)


def what_is_lost(history: TableHistory | None, extracts: Sequence[Extract]) -> str:
    """Return in words which rows no snapshot has."""
    gone = () if history is None else gone_steps(history.steps, extracts)
    if gone:
        return f"no snapshot has the rows of {_steps(gone)}"
    if history is not None and history.lost:
        more = f" and {len(history.lost) - 1} more tables" if len(history.lost) > 1 else ""
        return f"no snapshot has the rows of {history.lost[0]}{more}"
    return "snapshots of its steps may no longer be in the mirror"


def hint_for(path: str) -> str:
    """Return what to do about a lost file."""
    return (
        f"restore {path} from a backup, and run dcsync history. Without a backup, "
        "dcsync history --rebuild --accept-loss begins it again with the snapshots that are left"
    )


def older(listed: TableHistory | None, found: TableHistory, extracts: Sequence[Extract]) -> Lost | None:
    """Return that a file is lost if it is an older one, and no snapshot has the rows that it lacks.

    Without a record, the snapshots show that a file is not that of another table.
    """
    there = {extract.job: extract.sha256 for extract in extracts}
    if listed is None and any(there.get(step.job, step.sha256) != step.sha256 for step in found.steps):
        return Lost(reason="its file has steps of another table", history=None)
    gone = () if listed is None else gone_steps(steps_after(listed, found), extracts)
    return Lost(reason=f"its file is an older one, without {_steps(gone)}", history=listed) if gone else None


def tables_only_in_history(root: MirrorRoot, folders: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Return the tables of reduced snapshots whose rows only row histories have, by the names of the histories."""
    found: dict[str, tuple[str, ...]] = {}
    for folder in folders:
        try:
            names = only_in_history(decode_json(root.read_file(folder, SIDECAR_NAME)))
        except (FileNotFoundError, WireError, DcsyncError) as error:
            # `verify` reports it.
            log.info("metadata of a snapshot not read", folder=folder, reason=str(error))
            continue
        for name in names:
            found[table_name(name)] = (*found.get(table_name(name), ()), f"{folder}/{name}")
    return found


def _steps(steps: Sequence[Step]) -> str:
    count = "1 step" if len(steps) == 1 else f"{len(steps)} steps"
    first, last = steps[0].time, steps[-1].time
    until = "" if first.date() == last.date() else f" to {last:%Y-%m-%d}"
    return f"{count} ({first:%Y-%m-%d}{until})"
