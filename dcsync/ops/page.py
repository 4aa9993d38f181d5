"""The report page and `views.sql` in the mirror's root, rewritten after each run. Neither fails a run."""

from __future__ import annotations

import base64
import glob
import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dcsync import __version__
from dcsync.core import anomaly, views
from dcsync.core import diff as diffing
from dcsync.core import page as report
from dcsync.core.alerts import AlertCode
from dcsync.core.column_types import Described
from dcsync.core.coverage import NO_COVERAGE
from dcsync.core.kinds import kind_of
from dcsync.core.lifecycle import LOSSES, WAS_PUBLISHED
from dcsync.core.model import AccountName, Job, JobId, RequestId, Snapshot, StoredFile
from dcsync.core.page import AccountHistory, Missing, RequestHistory
from dcsync.core.page_view import Page
from dcsync.core.ports import KnownRequest
from dcsync.core.row_changes import RowChanges
from dcsync.core.row_history import table_name
from dcsync.core.skipped_slots import skipped_slots
from dcsync.core.summary import PastSnapshot
from dcsync.core.views import Header, RequestTables, TableHistory
from dcsync.manifest import SnapshotRows
from dcsync.manifest.broken import BrokenParts
from dcsync.mirror import disk
from dcsync.mirror.described import describe_tables
from dcsync.mirror.latest import LatestKind
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.alerts.boundary import Part, contain
from dcsync.ops.context import SyncContext
from dcsync.ops.history.changes import read_changes
from dcsync.ops.status import AccountStatus

if TYPE_CHECKING:
    import jinja2

PAGE_NAME = "index.html"
VIEWS_NAME = "views.sql"
#: The row trends of changed tables cover this many snapshots.
_SPARK_SNAPSHOTS = 30


async def write_report(context: SyncContext, accounts: Sequence[AccountStatus], *, stale_after: timedelta) -> bool:
    """Write `index.html` and `views.sql` for all of these accounts, even if the run was limited to some of them.

    The page says that it is outdated if it is not written again within `stale_after`. A file that cannot be written is
    an alert. No error is raised. Return whether both were written.
    """
    collected: list[_Collected] = []

    async def page() -> None:
        collected.append(await _Collector(context).collect(accounts))
        await context.disk.run(_write_page, context, collected[0].accounts, stale_after)

    async def database_views() -> None:
        await context.disk.run(_write_views, context, collected[0].requests)

    parts = BrokenParts(context.manifest, None)
    is_written = await contain(parts, _part(PAGE_NAME, "the report page"), page)
    if not collected:
        return False
    return await contain(parts, _part(VIEWS_NAME, "the file of DuckDB views"), database_views) and is_written


async def report_content(context: SyncContext, accounts: Sequence[AccountStatus]) -> Sequence[object]:
    """Return a value that is the same as long as both files would be, apart from the times of the last polls."""
    history, root = context.manifest.history, context.root.descriptor
    return [
        await context.disk.run(lambda: all(_is_plain_file(name, root) for name in (PAGE_NAME, VIEWS_NAME))),
        *[replace(account, last_poll=None, last_success=None) for account in accounts],
        *[await history.fingerprint(account.name) for account in accounts],
    ]


def _is_plain_file(name: str, folder: int) -> bool:
    try:
        return disk.is_plain_file(os.stat(name, dir_fd=folder, follow_symlinks=False))
    except OSError:
        return False


def _part(name: str, what: str) -> Part:
    return Part(
        code=AlertCode.P_REPORT,
        subject=name,
        name=f"writing {what}",
        next_try="the next poll writes it again",
    )


def render_page(page: Page) -> str:
    """Return the page as HTML. Everything is escaped, and an unknown name in the template is an error."""
    template, script = _template()
    # The only script of the page. Its hash in the page's policy allows it and no other, and nothing is put into it.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.render(page=page, script=script, script_hash=f"sha256-{digest}")


@cache
def _template() -> tuple[jinja2.Template, str]:
    """Return the template and the script. To compile the template takes 20 times as long as to fill it."""
    # Imported here because the import takes 60 ms, and most commands write no report.
    import jinja2

    loader = jinja2.PackageLoader("dcsync.ops")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("index.html.j2"), loader.get_source(environment, "age.js")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Collected:
    accounts: Sequence[AccountHistory]
    requests: Sequence[RequestTables]


def _write_page(context: SyncContext, accounts: Sequence[AccountHistory], stale_after: timedelta) -> None:
    """Render and write the report page. Blocks."""
    page = report.page(
        accounts, now=context.clock.now(), zone=context.settings.zone, version=__version__, stale_after=stale_after
    )
    context.root.check_still_there()
    context.root.replace_file(PAGE_NAME, render_page(page).encode("utf-8", "replace"))


def _write_views(context: SyncContext, requests: Sequence[RequestTables]) -> None:
    """Render and write the views. Blocks."""
    context.root.check_still_there()
    present = [_present(context.root.path, request) for request in requests]
    root = str(context.root.path.absolute())
    sql = views.render(root, present, written_at=context.clock.now(), zone=context.settings.zone)
    context.root.replace_file(VIEWS_NAME, sql.encode())


class _Collector:
    """Collects the content of both files from the manifest."""

    def __init__(self, context: SyncContext) -> None:
        self._context = context
        self._history = context.manifest.history

    async def collect(self, accounts: Sequence[AccountStatus]) -> _Collected:
        histories, tables = [], []
        for status in accounts:
            requests, found = await self._account(status)
            tables += found
            histories.append(
                AccountHistory(
                    name=status.name,
                    last_poll=status.last_poll,
                    last_success=status.last_success,
                    # The page shows table warnings with their snapshot, and in more detail.
                    alerts=[item.alert for item in status.alerts if item.alert.code not in anomaly.CODES],
                    requests=requests,
                )
            )
        return _Collected(accounts=histories, requests=tables)

    async def _account(self, status: AccountStatus) -> tuple[list[RequestHistory], list[RequestTables]]:
        account = status.name
        snapshots: defaultdict[RequestId, list[PastSnapshot]] = defaultdict(list)
        missing: defaultdict[RequestId, list[Missing]] = defaultdict(list)
        filled: defaultdict[RequestId, list[Job]] = defaultdict(list)
        async with self._context.manifest.at_one_moment() as moment:
            for past in await moment.history.snapshots(account):
                snapshots[past.request].append(past)
            known_jobs = (await moment.jobs(account, states=WAS_PUBLISHED | LOSSES)).values()
            headers = await moment.history.headers(account)
            requests = (await moment.requests(account)).values()
            kept = {request: [past for past in found if past.is_whole] for request, found in snapshots.items()}
            last_two = [past.job for found in kept.values() for past in found[-2:]]
            # One query for all data requests: there may be hundreds.
            stored = await SnapshotRows(moment).snapshots(account, last_two)
        for known in known_jobs:
            filled[known.job.request_id].append(known.job)
            if known.state in LOSSES and known.job.completed_at is not None:
                words = f"lost: {known.reason or known.state.value}"
                missing[known.job.request_id].append(Missing(completed_at=known.job.completed_at, words=words))
        freshness = {found.request: found for found in status.requests}
        now = self._context.clock.now()
        files = {job: snapshot for job, (snapshot, _) in stored.items()}
        histories: list[RequestHistory] = []
        found: list[_Found] = []
        for request in sorted(requests, key=lambda request: _newest_first(snapshots[request.id], request)):
            history, newest = await self._request(
                account, request, snapshots[request.id], missing[request.id], kept=kept.get(request.id, []), files=files
            )
            skipped = () if request.document is None else skipped_slots(request.document, filled[request.id], now)
            gaps = status.coverage.get(request.id, NO_COVERAGE).gaps
            histories.append(replace(history, freshness=freshness.get(request.id), skipped=skipped, gaps=gaps))
            if newest is not None and history.folder is not None:
                mine = {name: all_of for (owner, name), all_of in headers.items() if owner == request.id}
                found.append(_Found(request, history.folder, history.latest, newest, kept[request.id], mine))
        return histories, await self._tables(account, found)

    async def _tables(self, account: AccountName, found: Sequence[_Found]) -> list[RequestTables]:
        changed = {one.request.id: {n for n, headers in one.headers.items() if len(headers) > 1} for one in found}
        below = {one.request.id: one.folder for one in found if changed[one.request.id]}
        runs = await self._history.header_runs(account, set().union(*changed.values()), below) if below else {}
        described = await self._context.disk.run(
            lambda: [describe_tables(self._context.root, one.newest.folder, one.newest.files) for one in found]
        )
        layout = self._context.settings.layout
        return [
            replace(
                _tables(account, one, runs, about), history=layout.history_folder(one.newest.folder, one.request.slug)
            )
            for one, about in zip(found, described, strict=True)
        ]

    async def _request(
        self,
        account: AccountName,
        request: KnownRequest,
        past: Sequence[PastSnapshot],
        missing: Sequence[Missing],
        *,
        kept: Sequence[PastSnapshot],
        files: Mapping[JobId, Snapshot],
    ) -> tuple[RequestHistory, Snapshot | None]:
        newest = files.get(kept[-1].job) if kept else None
        before = files.get(kept[-2].job) if len(kept) > 1 else None
        difference = None if newest is None or before is None else diffing.compare(before.files, newest.files)
        folder = latest = None
        settings = self._context.settings
        if newest is not None and settings.layout.holds_one_request:
            folder = "/".join(newest.folder.split("/")[: len(settings.layout.request_segments)])
            if not request.is_delta and settings.latest is not LatestKind.NONE:
                latest = f"{folder}/{settings.layout.latest_name}"
        changes = None
        if newest is not None and before is not None:
            history_folder = settings.layout.history_folder(newest.folder, request.slug)
            changes = await self._context.disk.run(_changes_between, self._context.root, history_folder, before, newest)
        changed = {table.name for table in difference.tables} if difference is not None else set()
        jobs: list[JobId] = [snapshot.job for snapshot in kept[-_SPARK_SNAPSHOTS:]]
        history = RequestHistory(
            id=request.id,
            description=request.description,
            folder=folder,
            latest=latest,
            is_delta=request.is_delta,
            snapshots=past,
            missing=missing,
            newest=difference,
            changes=changes,
            rows=await self._history.row_counts(account, jobs, changed) if changed else {},
        )
        return history, newest


def _changes_between(root: MirrorRoot, folder: str, before: Snapshot, after: Snapshot) -> RowChanges | None:
    """Return the rows that the row history counted between two snapshots, if these are the ones. Blocks."""
    found = read_changes(root, folder)
    return found if found is not None and (found.job, found.against) == (after.job, before.job) else None


def _newest_first(past: Sequence[PastSnapshot], request: KnownRequest) -> tuple[float, str]:
    completed = past[-1].completed_at if past else None
    return (0.0 if completed is None else -completed.timestamp(), request.slug)


@dataclass(frozen=True, slots=True)
class _Found:
    """A data request with snapshots. `headers` are those of its tables, by their name on disk."""

    request: KnownRequest
    folder: str
    latest: str | None
    newest: Snapshot
    kept: Sequence[PastSnapshot]
    headers: Mapping[str, Sequence[Header]]


def _tables(
    account: AccountName,
    found: _Found,
    runs: Mapping[tuple[RequestId, str], Sequence[tuple[str, Header]]],
    described: Mapping[str, Described],
) -> RequestTables:
    above = f"{found.folder}/"
    files = {stored.name: stored for stored in found.newest.files}
    return RequestTables(
        account=account,
        slug=found.request.slug,
        description=found.request.description,
        folder=found.folder,
        latest=found.latest,
        depth=found.newest.folder.count("/") - found.folder.count("/"),
        snapshots=[
            (past.completed_at, past.folder.removeprefix(above))
            for past in found.kept
            if past.completed_at is not None and past.folder.startswith(above)
        ],
        tables=[
            _table(name, headers, runs.get((found.request.id, name), ()), files.get(name), described)
            for name, headers in sorted(found.headers.items())
        ],
    )


def _table(
    name: str,
    headers: Sequence[Header],
    runs: Sequence[tuple[str, Header]],
    newest: StoredFile | None,
    described: Mapping[str, Described],
) -> TableHistory:
    facts = None if newest is None else newest.table
    original = name if newest is None else newest.original
    return TableHistory(
        name=name,
        headers=headers,
        runs=runs,
        columns=None if facts is None or facts.is_cut else facts.header,
        is_current=newest is not None and newest.size > 0,
        types=described[original].types if original in described else {},
        kind=kind_of(original, None) if newest is None else newest.kind,
    )


def _present(root: Path, request: RequestTables) -> RequestTables:
    """Return the data request with the tables whose files exist. DuckDB refuses a view without any file. Blocks."""
    tables = []
    for table in request.tables:
        parquet = f"{request.history}/{table_name(table.name)}.parquet"
        found = replace(table, parquet=parquet if _is_file(root / parquet) else None)
        if request.latest is not None and _is_file(root / request.latest / table.name):
            tables.append(found)
        elif next(root.glob(glob.escape(request.folder) + "/*" * request.depth + "/" + glob.escape(table.name)), None):
            tables.append(replace(found, is_current=False))
    # The row history of a table outlives its snapshots.
    names = {table_name(table.name) for table in tables}
    paths = sorted(root.glob(glob.escape(request.history) + "/*.parquet"))
    tables += [
        TableHistory(name=f"{path.stem}.csv", headers=(), parquet=f"{request.history}/{path.name}", is_current=False)
        for path in paths
        if path.stem not in names
    ]
    return replace(request, tables=tables)


def _is_file(path: Path) -> bool:
    """Return whether a file exists. A folder that cannot be read has no view, and takes no other view away."""
    try:
        return path.is_file()
    except OSError:
        return False
