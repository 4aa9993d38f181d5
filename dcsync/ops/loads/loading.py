"""The work of one load: plan, then each table on its own. Blocks, and belongs into a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import structlog

from dcsync.core.load_plan import Action, LoadPlan, Planned, plan
from dcsync.core.load_settings import LoadSettings
from dcsync.core.loads import LoadMode, Shown
from dcsync.core.names import printable
from dcsync.errors import DcsyncError, LoadFailed, LoadInterrupted, LoadRefused, MirrorLocked, TargetUnusable
from dcsync.load import HistoryFile, Loaded, TableLoad
from dcsync.mirror import disk
from dcsync.mirror.described import describe_tables
from dcsync.mirror.root import MirrorRoot, open_root
from dcsync.ops.history.files import HistoryFolder, identity
from dcsync.ops.loads.candidates import Found
from dcsync.ops.loads.thread import Stopping
from dcsync.ops.loads.work import load_lock, work_folder
from dcsync.rows import CsvTable, open_table

log = structlog.get_logger(__name__)

#: How often a load checks whether the lock is free.
_LOCK_S: Final = 0.5
_MOST: Final = 400


class Target(Protocol):
    """An open target. Its methods block, and raise `LoadFailed`. Only `interrupt` is for another thread."""

    def shown(self) -> Mapping[str, Shown]:
        """Return what each table shows."""

    def load(self, load: TableLoad) -> Loaded:
        """Load a table and its row in `_dcsync_loads`, both or nothing."""

    def mark(self, shown: Sequence[Shown]) -> None:
        """Record that tables show another snapshot with the same rows."""

    def check_writable(self) -> None:
        """Raise `LoadFailed` if a load could not write. Changes nothing that stays."""

    def interrupt(self) -> None:
        """End what runs now soon, with `LoadInterrupted`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A load that can begin. `open_target` gets an empty folder for its files. `where` shows no secret."""

    settings: LoadSettings
    where: str
    open_target: Callable[[Path], AbstractContextManager[Target]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a table, or a load as a whole, is not up to date."""

    reason: str
    hint: str = ""
    #: Whether the file changed while the load ran, so that another attempt now can help.
    has_moved: bool = False
    #: Whether the same file would fail again.
    is_final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOutcome:
    """What happened to a table. `shown` is what the target shows now."""

    planned: Planned
    shown: Shown | None
    #: The rows that went to the target.
    sent: int = 0
    problem: Problem | None = None


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What happened in one load. `problem` is one of the whole load."""

    plan: LoadPlan = field(default_factory=lambda: LoadPlan(tables=()))
    tables: list[TableOutcome] = field(default_factory=list)
    problem: Problem | None = None


def problem_of(error: Exception) -> Problem:
    """Return the problem for an error. A bug is logged with its traceback."""
    if isinstance(error, DcsyncError):
        reason = error.reason if isinstance(error, LoadFailed) else error.message
        # The alert says when the next try is.
        hint = "" if error.advice == LoadFailed.hint else error.advice
        return Problem(reason=printable(reason, _MOST), hint=hint, is_final=isinstance(error, LoadRefused))
    log.error("a bug in dcsync; everything else continues", part="load", exc_info=error)
    # The text of an unknown exception may contain the address. The log redacts it.
    hint = "please report this bug with the lines of the log"
    return Problem(reason=f"a bug in dcsync ({type(error).__name__})", hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """One load of the tables that were found. `progressed` gets each table with its number and how many there are."""

    root: Path
    load: Load
    found: Found
    is_full: bool = False
    is_dry: bool = False
    progressed: Callable[[str, int, int], object] = lambda _table, _number, _of: None

    def run(self, stopping: Stopping) -> Outcome:
        """Load, as the only loader of this name. Raises `LoadInterrupted`. Any other error is part of the outcome."""
        outcome = Outcome()
        try:
            # A root of its own: the thread may outlive the mirror that the daemon has open.
            with (
                open_root(self.root) as root,
                self._locked(root, stopping),
                work_folder(root, self._name) as work,
                self.load.open_target(work) as target,
            ):
                stopping.watch(target.interrupt)
                try:
                    self._run(root, target, outcome, stopping)
                finally:
                    stopping.watch(None)
        except LoadInterrupted:
            raise
        except Exception as error:  # noqa: BLE001 - it stops nothing else
            stopping.check()
            outcome.problem = problem_of(error)
        return outcome

    @property
    def _name(self) -> str:
        return self.load.settings.name

    @contextmanager
    def _locked(self, root: MirrorRoot, stopping: Stopping) -> Iterator[None]:
        """Hold the lock of the load. Waits for another host, or another command, that loads the same."""
        with ExitStack() as held:
            while True:
                stopping.check()
                try:
                    held.enter_context(load_lock(root, self._name))
                    break
                except MirrorLocked:
                    stopping.wait(_LOCK_S)
            yield

    def _run(self, root: MirrorRoot, target: Target, outcome: Outcome, stopping: Stopping) -> None:
        settings = self.load.settings
        outcome.plan = plan(settings, self.found.candidates, target.shown(), is_full=self.is_full)
        if self.is_dry:
            outcome.tables += [_unchanged(each) for each in outcome.plan.tables]
            return
        marked = [each for each in outcome.plan.tables if each.action is Action.MARK]
        if marked:
            shown = [each.shows(settings.mode) for each in marked]
            target.mark(shown)
            outcome.tables += [TableOutcome(planned=each, shown=now) for each, now in zip(marked, shown, strict=True)]
        loads = [each for each in outcome.plan.tables if each.action in {Action.LOAD, Action.CHANGES}]
        types = self._types(root, loads)
        for number, each in enumerate(loads, 1):
            stopping.check()
            self.progressed(each.table, number, len(loads))
            outcome.tables.append(self._load(root, target, each, types))
            stopping.check()
        outcome.tables += [_unchanged(each) for each in outcome.plan.tables if not each.writes]

    def _load(
        self, root: MirrorRoot, target: Target, each: Planned, types: Mapping[str, Mapping[str, str]]
    ) -> TableOutcome:
        """Load one table. Its failure stops no other table, unless the target itself is unusable."""
        settings = self.load.settings
        try:
            with self._source(root, each) as source:
                loaded = target.load(
                    TableLoad(
                        shown=each.shows(settings.mode),
                        source=source,
                        types=types[each.candidate.path],
                        on_new_column=settings.on_new_column,
                        whole=each.action is Action.LOAD,
                        seen=each.shown,
                    )
                )
        except (LoadInterrupted, TargetUnusable):
            raise
        except FileNotFoundError:
            problem = Problem(reason=f"{each.candidate.path} is no longer in the mirror", has_moved=True)
            return TableOutcome(planned=each, shown=each.shown, problem=problem)
        except _Moved:
            problem = Problem(reason=f"{each.candidate.path} was replaced during the load", has_moved=True)
            return TableOutcome(planned=each, shown=each.shown, problem=problem)
        except Exception as error:  # noqa: BLE001 - one table stops no other
            return TableOutcome(planned=each, shown=each.shown, problem=problem_of(error))
        return TableOutcome(planned=each, shown=loaded.shown, sent=loaded.sent)

    @contextmanager
    def _source(self, root: MirrorRoot, each: Planned) -> Iterator[CsvTable | HistoryFile]:
        """Open the file of a table. Raises `FileNotFoundError` if it left the mirror, and `_Moved`."""
        path = each.candidate.path
        if self.load.settings.mode is LoadMode.HISTORY:
            folder, _, _ = path.rpartition("/")
            with HistoryFolder(root, folder, each.candidate.request).opened(each.candidate.name) as descriptor:
                if identity(descriptor) != self.found.files[path]:
                    raise _Moved
                yield HistoryFile(path=path, descriptor=descriptor)
            return
        snapshot, _ = self.found.snapshots[path]
        name = path.removeprefix(f"{snapshot.folder}/")
        with (
            root.folder(snapshot.folder) as folder_descriptor,
            disk.disk_errors_but_missing(f"reading {disk.shown(path)}"),
            open_table(name, below=folder_descriptor) as table,
        ):
            yield table

    def _types(self, root: MirrorRoot, tables: Sequence[Planned]) -> Mapping[str, Mapping[str, str]]:
        """Return the types of the columns of each file, by its path."""
        of_folder: dict[str, Mapping[str, Mapping[str, str]]] = {}
        found = {}
        for each in tables:
            snapshot, original = self.found.snapshots[each.candidate.path]
            if snapshot.folder not in of_folder:
                described = describe_tables(root, snapshot.folder, snapshot.files)
                of_folder[snapshot.folder] = {name: about.types for name, about in described.items()}
            found[each.candidate.path] = of_folder[snapshot.folder].get(original, {})
        return found


class _Moved(Exception):
    """The file is not the one that was planned."""


def _unchanged(planned: Planned) -> TableOutcome:
    return TableOutcome(planned=planned, shown=planned.shown)
