"""The report page and `views.sql` in the mirror's root, rewritten after each run. Neither fails a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from dcsync import __version__
from dcsync.core import anomaly, views
from dcsync.core import diff as diffing
from dcsync.core import page as report
from dcsync.core.lifecycle import LOSSES
from dcsync.core.model import AccountName, JobId, RequestId, Snapshot
from dcsync.core.page import AccountHistory, Missing, Page, RequestHistory
from dcsync.core.ports import KnownRequest
from dcsync.core.summary import PastSnapshot
from dcsync.core.views import RequestTables, TableHistory
from dcsync.errors import DiskError, ManifestError, MirrorError
from dcsync.mirror.latest import LatestKind
from dcsync.ops.context import SyncContext
from dcsync.ops.status import AccountStatus

log = structlog.get_logger(__name__)

PAGE_NAME = "index.html"
VIEWS_NAME = "views.sql"
#: The row trends of changed tables cover this many snapshots.
_SPARK_SNAPSHOTS = 30


async def write_report(context: SyncContext, accounts: Sequence[AccountStatus]) -> None:
    """Write `index.html` and `views.sql` for all of these accounts, even if the run was limited to some of them.

    Errors are logged, not raised.
    """
    try:
        collected = await _Collector(context).collect(accounts)
        await context.disk.run(_write, context, collected)
    except (DiskError, ManifestError, MirrorError) as error:
        log.warning("report not written", code=error.code, error=error.message, hint=error.advice)


def render_page(page: Page) -> str:
    """Return the page as HTML. Everything is escaped, and an unknown name in the template is an error."""
    # Imported here because the import takes 60 ms, and most commands write no report.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dcsync.ops"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("index.html.j2").render(page=page)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Collected:
    accounts: Sequence[AccountHistory]
    requests: Sequence[RequestTables]


def _write(context: SyncContext, collected: _Collected) -> None:
    """Render and write both files. Blocks."""
    now = context.clock.now()
    page = report.page(collected.accounts, now=now, zone=context.settings.zone, version=__version__)
    context.root.check_still_there()
    context.root.replace_file(PAGE_NAME, render_page(page).encode("utf-8", "replace"))
    sql = views.render(str(context.root.path.absolute()), collected.requests, written_at=now)
    # A path that is not UTF-8 is written unchanged.
    context.root.replace_file(VIEWS_NAME, sql.encode("utf-8", "surrogateescape"))


class _Collector:
    """Collects the content of both files from the manifest."""

    def __init__(self, context: SyncContext) -> None:
        self._context = context
        self._history = context.manifest.history

    async def collect(self, accounts: Sequence[AccountStatus]) -> _Collected:
        histories, tables = [], []
        for status in accounts:
            requests, found = await self._account(status.name)
            tables += found
            histories.append(
                AccountHistory(
                    name=status.name,
                    last_poll=status.last_poll,
                    last_success=status.last_success,
                    # The page shows table warnings with their snapshot, and in more detail.
                    alerts=[
                        (item.alert.code, item.alert.message)
                        for item in status.alerts
                        if item.alert.code not in anomaly.CODES
                    ],
                    requests=requests,
                )
            )
        return _Collected(accounts=histories, requests=tables)

    async def _account(self, account: AccountName) -> tuple[list[RequestHistory], list[RequestTables]]:
        snapshots: defaultdict[RequestId, list[PastSnapshot]] = defaultdict(list)
        for past in await self._history.snapshots(account):
            snapshots[past.request].append(past)
        missing: defaultdict[RequestId, list[Missing]] = defaultdict(list)
        for known in (await self._context.manifest.jobs(account, states=LOSSES)).values():
            if known.job.completed_at is not None:
                words = f"lost: {known.reason or known.state.value}"
                missing[known.job.request_id].append(Missing(completed_at=known.job.completed_at, words=words))
        headers = await self._history.headers(account)
        requests = (await self._context.manifest.requests(account)).values()
        histories, tables = [], []
        for request in sorted(requests, key=lambda request: _newest_first(snapshots[request.id], request)):
            history, newest = await self._request(account, request, snapshots[request.id], missing[request.id])
            histories.append(history)
            if newest is not None and history.folder is not None:
                mine = {name: found for (owner, name), found in headers.items() if owner == request.id}
                tables.append(_tables(account, request, history.folder, history.latest, newest, mine))
        return histories, tables

    async def _request(
        self, account: AccountName, request: KnownRequest, past: Sequence[PastSnapshot], missing: Sequence[Missing]
    ) -> tuple[RequestHistory, Snapshot | None]:
        kept = [snapshot for snapshot in past if not snapshot.is_pruned]
        newest = await self._history.snapshot(account, kept[-1].job) if kept else None
        before = await self._history.snapshot(account, kept[-2].job) if len(kept) > 1 else None
        difference = None if newest is None or before is None else diffing.compare(before.files, newest.files)
        folder = latest = None
        settings = self._context.settings
        if newest is not None and settings.layout.holds_one_request:
            folder = "/".join(newest.folder.split("/")[: len(settings.layout.request_segments)])
            if not request.is_delta and settings.latest is not LatestKind.NONE:
                latest = f"{folder}/{settings.layout.latest_name}"
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
            rows=await self._history.row_counts(account, jobs, changed) if changed else {},
        )
        return history, newest


def _newest_first(past: Sequence[PastSnapshot], request: KnownRequest) -> tuple[float, str]:
    completed = past[-1].completed_at if past else None
    return (0.0 if completed is None else -completed.timestamp(), request.slug)


def _tables(
    account: AccountName,
    request: KnownRequest,
    folder: str,
    latest: str | None,
    newest: Snapshot,
    headers: dict[str, Sequence[tuple[str, ...] | None]],
) -> RequestTables:
    sizes = {stored.name: stored.size for stored in newest.files}
    return RequestTables(
        account=account,
        slug=request.slug,
        description=request.description,
        folder=folder,
        latest=latest,
        depth=newest.folder.count("/") - folder.count("/"),
        tables=[
            TableHistory(name=name, headers=found, size=sizes.get(name)) for name, found in sorted(headers.items())
        ],
    )
