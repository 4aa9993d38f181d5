"""Bring the row histories of all data requests up to date: find the tables, build in a thread, record the alerts."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Final, TypeAlias

import structlog

from dcsync.core.alerts import AlertCode
from dcsync.core.delta_check import full_extracts, has_same_projects
from dcsync.core.layout import history_folders
from dcsync.core.model import AccountName, RequestId, Snapshot
from dcsync.core.ports import KnownRequest
from dcsync.core.row_history import Extract, RequestState, Wait, table_name
from dcsync.core.summary import PastSnapshot
from dcsync.core.table import TableKind
from dcsync.errors import DcsyncError, DiskError, MirrorLocked, MirrorTampered, RowsFailed, RowsInterrupted
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.ops.context import AccountSettings, HistorySettings, MirrorContext
from dcsync.ops.history.build import Building, Failed, Options, Outcome, RequestTables
from dcsync.ops.history.changes import read_changes, update_changes
from dcsync.ops.history.files import HistoryFolder
from dcsync.ops.history.thread import FromThread, Stopping, in_thread
from dcsync.ops.history.unproved import is_of_verification, subject_of
from dcsync.ops.history.verify import Verified, Verifying
from dcsync.ops.integrity.content_reader import ReadingObserver, Unwatched
from dcsync.ops.integrity.history_files import building_lock

log = structlog.get_logger(__name__)

#: How often a build checks if another host has finished the same data request.
_LOCK_S: Final = 0.5
_EVERY_TABLE: Final = HistorySettings(tables=("*",))
#: Full tables by their file names in lower case.
_Fulls: TypeAlias = Mapping[str, Sequence[Extract]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What a command chose: everything, or some data requests and tables. How it works on them."""

    requests: Collection[str] = ()
    tables: Collection[str] = ()
    retries: bool = False
    rebuilds: bool = False
    accepts_loss: bool = False

    @property
    def is_thorough(self) -> bool:
        """Whether snapshots are looked at again from which no table needs a step."""
        return self.retries or self.rebuilds

    @property
    def is_all(self) -> bool:
        """Whether it is everything."""
        return not (self.requests or self.tables)

    def has_request(self, request: KnownRequest) -> bool:
        """Say whether a data request is chosen: by its ID, its folder's name, or a glob for its description."""
        return not self.requests or any(
            name in {request.id, request.slug} or fnmatchcase(request.description, name) for name in self.requests
        )

    def has_table(self, name: str) -> bool:
        """Say whether a table is chosen, by the name of its history."""
        return not self.tables or any(
            fnmatchcase(name, glob) or fnmatchcase(f"{name}.csv", glob) for glob in self.tables
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReport:
    """What happened to the histories of a data request."""

    account: AccountName
    request: KnownRequest
    folder: str
    outcome: Outcome
    settings: HistorySettings

    def path_of(self, table: str) -> str:
        """Return the path of a table's history, or of all histories for an empty name."""
        return f"{self.folder}/{table}.parquet" if table else self.folder

    @property
    def waiting(self) -> Mapping[str, Wait]:
        """The tables that wait for another extract, by name."""
        tables = self.outcome.state.tables
        return {
            name: table.waits
            for name, table in tables.items()
            if table.waits is not None and self.settings.wants(f"{name}.csv")
        }


@dataclass(slots=True, kw_only=True)
class HistoryReport:
    """What happened to all histories."""

    requests: list[RequestReport] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """The number of steps that were taken."""
        return sum(found.outcome.steps for found in self.requests)

    @property
    def is_complete(self) -> bool:
        """Whether every table is up to date."""
        return not any(item.outcome.failed or item.outcome.kept or item.waiting for item in self.requests)


async def catch_up(
    context: MirrorContext,
    accounts: Sequence[AccountSettings],
    settings: HistorySettings,
    *,
    chosen: Chosen | None = None,
    observer: ReadingObserver | None = None,
) -> HistoryReport:
    """Take the steps that are missing, oldest first. Cancelling ends it within a moment, and loses one step at most.

    A table that fails is an alert. Raises `ConfigError` without DuckDB, and errors of the manifest.
    """
    report = HistoryReport()
    chosen = chosen or Chosen()
    for account in accounts:
        found = await _Account(context, account.name, settings, chosen, observer or Unwatched()).catch_up()
        report.requests += found
        parts = [part for item in found for part in _alerts(item)]
        await _record(context, account.name, parts, found, chosen)
    return report


async def verify(
    context: MirrorContext,
    accounts: Sequence[AccountSettings],
    settings: HistorySettings,
    *,
    chosen: Chosen | None = None,
    observer: ReadingObserver | None = None,
) -> list[Verified]:
    """Prove all steps again whose snapshots are in the mirror. Writes nothing. Raises `ConfigError` without DuckDB."""
    chosen, observer = chosen or Chosen(), observer or Unwatched()
    return [
        verified
        for account in accounts
        for verified in await _Account(context, account.name, settings, chosen, observer).verify()
    ]


async def _record(
    context: MirrorContext,
    account: AccountName,
    parts: Sequence[BrokenPart],
    found: Sequence[RequestReport],
    chosen: Chosen,
) -> None:
    """Record the alerts of an account. Those of tables that were not looked at stay."""
    broken = BrokenParts(context.manifest, account)
    looked_at = {
        _subject(item.request, name) for item in found for name in item.outcome.state.tables if chosen.has_table(name)
    }
    anew = {subject_of(item.request.slug, name) for item in found for name in item.outcome.anew}
    # Those of data requests without snapshots, and of tables without a history now, end with the history.
    there = [(subject_of(item.request.slug, ""), item.settings) for item in found]

    def keeps(part: BrokenPart) -> bool:
        if not is_of_verification(part):
            return not (chosen.is_all or part.subject in looked_at)
        name = part.subject.rpartition("/")[2]
        is_wanted = any(part.subject.startswith(slug) and given.wants(f"{name}.csv") for slug, given in there)
        return part.subject not in anew and (is_wanted or not chosen.is_all)

    await broken.replace([AlertCode.R_HISTORY], parts, keeps=keeps)


def _subject(request: KnownRequest, table: str) -> str:
    return f"{request.slug}/{table}"


def _alerts(found: RequestReport) -> list[BrokenPart]:
    parts = [
        _alert(found, failed.table, "is not up to date", failed.reason, failed.hint) for failed in found.outcome.failed
    ]
    for name, wait in found.waiting.items():
        parts.append(_alert(found, name, f"does not have {wait.path}", wait.reason, ""))
    return parts


def _alert(found: RequestReport, table: str, what: str, reason: str, hint: str) -> BrokenPart:
    return BrokenPart(
        code=AlertCode.R_HISTORY,
        subject=_subject(found.request, table),
        message=f"the row history {found.path_of(table)} {what}: {reason}",
        hint=hint,
    )


class _Account:
    """The histories of one account."""

    def __init__(
        self,
        context: MirrorContext,
        account: AccountName,
        settings: HistorySettings,
        chosen: Chosen,
        observer: ReadingObserver,
    ) -> None:
        self._context = context
        self._account = account
        self._settings = settings
        self._chosen = chosen
        self._observer = observer
        #: The data requests of which the mirror once had more tables.
        self._pruned: set[RequestId] = set()

    async def catch_up(self) -> list[RequestReport]:
        return [await self._contained(request, there) for request, there in await self._requests()]

    async def _contained(self, request: KnownRequest, there: Sequence[PastSnapshot]) -> RequestReport:
        """Build one data request. A folder that cannot be used stops no other data request."""
        try:
            return await self._request(request, there)
        except RowsInterrupted:
            raise
        except (DiskError, MirrorTampered, RowsFailed) as error:
            folder = self._context.settings.layout.history_folder(there[-1].folder, request.slug)
            outcome = Outcome(failed=[Failed(table="", reason=error.message, hint=error.advice or "")])
            return RequestReport(
                account=self._account, request=request, folder=folder, outcome=outcome, settings=self._settings
            )

    async def _requests(self) -> list[tuple[KnownRequest, Sequence[PastSnapshot]]]:
        """Return the chosen data requests with the snapshots that are in the mirror, oldest first."""
        if not self._settings.tables:
            return []
        requests = await self._context.manifest.requests(self._account)
        there: dict[RequestId, list[PastSnapshot]] = {}
        for snapshot in await self._context.manifest.history.snapshots(self._account):
            if not snapshot.is_pruned:
                there.setdefault(snapshot.request, []).append(snapshot)
            if not snapshot.is_whole:
                self._pruned.add(snapshot.request)
        return [
            (requests[identifier], snapshots)
            for identifier, snapshots in there.items()
            if identifier in requests and self._chosen.has_request(requests[identifier])
        ]

    async def _request(self, request: KnownRequest, there: Sequence[PastSnapshot]) -> RequestReport:
        folder = self._context.settings.layout.history_folder(there[-1].folder, request.slug)
        files = HistoryFolder(self._context.root, folder, request.id, request.slug)
        known = await self._context.disk.run(files.read)
        if known == RequestState():
            await self._context.disk.run(
                files.take_over, history_folders([past.folder for past in there], request.slug)
            )
            known = await self._context.disk.run(files.read)
        done = known.jobs if known.wanted == self._settings.tables and not self._chosen.is_thorough else ()
        needed = [snapshot for snapshot in there if snapshot.job not in done]
        outcome = Outcome(state=known)
        fulls = await self._fulls(request) if request.is_delta else {}
        retries = self._chosen.retries
        is_due = needed or any(
            full_extracts(name, table, fulls, retries=retries) for name, table in known.tables.items()
        )
        if is_due or await self._context.disk.run(self._needs_look, files, known):
            outcome = await self._build(request, folder, needed, there, fulls)
            if outcome.needs_all:
                first = outcome
                outcome = await self._build(request, folder, there, there, fulls)
                outcome.steps, outcome.written = outcome.steps + first.steps, outcome.written + first.written
                outcome.anew |= first.anew
        if not self._chosen.tables:
            await self._count_changes(folder, [snapshot for snapshot in there if snapshot.is_whole], outcome)
        return RequestReport(
            account=self._account, request=request, folder=folder, outcome=outcome, settings=self._settings
        )

    def _needs_look(self, files: HistoryFolder, known: RequestState) -> bool:
        """Say whether the file of a table is lost, or is not the recorded one. Blocks."""
        return any(
            self._wants(name) and not (history.is_sealed and files.has_recorded(name, history))
            for name, history in known.tables.items()
            if history.steps or history.lost
        )

    def _wants(self, name: str) -> bool:
        return self._settings.wants(f"{name}.csv") and self._chosen.has_table(name)

    async def _count_changes(self, folder: str, there: Sequence[PastSnapshot], outcome: Outcome) -> None:
        """Count the rows that changed on the newest day, for the report. What fails is one more alert."""
        if len(there) < 2:
            return
        context = self._context
        known = await context.disk.run(read_changes, context.root, folder)
        jobs = (there[-1].job, there[-2].job)
        if known is not None and (known.job, known.against, known.wanted) == (*jobs, self._settings.tables):
            return
        after, before = [await context.manifest.history.snapshot(self._account, job) for job in jobs]
        if before is None or after is None:
            return
        try:
            await in_thread(partial(update_changes, context.root, folder, before, after, self._settings))
        except RowsInterrupted:
            raise
        except DcsyncError as error:
            outcome.failed.append(Failed(table="", reason=error.message, hint=error.advice or ""))

    async def verify(self) -> list[Verified]:
        return [await self._settled(request, there) for request, there in await self._requests()]

    async def _settled(self, request: KnownRequest, there: Sequence[PastSnapshot]) -> Verified:
        """Verify once more if a build or a prune changed what was read and a step does not prove."""
        verified = await self._verify(request, there)
        if verified.unproved:
            now = next((found for known, found in await self._requests() if known.id == request.id), ())
            if not now:
                return Verified(account=self._account, request=request, folder=verified.folder)
            if verified.is_outdated or now != there:
                return await self._verify(request, now)
        return verified

    async def _verify(self, request: KnownRequest, there: Sequence[PastSnapshot]) -> Verified:
        folder = self._context.settings.layout.history_folder(there[-1].folder, request.slug)
        tables = await self._tables_of(request, folder, there, there)
        verified = Verified(account=self._account, request=request, folder=folder)
        loop = asyncio.get_running_loop()

        def work(stopping: Stopping) -> Verified:
            verifying = Verifying(
                root=self._context.root,
                request=tables,
                memory=self._settings.memory,
                observer=FromThread(loop, self._observer),
                stopping=stopping,
            )
            return verifying.run(verified)

        return await in_thread(work)

    async def _build(
        self,
        request: KnownRequest,
        folder: str,
        needed: Sequence[PastSnapshot],
        there: Sequence[PastSnapshot],
        fulls: _Fulls,
    ) -> Outcome:
        tables = replace(await self._tables_of(request, folder, needed, there), fulls=fulls)
        return await in_thread(partial(self._run, tables, asyncio.get_running_loop()))

    async def _fulls(self, request: KnownRequest) -> _Fulls:
        """Return the full tables in the newest snapshots of the data requests for the same projects."""
        manifest = self._context.manifest
        requests = await manifest.requests(self._account)
        newest = {past.request: past for past in await manifest.history.snapshots(self._account) if past.is_whole}
        found: dict[str, list[Extract]] = {}
        for identifier, past in newest.items():
            other = requests.get(identifier)
            if other is None or not has_same_projects(request.document, other.document):
                continue
            snapshot = await manifest.history.snapshot(self._account, past.job)
            for extract in () if snapshot is None else extracts_of(snapshot, _EVERY_TABLE):
                if extract.kind is TableKind.FULL:
                    found.setdefault(extract.name.casefold(), []).append(extract)
        return found

    async def _tables_of(
        self, request: KnownRequest, folder: str, needed: Sequence[PastSnapshot], there: Sequence[PastSnapshot]
    ) -> RequestTables:
        snapshots = []
        for past in needed:
            snapshot = await self._context.manifest.history.snapshot(self._account, past.job)
            if snapshot is not None:
                snapshots.append(snapshot)
        return RequestTables(
            request=request.id,
            slug=request.slug,
            folder=folder,
            wanted=self._settings.tables,
            # Only a look at all tables is enough to leave a snapshot out the next time.
            jobs=() if self._chosen.tables else tuple(snapshot.job for snapshot in snapshots),
            tables=self._tables(snapshots),
            is_whole=len(needed) == len(there),
            wants=self._wants,
            reduced=tuple(snapshot.folder for snapshot in there if snapshot.is_reduced),
            is_pruned=request.id in self._pruned,
        )

    def _tables(self, snapshots: Sequence[Snapshot]) -> Mapping[str, Sequence[Extract]]:
        found: dict[str, list[Extract]] = {}
        for snapshot in snapshots:
            for extract in extracts_of(snapshot, self._settings):
                name = table_name(extract.name)
                if self._chosen.has_table(name):
                    found.setdefault(name, []).append(extract)
        return dict(sorted(found.items()))

    def _run(self, tables: RequestTables, loop: asyncio.AbstractEventLoop, stopping: Stopping) -> Outcome:
        """Build in a thread, as the only process that builds this data request."""
        observer = FromThread(loop, self._observer)

        def progressed(extract: Extract, number: int, of: int) -> None:
            observer.snapshot(f"{table_name(extract.name)} of {extract.folder}", number, of)
            observer.read(extract.size)

        options = Options(
            memory=self._settings.memory,
            reserve=self._context.settings.min_free,
            retries=self._chosen.retries,
            rebuilds=self._chosen.rebuilds,
            accepts_loss=self._chosen.accepts_loss,
            progressed=progressed,
        )
        root = self._context.root
        while True:
            stopping.check()
            try:
                with building_lock(root, tables.slug):
                    return Building(root, tables, options, stopping).run()
            except MirrorLocked:
                stopping.wait(_LOCK_S)


def extracts_of(snapshot: Snapshot, settings: HistorySettings) -> list[Extract]:
    """Return the tables of a snapshot that have a row history. A snapshot without a time has none."""
    if snapshot.completed_at is None:
        return []
    return [
        Extract(
            job=snapshot.job,
            time=snapshot.completed_at,
            folder=snapshot.folder,
            name=stored.name,
            size=stored.size,
            sha256=stored.sha256,
            rows=None if stored.table is None else stored.table.rows,
            kind=stored.kind,
        )
        for stored in snapshot.files
        if settings.wants(stored.original)
    ]
