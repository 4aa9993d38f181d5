"""The window tables of a snapshot whose rows the row history is proved to have. They may leave it."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from dcsync.core.model import AccountName, JobId, RequestId
from dcsync.core.row_history import Extract, TableHistory, table_name
from dcsync.core.table import TableKind
from dcsync.errors import DcsyncError, RowsInterrupted
from dcsync.mirror.hashing import hash_descriptor
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.context import HistorySettings, MirrorContext
from dcsync.ops.history.catch_up import extracts_of
from dcsync.ops.history.files import FileDamaged, HistoryFolder, check_hash, identity
from dcsync.ops.history.steps import parquet, read_metadata
from dcsync.ops.history.thread import Stopping, in_thread
from dcsync.ops.history.verify import why_unproved
from dcsync.ops.integrity.history_files import building_lock
from dcsync.ops.integrity.window_tables import Recorded, WindowTables
from dcsync.rows import Engine, open_table, opened

log = structlog.get_logger(__name__)


def window_tables(settings: HistorySettings) -> WindowTables:
    """Return what the row histories of these settings know about window tables. Nothing without tables."""
    return WindowTables(
        recorded=partial(_recorded, settings=settings), proved=partial(_proved_windows, settings=settings)
    )


async def _recorded(
    context: MirrorContext, account: AccountName, request: RequestId, *, settings: HistorySettings
) -> Recorded:
    """Return the tables that the row history of a data request has as steps, by what it says."""
    files = await _files(context, account, request) if settings.tables else None
    if files is None:
        return frozenset()
    try:
        tables = (await context.disk.run(files.read)).tables
    except DcsyncError as error:
        log.debug("window tables stay", account=account, folder=files.path, error=error.message)
        return frozenset()
    return {
        (step.job, name, step.sha256)
        for name, history in tables.items()
        if _why_unusable(history) is None and settings.wants(f"{name}.csv")
        for step in history.steps
    }


async def _files(context: MirrorContext, account: AccountName, request: RequestId) -> HistoryFolder | None:
    """Return the folder of the row history of a data request that has snapshots."""
    known = (await context.manifest.requests(account)).get(request)
    snapshots = await context.manifest.history.snapshots(account)
    there = [each.folder for each in snapshots if each.request == request and not each.is_pruned]
    if known is None or not there:
        return None
    folder = context.settings.layout.history_folder(there[-1], known.slug)
    return HistoryFolder(context.root, folder, request, known.slug)


def _why_unusable(history: TableHistory | None) -> str | None:
    if history is None or history.kind is not TableKind.WINDOW or history.waits is not None:
        return "its row history does not exist, waits, or is of another kind"
    return None if history.is_sealed else "the row history does not record yet by what damage is noticed"


@asynccontextmanager
async def _proved_windows(
    context: MirrorContext, account: AccountName, request: RequestId, job: JobId, *, settings: HistorySettings
) -> AsyncIterator[frozenset[str]]:
    """Prove the window tables of a snapshot now, and return the names of those that the row history has.

    Nothing builds the history until the block ends. In any doubt, a table is not among them.
    """
    with ExitStack() as held:
        yield await _proved(context, account, request, job, settings, held) if settings.tables else frozenset()


async def _proved(
    context: MirrorContext,
    account: AccountName,
    request: RequestId,
    job: JobId,
    settings: HistorySettings,
    held: ExitStack,
) -> frozenset[str]:
    files = await _files(context, account, request)
    snapshot = await context.manifest.history.snapshot(account, job)
    if files is None or snapshot is None:
        return frozenset()
    windows = [each for each in extracts_of(snapshot, settings) if each.kind is TableKind.WINDOW]
    if not windows:
        return frozenset()
    try:
        lock = await context.disk.run(building_lock, context.root, files.slug)
        await context.disk.run(held.enter_context, lock)
        proving = _Proving(root=context.root, files=files, memory=settings.memory)
        return await in_thread(partial(proving.run, windows))
    except RowsInterrupted:
        raise
    except DcsyncError as error:
        log.debug("window tables stay", account=account, folder=snapshot.folder, error=error.message)
        return frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proving:
    """The proof of the window tables of one snapshot. Blocks."""

    root: MirrorRoot
    files: HistoryFolder
    memory: int

    def run(self, windows: Sequence[Extract], stopping: Stopping) -> frozenset[str]:
        """Return the names of the tables that the row history has."""
        known = self.files.read().tables
        with ExitStack() as stack:
            spill = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            engine = stack.enter_context(opened(memory=self.memory, spill=spill))
            stopping.watch(engine)
            proved = set()
            for extract in windows:
                stopping.check()
                reason = self._why_not(engine, known.get(table_name(extract.name)), extract)
                if reason is None:
                    proved.add(extract.name)
                else:
                    log.debug("window table stays", path=f"{extract.folder}/{extract.name}", reason=reason)
        return frozenset(proved)

    def _why_not(self, engine: Engine, history: TableHistory | None, extract: Extract) -> str | None:
        """Return why a table stays, or None."""
        reason = _why_unusable(history)
        if history is None or reason is not None:
            return reason
        step = next((each for each in history.steps if (each.job, each.sha256) == (extract.job, extract.sha256)), None)
        if step is None:
            return "the row history has no step for it"
        try:
            if self._sha256(extract) != extract.sha256:
                return "it is not the file that was published"
            with self.files.opened(table_name(extract.name)) as descriptor:
                # A build that ended between two files has not recorded the steps of this one.
                if identity(descriptor) != history.file:
                    return "the file of the row history is not the recorded one"
                check_hash(descriptor, history)
                if step.rows and not any(
                    each.sha256 == step.sha256 for each in read_metadata(engine, descriptor).steps
                ):
                    return "the file of the row history does not have its step"
                return why_unproved(self.root, engine, history, step, extract, parquet(descriptor))
        except RowsInterrupted:
            raise
        except FileDamaged as error:
            return error.lost.reason
        except DcsyncError as error:
            return error.message
        except OSError as error:
            return str(error.strerror)

    def _sha256(self, extract: Extract) -> str:
        with self.root.folder(extract.folder) as folder, open_table(extract.name, below=folder) as table:
            return hash_descriptor(table.descriptor).sha256
