"""Prove all steps of row histories again, from the snapshots that are in the mirror. Writes no file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from dcsync.core.model import AccountName, JobId
from dcsync.core.ports import KnownRequest
from dcsync.core.row_history import Check, Extract, Step, TableHistory, gone_steps
from dcsync.core.table import TableKind
from dcsync.errors import DcsyncError, RowsFailed, RowsInterrupted, RowsUnproved
from dcsync.mirror import disk
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.history import statements
from dcsync.ops.history.build import RequestTables
from dcsync.ops.history.files import FileDamaged, HistoryFolder, Lost, check_hash
from dcsync.ops.history.prove import prove, sealed
from dcsync.ops.history.steps import parquet, sources_of, temporary_tables
from dcsync.ops.history.thread import Stopping
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
    """The steps of a data request that were proved, and those that do not prove.

    `recorded` counts the steps whose tables are gone, and whose rows are those that the history recorded. `gone` counts
    those of which nothing can be proved.
    """

    account: AccountName
    request: KnownRequest
    folder: str
    proved: int = 0
    recorded: int = 0
    gone: int = 0
    unproved: list[Unproved] = field(default_factory=list)
    #: The tables that were looked at, and those among them of which nothing could be proved.
    looked_at: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    #: Whether a build changed the history at the same time.
    is_outdated: bool = False
    #: The recorded comparisons of delta tables with full extracts, by table.
    checked: dict[str, Check] = field(default_factory=dict)

    @property
    def checks(self) -> int:
        """The number of steps of which something is known."""
        return self.proved + self.recorded + len(self.unproved)


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
            names = dict.fromkeys((*self.request.tables, *filter(self.request.wants, known.tables)))
            for name in names:
                self.stopping.check()
                verified.looked_at.add(name)
                before = verified.checks
                found = files.check(name, known.tables.get(name), lambda: engine)
                if isinstance(found, Lost):
                    self._unproved(verified, name, found.reason)
                elif found is not None and found.steps:
                    if found.checked is not None:
                        verified.checked[name] = found.checked
                    with files.opened(name) as descriptor:
                        self._file(engine, name, found, descriptor, verified)
                    if verified.checks == before:
                        verified.unknown.add(name)
        verified.is_outdated = files.read() != known
        return verified

    def _unproved(self, verified: Verified, name: str, reason: str) -> None:
        path = f"{self.request.folder}/{name}.parquet"
        verified.unproved.append(Unproved(table=name, job=None, path=path, reason=reason))

    def _file(self, engine: Engine, name: str, history: TableHistory, descriptor: int, verified: Verified) -> None:
        """Prove the file itself, which may be the only copy of rows, and then its steps."""
        source, extracts = parquet(descriptor), self.request.tables.get(name, ())
        is_sealed = history.is_sealed and history.kind is TableKind.WINDOW
        try:
            check_hash(descriptor, history)
            if is_sealed:
                sealed(engine, history, source)
        except FileDamaged as error:
            self._unproved(verified, name, error.lost.reason)
        except RowsFailed as error:
            if isinstance(error, RowsInterrupted):
                raise
            self._unproved(verified, name, f"its rows are not the recorded ones: {error.message}")
        else:
            gone = len(gone_steps(history.steps, extracts))
            verified.recorded += gone if is_sealed else 0
            verified.gone += 0 if is_sealed else gone
        self._table(engine, name, history, extracts, source, verified)

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
            if extract is None or extract.sha256 != step.sha256:
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
