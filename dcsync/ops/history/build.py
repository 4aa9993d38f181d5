"""Bring the row history of one data request up to date. Blocks, and belongs into a thread of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

import structlog

from dcsync.core.delta_check import full_extracts, step_at
from dcsync.core.model import JobId
from dcsync.core.row_history import (
    RESERVED,
    Check,
    Extract,
    Omission,
    RequestState,
    TableHistory,
    can_restart,
    plan,
)
from dcsync.core.table import TableKind
from dcsync.errors import DcsyncError, RowsFailed, RowsInterrupted, RowsUnreadable
from dcsync.mirror import disk
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.history.crashes import Crashes
from dcsync.ops.history.delta_check import compare
from dcsync.ops.history.files import FileDamaged, HistoryFolder, Lost, Replacement, check_hash
from dcsync.ops.history.lost import hint_for, older, tables_only_in_history, what_is_lost
from dcsync.ops.history.steps import Files, Taken, take_step, unchanged_step
from dcsync.ops.history.thread import Stopping
from dcsync.rows import Engine, open_table, opened

log = structlog.get_logger(__name__)

#: How often the process may end while it takes one step, before that step waits for another table.
_MOST_CRASHES: Final = 2
_LATE: Final = "it was published after newer snapshots, and snapshots of earlier steps are no longer in the mirror"
_AGAIN: Final = "the history stays as it was"
#: The share of the memory that DuckDB gets. The rest is for what it does not count.
_DUCKDB_SHARE: Final = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTables:
    """A data request: its tables in the mirror, oldest first, by the names of their histories.

    `jobs` are the snapshots that were read for it. Without `is_whole`, the mirror has more, and no history begins
    again. `folder` is the folder of the history.
    """

    request: str
    slug: str
    folder: str
    wanted: tuple[str, ...]
    jobs: tuple[JobId, ...]
    tables: Mapping[str, Sequence[Extract]]
    is_whole: bool = True
    #: Whether a history of this name is to be built.
    wants: Callable[[str], bool] = lambda _name: True
    #: The folders of the snapshots that the retention policy reduced.
    reduced: tuple[str, ...] = ()
    #: Whether the mirror lacks tables of snapshots that it once had.
    is_pruned: bool = False
    #: The full tables of the data requests for the same projects, by their file names in lower case.
    fulls: Mapping[str, Sequence[Extract]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A table whose history does not advance now, and why. Tables that wait for another extract are not among them."""

    table: str
    reason: str
    hint: str = ""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What happened to the tables of a data request."""

    #: The steps that were taken, and those among them that changed a file.
    steps: int = 0
    written: int = 0
    failed: list[Failed] = field(default_factory=list)
    #: The tables that were not begun again, because the mirror lacks snapshots of their steps.
    kept: list[str] = field(default_factory=list)
    state: RequestState = field(default_factory=RequestState)
    #: The tables that were built from their first step on, each step proved.
    anew: set[str] = field(default_factory=set)
    #: Whether snapshots that were not read are needed, because an older one was published late.
    needs_all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a build works."""

    memory: int
    reserve: int = 0
    #: Also try tables again that could not be read.
    retries: bool = False
    #: Begin every history again whose snapshots are all in the mirror.
    rebuilds: bool = False
    #: With `rebuilds`: also those that have rows that no snapshot has.
    accepts_loss: bool = False
    #: Called for each table of each snapshot, with its number and how many there are.
    progressed: Callable[[Extract, int, int], None] = lambda _extract, _number, _of: None


class Building:
    """The work on one data request."""

    def __init__(self, root: MirrorRoot, request: RequestTables, options: Options, stopping: Stopping) -> None:
        self._root = root
        self._request = request
        self._options = options
        self._stopping = stopping
        self._files = HistoryFolder(root, request.folder, request.request, request.slug)
        self._crashes = Crashes(root, self._files.work)
        #: The tables whose files were compared with their SHA-256 in this build, or written by it.
        self._intact: set[str] = set()
        self._only_in_history: Mapping[str, tuple[str, ...]] | None = None
        self._resources = ExitStack()
        self._engine: Engine | None = None
        self._tables: dict[str, TableHistory] = {}
        self._number = 0
        #: Whether every snapshot that should be there was there.
        self._has_all = True
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Advance every table. What fails for one table stops no other. Raises `RowsInterrupted`."""
        known = self._files.read()
        self._tables = dict(known.tables)
        jobs = known.jobs if known.wanted == self._request.wanted else ()
        with self._resources:
            self._crashes.load()
            try:
                for name in self._names(known):
                    self._stopping.check()
                    self._advance(name, known.tables.get(name), self._request.tables.get(name, ()))
                if self._has_all and not self.outcome.failed and not self.outcome.needs_all:
                    jobs = tuple(dict.fromkeys((*jobs, *self._request.jobs)))
                for name, history in self._tables.items():
                    self._tables[name] = self._compared(name, history)
            finally:
                state = RequestState(tables=self._tables, wanted=self._request.wanted, jobs=jobs)
                self.outcome.state = state
                if state != known:
                    self._files.write(state)
        return self.outcome

    def engine(self) -> Engine:
        """Return the engine, which is opened when it is needed: a table without a change needs none."""
        if self._engine is None:
            work = self._resources.enter_context(self._root.folder(self._files.work, create=True))
            disk.remove_tree("spill", work)
            os.mkdir("spill", 0o700, dir_fd=work)
            spill = disk.open_folder("spill", below=work)
            self._resources.callback(os.close, spill)
            memory = int(self._options.memory * _DUCKDB_SHARE)
            self._engine = self._resources.enter_context(opened(memory=memory, spill=Path(f"/proc/self/fd/{spill}")))
            self._stopping.watch(self._engine)
        return self._engine

    def _names(self, known: RequestState) -> Iterable[str]:
        """Return the tables: those in the snapshots, those with a history, and without a record those that had one."""
        more = [*known.tables] if known.tables else [*self._files.names(), *self._marked()]
        return dict.fromkeys((*self._request.tables, *filter(self._request.wants, more)))

    def _marked(self) -> Mapping[str, tuple[str, ...]]:
        if self._only_in_history is None:
            self._only_in_history = tables_only_in_history(self._root, self._request.reduced)
        return self._only_in_history

    def _advance(self, name: str, listed: TableHistory | None, extracts: Sequence[Extract]) -> None:
        try:
            try:
                self._advance_found(name, listed, extracts)
            except FileDamaged as error:
                self._replace_lost(name, error.lost, extracts)
            self._seal(name)
        except RowsInterrupted:
            raise
        except DcsyncError as error:
            self._fail(name, error.message, error.advice or "")
        except OSError as error:
            self._fail(name, disk.disk_error(error, f"building the row history of {name}").message)

    def _seal(self, name: str) -> None:
        """Record what older versions of dcsync did not record, unless the file is lost."""
        history = self._tables.get(name)
        is_lost = any(failed.table == name for failed in self.outcome.failed) or self.outcome.needs_all
        if history is not None and history.file is not None and not (history.is_sealed or is_lost):
            self._tables[name] = self._files.sealed(name, history, self.engine)

    def _advance_found(self, name: str, listed: TableHistory | None, extracts: Sequence[Extract]) -> None:
        found = self._files.check(name, listed, self.engine)
        if isinstance(found, TableHistory):
            found = older(listed, found, extracts) or found
        if isinstance(found, Lost):
            self._replace_lost(name, found, extracts)
        elif found is None:
            self._begin(name, extracts)
        elif self._options.rebuilds and found.steps:
            self._rebuild(name, found, extracts)
        else:
            self._take_all(name, found, extracts)

    def _compared(self, name: str, history: TableHistory) -> TableHistory:
        """Compare a delta table with the newest full extract that can be compared, and record those that cannot."""
        fulls = full_extracts(name, history, self._request.fulls, retries=self._options.retries)
        checked: Check | None = None
        for full in fulls:
            self._stopping.check()
            try:
                checked = self._compare(name, history, full)
            except RowsInterrupted:
                raise
            except (DcsyncError, OSError) as error:
                log.info("delta table not compared", table=name, path=f"{full.folder}/{full.name}", reason=str(error))
                return history
            if checked is not None:
                break
        if checked is not None:
            history = replace(history, checked=checked)
        step = step_at(history, fulls[0].time) if fulls else None
        is_tried = step is not None and (checked is None or checked.job != fulls[0].job)
        return replace(history, tried=(fulls[0].job, step.job)) if step is not None and is_tried else history

    def _compare(self, name: str, history: TableHistory, full: Extract) -> Check | None:
        """Compare a delta table with a full extract. None if it cannot be compared, now and later."""
        try:
            with (
                self._files.opened(name) as file,
                self._root.folder(full.folder) as snapshot,
                open_table(full.name, below=snapshot, reserved=RESERVED) as table,
            ):
                return compare(self.engine(), history, file, full, table)
        except RowsUnreadable:
            # The full table has a history of its own, whose alert says more.
            return None

    def _begin(self, name: str, extracts: Sequence[Extract]) -> None:
        kind = next((extract.kind for extract in extracts if extract.kind is not None), None)
        lost = () if self._options.accepts_loss else self._marked().get(name, ())
        if lost:
            self._tables[name] = TableHistory(kind=TableKind.WINDOW, lost=lost)
            self._fail_lost(name, Lost(reason="its file is missing", history=self._tables[name]), extracts)
        elif not extracts and self._options.accepts_loss:
            # Nothing is left of the table.
            self._tables.pop(name, None)
            self._files.remove(name)
            self.outcome.anew.add(name)
        elif kind is None:
            self._fail(name, "it is not known which rows of the table an extract has")
        else:
            self._take_all(name, TableHistory(kind=kind), extracts)

    def _replace_lost(self, name: str, lost: Lost, extracts: Sequence[Extract]) -> None:
        """Build a history again whose file cannot be used."""
        if not self._request.is_whole:
            self.outcome.needs_all = True
        elif self._options.accepts_loss or self._can_begin_again(lost, extracts):
            self._begin(name, extracts)
        else:
            self._fail_lost(name, lost, extracts)

    def _can_begin_again(self, lost: Lost, extracts: Sequence[Extract]) -> bool:
        if lost.history is not None:
            return can_restart(lost.history, extracts)
        # Nothing says which steps a file has that cannot be read.
        return not self._request.is_pruned

    def _fail_lost(self, name: str, lost: Lost, extracts: Sequence[Extract]) -> None:
        reason = f"{lost.reason}, and {what_is_lost(lost.history, extracts)}"
        self._fail(name, reason, hint_for(f"{self._request.folder}/{name}.parquet"))

    def _rebuild(self, name: str, history: TableHistory, extracts: Sequence[Extract]) -> None:
        can_begin = can_restart(history, extracts) or bool(extracts and self._options.accepts_loss)
        if self._request.is_whole and can_begin:
            ordered = plan(TableHistory(kind=history.kind), extracts)
            self._begin_again(name, TableHistory(kind=history.kind), ordered.steps)
        else:
            self.outcome.kept.append(name)
            with self._opened(name, history):
                """It is not damaged."""
            self._take_all(name, history, extracts)

    def _take_all(self, name: str, history: TableHistory, extracts: Sequence[Extract]) -> None:
        planned = plan(history, extracts)
        if (planned.late or planned.restarts) and not self._request.is_whole:
            self.outcome.needs_all = True
        elif planned.restarts:
            self._begin_again(name, TableHistory(kind=history.kind), planned.steps)
        else:
            late = tuple(Omission(job=extract.job, reason=_LATE) for extract in planned.late)
            history = self._tables[name] = replace(history, omitted=(*history.omitted, *late))
            for extract in planned.steps:
                self._tell(extract)
                if not self._waits_for(history, extract):
                    history = self._tables[name] = self._step(name, history, extract, None)

    def _begin_again(self, name: str, history: TableHistory, extracts: Sequence[Extract]) -> None:
        """Build a history from its first snapshot on. Its file so far stays until the new one is complete."""
        with _Chain(self._files, name) as chain:
            for extract in extracts:
                self._tell(extract)
                history = self._step(name, history, extract, chain)
            if not self._has_all:
                raise RowsFailed("a snapshot was removed while the history was built again", hint=_AGAIN)
            self._tables[name] = chain.put_in_place(history)
            if history.steps:
                self.outcome.anew.add(name)
            self._intact.add(name)

    def _tell(self, extract: Extract) -> None:
        self._stopping.check()
        self._number += 1
        self._options.progressed(extract, self._number, sum(map(len, self._request.tables.values())))

    def _waits_for(self, history: TableHistory, extract: Extract) -> bool:
        wait = history.waits
        return (
            wait is not None and (wait.job, wait.sha256) == (extract.job, extract.sha256) and not self._options.retries
        )

    def _step(self, name: str, history: TableHistory, extract: Extract, chain: _Chain | None) -> TableHistory:
        """Take one step. Returns the history with a wait if this table cannot be used."""
        if extract.kind is not history.kind:
            was = "unknown" if extract.kind is None else extract.kind.value
            return history.with_wait(extract, f"it was a {history.kind.value} table before, and is now {was}")
        same = unchanged_step(history, extract)
        if same is None:
            if self._crashes.count(name, extract) >= _MOST_CRASHES and not self._options.retries:
                return history.with_wait(extract, f"dcsync ended {_MOST_CRASHES} times while it read this table")
            with self._crashes.guarding(name, extract):
                try:
                    same = self._take(name, history, extract, chain)
                except FileNotFoundError:
                    # It was pruned a moment ago. `verify` reports it if it was not.
                    self._has_all = False
                    return history
                except RowsUnreadable as error:
                    return history.with_wait(extract, f"line {error.line}: {error.reason}")
            self.outcome.written += 1
        self.outcome.steps += 1
        return same

    def _take(self, name: str, history: TableHistory, extract: Extract, chain: _Chain | None) -> TableHistory:
        with ExitStack() as stack:
            before = None
            if history.steps:
                before = stack.enter_context(self._opened(name, history)) if chain is None else chain.descriptor
            size = extract.size // 2 + (0 if before is None else os.fstat(before).st_size)
            self._root.check_room(size=size, entries=2, reserve=self._options.reserve)
            snapshot = stack.enter_context(self._root.folder(extract.folder))
            table = stack.enter_context(open_table(extract.name, below=snapshot))
            replacing = self._files.replacing(name) if chain is None else chain.replacing()
            replacement = stack.enter_context(replacing)
            files = Files(before=before, after=replacement.descriptor)
            taken: Taken = take_step(self.engine(), history, extract, table, files)
            if not taken.is_written:
                return taken.history
            if chain is not None:
                chain.keep(stack, replacement)
                return taken.history
            self._intact.add(name)
            if not history.steps:
                self.outcome.anew.add(name)
            return replacement.put_in_place(taken.history)

    @contextmanager
    def _opened(self, name: str, history: TableHistory) -> Iterator[int]:
        """Open the file so far. Raises `FileDamaged`, so that no step takes damage along."""
        with self._files.opened(name) as descriptor:
            if name not in self._intact:
                check_hash(descriptor, history)
                self._intact.add(name)
            yield descriptor

    def _fail(self, table: str, reason: str, hint: str = "") -> None:
        self.outcome.failed.append(Failed(table=table, reason=reason, hint=hint))


class _Chain:
    """The file of a history that begins again: of its last step so far."""

    def __init__(self, files: HistoryFolder, name: str) -> None:
        self._files = files
        self._name = name
        self._number = 0
        self._last: Replacement | None = None
        #: Holds the files of the last step open.
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._resources.close()

    @property
    def descriptor(self) -> int | None:
        """The file so far."""
        return None if self._last is None else self._last.descriptor

    def replacing(self) -> AbstractContextManager[Replacement]:
        """Open the file of the next step."""
        self._number += 1
        return self._files.replacing(self._name, f"again-{self._number % 2}.parquet")

    def keep(self, resources: ExitStack, replacement: Replacement) -> None:
        """Continue with the file of the next step, which `resources` hold open."""
        self._resources.close()
        self._resources, self._last = resources.pop_all(), replacement

    def put_in_place(self, history: TableHistory) -> TableHistory:
        """Replace the file of the table, and return its history. Does nothing if no step could be taken."""
        return history if self._last is None else self._last.put_in_place(history)
