"""A table as it was at a moment: in its snapshot, or in the row history if that is all that is left."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime

from dcsync.core.layout import Layout
from dcsync.core.model import AccountName, JobId, RequestId, StoredFile
from dcsync.core.moment import end_of, is_moment
from dcsync.core.names import printable
from dcsync.core.row_history import RESERVED, Step, TableHistory, table_name
from dcsync.core.sql import identifier, text
from dcsync.core.table import TableKind, has_rows
from dcsync.core.table_names import matching, similar, stem
from dcsync.errors import DcsyncError, SnapshotUnclear, TableUnclear
from dcsync.mirror import disk
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.context import ReadContext
from dcsync.ops.diff import LATEST, PREVIOUS, Candidate, by_id, list_candidates, no_snapshots, several_requests
from dcsync.ops.history.files import HistoryFolder
from dcsync.ops.history.statements import valid_at
from dcsync.rows import CsvTable, open_table
from dcsync.rows.table import descriptor_path

_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A table at a moment. Without `stored`, its snapshot no longer has it, and `step` of the row history does."""

    name: str
    candidate: Candidate
    kind: TableKind | None
    stored: StoredFile | None = None
    step: Step | None = None
    history: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An open table: its columns, the query for its rows, and the CSV file if it is one."""

    columns: tuple[str, ...]
    query: str
    csv: CsvTable | None = None

    def reading(self) -> AbstractContextManager[None]:
        """Turn a failure to read a CSV file into `RowsUnreadable`, with the line and the reason."""
        return nullcontext() if self.csv is None else self.csv.reading()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """A data request, with the snapshots that the manifest or the row history knows, oldest first."""

    candidates: Sequence[Candidate]
    history: str
    tables: Mapping[str, TableHistory]


async def find_table(
    context: ReadContext,
    layout: Layout,
    accounts: Sequence[AccountName],
    moment: str,
    table: str,
    *,
    request: str | None = None,
) -> Past:
    """Find a table at a moment: a day, a time, a job ID or its beginning, `latest` or `previous`.

    A day means its last snapshot, or the newest one before it. Raises `SnapshotUnclear` and `TableUnclear`, which name
    the choices.
    """
    groups = await _groups(context, layout, accounts, request)
    if not groups:
        raise no_snapshots(request)
    found: list[Past] = []
    errors: list[DcsyncError] = []
    for group, candidate in _meant(groups, moment, context):
        try:
            found.append(await _table_of(context, group, candidate, table))
        except (SnapshotUnclear, TableUnclear) as error:
            errors.append(error)
    if len(found) > 1:
        raise several_requests(moment, [past.candidate for past in found])
    if not found:
        raise errors[0]
    return found[0]


def _meant(groups: Sequence[_Group], moment: str, context: ReadContext) -> list[tuple[_Group, Candidate]]:
    """Return the snapshot that the moment means for each data request that has one."""
    if not (moment in {LATEST, PREVIOUS} or is_moment(moment)):
        candidate = by_id([each for group in groups for each in group.candidates], moment)
        return [(group, candidate) for group in groups if candidate in group.candidates]
    found = [(group, _newest(group.candidates, moment, context)) for group in groups]
    chosen = [(group, candidate) for group, candidate in found if candidate is not None]
    if not chosen:
        raise _none(groups, moment, context)
    return chosen


def _none(groups: Sequence[_Group], moment: str, context: ReadContext) -> SnapshotUnclear:
    times = [each.completed_at for group in groups for each in group.candidates if each.completed_at is not None]
    if not is_moment(moment) or not times:
        return SnapshotUnclear(f"no snapshot with all its tables is {moment}", hint="name a day or a job ID")
    first = min(times).astimezone(context.zone)
    return SnapshotUnclear(f"no snapshot is as old as {moment}: the first one is of {first:%Y-%m-%d %H:%M}")


def _newest(candidates: Sequence[Candidate], moment: str, context: ReadContext) -> Candidate | None:
    if not is_moment(moment):
        whole = [candidate for candidate in candidates if not (candidate.is_reduced or candidate.is_pruned)]
        place = -1 if moment == LATEST else -2
        return whole[place] if len(whole) >= -place else None
    try:
        until = end_of(moment, context.zone)
    except (ValueError, OverflowError):
        raise SnapshotUnclear(f"{printable(moment)} is not a valid day or time") from None
    return next((each for each in reversed(candidates) if each.completed_at and each.completed_at <= until), None)


async def _groups(
    context: ReadContext, layout: Layout, accounts: Sequence[AccountName], request: str | None
) -> list[_Group]:
    by_request: defaultdict[tuple[AccountName, RequestId], list[Candidate]] = defaultdict(list)
    for candidate in await list_candidates(context, accounts, request, with_pruned=True):
        by_request[candidate.group].append(candidate)
    found = []
    for candidates in by_request.values():
        newest = candidates[-1]
        folder = layout.history_folder(newest.folder, newest.slug)
        tables = await context.disk.run(_tables_of, context.root, folder, newest.request)
        found.append(_Group(candidates=_with_steps(candidates, tables), history=folder, tables=tables))
    return found


def _tables_of(root: MirrorRoot, folder: str, request: RequestId) -> Mapping[str, TableHistory]:
    try:
        return HistoryFolder(root, folder, request).read().tables
    except DcsyncError:
        # A history that cannot be read takes no snapshot away.
        return {}


def _with_steps(candidates: Sequence[Candidate], tables: Mapping[str, TableHistory]) -> Sequence[Candidate]:
    """Return the snapshots and those that only the row history knows, for example after a rebuild of the manifest."""
    known = {candidate.job for candidate in candidates}
    times: dict[JobId, datetime] = {}
    for history in tables.values():
        times |= {step.job: step.time for step in history.steps if step.job not in known}
    some = candidates[0]
    only = [
        Candidate(
            account=some.account,
            request=some.request,
            slug=some.slug,
            description=some.description,
            job=job,
            folder=f"{some.slug} of {time:%Y-%m-%d %H:%M}Z",
            completed_at=time,
            is_pruned=True,
        )
        for job, time in times.items()
    ]
    dated = [each for each in (*candidates, *only) if each.completed_at is not None]
    undated = [each for each in candidates if each.completed_at is None]
    return [*undated, *sorted(dated, key=lambda each: (each.completed_at, each.job))]


async def _table_of(context: ReadContext, group: _Group, candidate: Candidate, table: str) -> Past:
    snapshot = await context.manifest.history.snapshot(candidate.account, candidate.job)
    files = {} if snapshot is None else {each.original: each for each in snapshot.files if has_rows(each.original)}
    names = {table_name(stored.name): original for original, stored in files.items()}
    proved = {name: step for name, history in group.tables.items() if (step := _step_of(history, candidate.job))}
    meant = matching(table, {*files, *(names.get(name, f"{name}.csv") for name in proved)})
    if len(meant) > 1:
        choices = ", ".join(stem(name) for name in meant[:_SHOWN])
        raise TableUnclear(f"{printable(table)!r} can mean {choices}")
    if not meant:
        raise await _missing(context, group, candidate, table, {*files, *(f"{name}.csv" for name in group.tables)})
    (name,) = meant
    stored = files.get(name)
    file = table_name(name if stored is None else stored.name)
    step = proved.get(file)
    kind = group.tables[file].kind if stored is None else stored.kind
    is_there = stored is not None and await context.disk.run(
        _is_there, context.root, f"{candidate.folder}/{stored.name}"
    )
    if step is not None and (not is_there or kind is TableKind.DELTA):
        return Past(name=name, candidate=candidate, kind=kind, step=step, history=f"{group.history}/{file}.parquet")
    return Past(name=name, candidate=candidate, kind=kind, stored=stored)


async def _missing(
    context: ReadContext, group: _Group, candidate: Candidate, table: str, names: set[str]
) -> SnapshotUnclear | TableUnclear:
    """Return the error for a table that neither a snapshot nor the history has, which says what there is."""
    others = [each for each in group.candidates if not (each.is_reduced or each.is_pruned)]
    newest = None
    if others:
        newest = await context.manifest.history.snapshot(others[-1].account, others[-1].job)
    known = names | ({stored.original for stored in newest.files if has_rows(stored.original)} if newest else set())
    close = [] if matching(table, known) else similar(table, known)
    is_whole = not (candidate.is_pruned or candidate.is_reduced)
    if close or is_whole:
        hint = f"did you mean {' or '.join(close)}?" if close else None
        return TableUnclear(f"{candidate.folder} has no table named {printable(table)!r}", hint=hint)
    lost = "pruned" if candidate.is_pruned else "reduced"
    days = sorted(
        {f"{each.completed_at.astimezone(context.zone):%Y-%m-%d}" for each in others if each.completed_at}, reverse=True
    )
    there = ", ".join(days[:_SHOWN]) + (f" and {len(days) - _SHOWN} more" if len(days) > _SHOWN else "")
    message = (
        f"the snapshot {candidate.folder} was {lost}, and the row history does not have its {printable(stem(table))}"
    )
    return SnapshotUnclear(message, hint=f"whole snapshots are of {there or 'no day'}")


def _step_of(history: TableHistory, job: JobId) -> Step | None:
    return next((step for step in history.steps if step.job == job), None)


def _is_there(root: MirrorRoot, path: str) -> bool:
    try:
        with (
            disk.disk_errors_but_missing(f"reading {disk.shown(path)}"),
            disk.parent_of(path, below=root.descriptor) as (folder, name),
        ):
            return disk.is_there(name, below=folder)
    except FileNotFoundError:
        return False


@contextmanager
def opened_table(root: MirrorRoot, past: Past) -> Iterator[Source]:
    """Open a table that was found. Blocks. Raises `DiskError`s, and `RowsUnreadable` if its header cannot be used."""
    with ExitStack() as stack:
        if past.stored is not None:
            path = f"{past.candidate.folder}/{past.stored.name}"
            with disk.disk_errors(f"reading {disk.shown(path)}"):
                table = stack.enter_context(open_table(path, below=root.descriptor))
            yield Source(columns=table.columns, query=f"SELECT * FROM {table.source}", csv=table)
            return
        assert past.step is not None  # noqa: S101 - one of the two is there
        with disk.disk_errors(f"reading {disk.shown(past.history)}"):
            descriptor = disk.open_file(past.history, below=root.descriptor)
        stack.callback(os.close, descriptor)
        columns = tuple(name for name in past.step.columns if name not in RESERVED)
        shown = ", ".join(map(identifier, columns))
        kind = past.kind or TableKind.FULL
        query = f"SELECT {shown} FROM read_parquet({text(descriptor_path(descriptor))})"
        yield Source(columns=columns, query=f"{query} WHERE {valid_at(kind, past.step.time)}")
