"""Prove all steps of row histories again, from the snapshots that are in the mirror. Writes nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from dcsync.core.model import AccountName, JobId
from dcsync.core.ports import KnownRequest
from dcsync.core.row_history import Check, Extract, Step, TableHistory
from dcsync.errors import DcsyncError, RowsInterrupted, RowsUnproved
from dcsync.mirror import disk
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.history import statements
from dcsync.ops.history.build import RequestTables, Stopping
from dcsync.ops.history.files import HistoryFolder, Lost
from dcsync.ops.history.prove import prove
from dcsync.ops.history.steps import parquet, sources_of, temporary_tables
from dcsync.ops.integrity.content_reader import ReadingObserver
from dcsync.rows import Engine, open_table, opened


@dataclass(frozen=True, slots=True, kw_only=True)
class Unproved:
    """A step that does not prove. `path` is the table in its snapshot, or the file of the history."""

    table: str
    job: JobId | None
    path: str
    reason: str


@dataclass(slots=True, kw_only=True)
class Verified:
    """The steps of a data request that were proved, those whose snapshots are gone, and those that do not prove."""

    account: AccountName
    request: KnownRequest
    folder: str
    proved: int = 0
    gone: int = 0
    unproved: list[Unproved] = field(default_factory=list)
    #: The recorded comparisons of delta tables with full extracts, by table.
    checked: dict[str, Check] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifying:
    """The work on one data request. Blocks."""

    root: MirrorRoot
    request: RequestTables
    memory: int
    observer: ReadingObserver
    stopping: Stopping

    def run(self, verified: Verified) -> Verified:
        """Prove every step whose snapshot is in the mirror."""
        files = HistoryFolder(self.root, self.request.folder, self.request.request, self.request.slug)
        known = files.read()
        with ExitStack() as stack:
            spill = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            engine = stack.enter_context(opened(memory=self.memory, spill=spill))
            self.stopping.watch(engine)
            for name, extracts in self.request.tables.items():
                self.stopping.check()
                found = files.check(name, known.tables.get(name), lambda: engine)
                if isinstance(found, Lost):
                    path = f"{self.request.folder}/{name}.parquet"
                    verified.unproved.append(Unproved(table=name, job=None, path=path, reason=found.reason))
                elif found is not None and found.steps:
                    if found.checked is not None:
                        verified.checked[name] = found.checked
                    with files.opened(name) as descriptor:
                        self._table(engine, name, found, extracts, parquet(descriptor), verified)
        return verified

    def _table(
        self,
        engine: Engine,
        name: str,
        history: TableHistory,
        extracts: Sequence[Extract],
        source: str,
        verified: Verified,
    ) -> None:
        there: Mapping[JobId, Extract] = {extract.job: extract for extract in extracts}
        for number, step in enumerate(history.steps, 1):
            self.stopping.check()
            extract = there.get(step.job)
            if extract is None:
                verified.gone += 1
                continue
            self.observer.snapshot(f"{name} of {extract.folder}", number, len(history.steps))
            reason = why_unproved(self.root, engine, history, step, extract, source)
            if reason is None:
                verified.proved += 1
            else:
                path = f"{extract.folder}/{extract.name}"
                verified.unproved.append(Unproved(table=name, job=step.job, path=path, reason=reason))
            self.observer.read(extract.size)


def why_unproved(
    root: MirrorRoot, engine: Engine, history: TableHistory, step: Step, extract: Extract, source: str
) -> str | None:
    """Return why a step does not prove from its snapshot and the Parquet file in `source`, or None."""
    try:
        with (
            root.folder(extract.folder) as folder,
            open_table(extract.name, below=folder) as table,
            temporary_tables(engine),
            table.reading(),
        ):
            sources = sources_of(history.kind, history.columns, table, None)
            if sources.all_columns != history.columns:
                raise RowsUnproved("the table has columns that the history does not have")
            engine.run(statements.read_mine(sources))
            prove(engine, sources, source, step.time)
    except RowsInterrupted:
        raise
    except DcsyncError as error:
        return error.message
    except OSError as error:
        return disk.disk_error(error, "reading the table").message
    return None
